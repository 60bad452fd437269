"""Keypoint indices: files that list images of people with the places of their joints, in three formats."""

from __future__ import annotations

import json
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyro_lrp.core.errors import UserError
from pyro_lrp.core.files import read_npz
from pyro_lrp.core.limits import gunzip, refuse_special
from pyro_lrp.people.poses import JOINTS, from_coco
from pyro_lrp.people.vunet_index import as_text, unpickle_arrays

__all__ = ["Keypoints", "read_keypoints"]

_FRAME = 256  # side of the square, in pixels, that the pixels of an .npz or .csv refer to
_CSV_HEADER = "name:keypoints_y:keypoints_x"
_VUNET_KEYS = ("joint_order", "imgs", "joints")
_NPZ_KEYS = ("names", "joint_names", "keypoints_yx")
_COCO = (
    "nose", "neck", "r_shoulder", "r_elbow", "r_wrist", "l_shoulder", "l_elbow", "l_wrist", "r_hip",
    "r_knee", "r_ankle", "l_hip", "l_knee", "l_ankle", "r_eye", "l_eye", "r_ear", "l_ear",
)  # fmt: skip
_UNUSED = ("neck", "r_ear", "l_ear")  # keypoints among these 18 that JOINTS does not contain


class Keypoints(NamedTuple):
    """A keypoint index, row by row.

    Attributes:
        names: Names of the images, each only once.
        joints: :data:`~pyro_lrp.people.JOINTS`, (x, y) in shares of the image, float32 of shape ``(N, 15, 2)``;
            both -1 where one is missing.
        train: Whether an image is a training image, bool of shape ``(N,)``; None if the index does not say.
        of_image: Whether the shares refer to the image's own width and height; otherwise they refer to the side
            of the square whose centre is the image.
    """

    names: list[str]
    joints: Tensor
    train: Tensor | None
    of_image: bool


def read_keypoints(path: Path) -> Keypoints:
    """Read an index in one of three formats, chosen by the file's suffix.

    Args:
        path: One of these.

            - ``.p``, ``.pkl`` or ``.pickle``: the index of the Variational U-Net (Esser et al., 2018), a
              pickled dict of ``joint_order`` (names, :data:`~pyro_lrp.people.JOINTS` among them, in any order),
              ``imgs`` (paths), ``joints`` (an array for each image of (x, y) in [0, 1] of its width and height,
              negative where missing) and perhaps ``train`` (bools). Only arrays, numbers, text, lists and dicts
              are ever unpickled.
            - ``.npz``: ``names`` (N,), ``joint_names`` (18,), and ``keypoints_yx`` (N, 18, 2), pixels (y, x) of
              a square frame of ``frame`` pixels, or of 256; negative where missing.
            - ``.csv`` or ``.csv.gz``: the 18 keypoints of the pose-transfer literature (Siarohin et al., 2018),
              in OpenPose's order and in pixels of the 256x256 frame, -1 where missing; not the pixels of images
              that were cropped to 176x256.

    Raises:
        UserError: If the file has another format, is broken, or has other joints.
    """
    refuse_special(path, "data.index")
    file_name = path.name.lower()
    if file_name.endswith((".p", ".pkl", ".pickle")):
        keypoints = _read_vunet(path)
    elif file_name.endswith(".npz"):
        keypoints = _read_npz(path)
    elif file_name.endswith((".csv", ".csv.gz")):
        keypoints = _read_csv(path)
    else:
        raise UserError(f"data.index: {path} is no .p or .pkl (of VUNet), .npz, .csv or .csv.gz")
    _check_names(path, keypoints.names)
    return keypoints


def _check_names(path: Path, names: list[str]) -> None:
    if not names:
        raise UserError(f"{path} has no images")
    if len(set(names)) < len(names):
        [(name, times)] = Counter(names).most_common(1)
        raise UserError(f"{path} must have each image once, but has {name} {times} times")


# ---------------------------------------------------------------------
# formats
# ---------------------------------------------------------------------


def _read_vunet(path: Path) -> Keypoints:
    index = _vunet_dict(path)
    order = _as_texts(path, "joint_order", index["joint_order"])
    names = _as_texts(path, "imgs", index["imgs"])
    _require(path, "joint_order", order, JOINTS)
    shape = (len(names), len(order), 2)
    shares = _as_numbers(path, "joints", index["joints"], shape)
    columns = [order.index(joint) for joint in JOINTS]
    joints = _mark_missing(shares)[:, columns]
    train = None
    if index.get("train") is not None:
        flags = _as_numbers(path, "train", index["train"], (len(names),))
        train = torch.from_numpy(flags > 0)
    return Keypoints(names, torch.from_numpy(joints).float(), train, of_image=True)


def _vunet_dict(path: Path) -> dict[str, Any]:
    content = unpickle_arrays(path)
    index = {}
    if isinstance(content, dict):
        for key, value in content.items():
            if isinstance(key, (str, bytes)):
                index[as_text(key)] = value
    if not set(_VUNET_KEYS) <= set(index):
        raise UserError(f"{path} must hold a dict of joint_order, imgs and joints")
    return index


def _read_npz(path: Path) -> Keypoints:
    arrays = read_npz(path)
    if not set(_NPZ_KEYS) <= set(arrays):
        raise UserError(f"{path} must hold the arrays names, joint_names and keypoints_yx")
    names = _as_texts(path, "names", arrays["names"])
    order = _as_texts(path, "joint_names", arrays["joint_names"])
    frame = arrays.get("frame", np.array(_FRAME))
    if frame.size != 1 or frame.dtype.kind not in "iu" or frame.item() < 1:
        raise UserError(f"{path}: frame must be one whole number of pixels, at least 1, got {frame.tolist()!r}")
    shape = (len(names), len(_COCO), 2)
    pixels = _as_numbers(path, "keypoints_yx", arrays["keypoints_yx"], shape)
    joints = _joints_from_pixels(path, pixels, order, frame.item())
    return Keypoints(names, joints, None, of_image=False)


def _read_csv(path: Path) -> Keypoints:
    # The people are in the middle 176 of 256 pixels, but x counts from the outer edge of the border, so nothing
    # has to be added: of the 376 images that have both an .npz with pixels of the 256x256 frame and a row in
    # fasion-annotation-test.csv, all 5,295 visible keypoints agree, and x goes from 9 to 245.
    header, *lines = _csv_lines(path)
    if header.strip() != _CSV_HEADER:
        raise UserError(f"{path} must begin with the header {_CSV_HEADER}, got {header[:80]!r}")
    names = []
    rows = []
    for number, line in enumerate(lines, start=2):
        if line.strip():
            name, points = _csv_row(path, number, line)
            names.append(name)
            rows.append(points)
    pixels = np.array(rows).reshape(-1, len(_COCO), 2)
    joints = _joints_from_pixels(path, pixels, _COCO, _FRAME)
    return Keypoints(names, joints, None, of_image=False)


def _csv_lines(path: Path) -> list[str]:
    """The lines of a plain or gzipped file, at least one."""
    try:
        content = path.read_bytes()
        if path.suffix.lower() == ".gz":
            content = gunzip(content)
        lines = content.decode("utf-8-sig").splitlines()
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise UserError(f"{path} is not readable, or is truncated ({error})") from error
    return lines or [""]


def _csv_row(path: Path, number: int, line: str) -> tuple[str, np.ndarray]:
    """Name and keypoints (y, x) of a row, ``(18, 2)``."""
    try:
        name, y, x = line.rsplit(":", 2)
        columns = [json.loads(y), json.loads(x)]
        points = np.array(columns, dtype=np.float64)
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}, line {number}: expected NAME: [y, ...]: [x, ...] ({error})") from error
    count = len(_COCO)
    if points.shape != (2, count):
        raise UserError(f"{path}, line {number}: expected {count} y and {count} x, found {points.shape}")
    return name.strip(), points.T


# ---------------------------------------------------------------------
# values
# ---------------------------------------------------------------------


def _joints_from_pixels(path: Path, pixels: np.ndarray, order: Sequence[str], frame: int) -> Tensor:
    """JOINTS in shares of a frame, from the pixels (y, x) of keypoints, ``(N, 18, 2)``.

    Pixel coordinates refer to the centres of pixels.
    """
    needed = [name for name in _COCO if name not in _UNUSED]
    _require(path, "joint_names", order, needed)
    count = pixels.shape[1]
    if len(order) != count:
        raise UserError(f"{path}: expected {count} joint_names, found {len(order)}")
    missing = (pixels < 0).any(-1, keepdims=True)
    xy = pixels[..., ::-1]
    shares = np.where(missing, -1.0, (xy + 0.5) / frame)
    return from_coco(torch.from_numpy(shares).float(), list(order))


def _mark_missing(shares: np.ndarray) -> np.ndarray:
    """The same with both coordinates -1 where either is negative, that is, where the joint is missing."""
    missing = (shares < 0).any(-1, keepdims=True)
    return np.where(missing, -1.0, shares)


def _require(path: Path, key: str, names: Sequence[str], needed: Sequence[str]) -> None:
    lacking = [name for name in needed if name not in names]
    if lacking:
        raise UserError(f"{path}: {key} lacks {', '.join(lacking)}; it has {', '.join(names)}")


def _as_numbers(path: Path, key: str, values: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Values as float64 of this shape."""
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise UserError(f"{path}: {key} must be numbers of the shape {shape} ({error})") from error
    if array.shape != shape:
        raise UserError(f"{path}: {key} must have the shape {shape}, found {array.shape}")
    return array


def _as_texts(path: Path, key: str, values: Any) -> list[str]:
    try:
        return [as_text(value) for value in values]
    except TypeError as error:
        raise UserError(f"{path}: {key} must be a list of names ({error})") from error
