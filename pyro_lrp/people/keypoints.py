"""Indices of images of people: which images there are, and where on them the joints lie."""

from __future__ import annotations

import gzip
import json
import pickle
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
from pyro_lrp.people.poses import JOINTS, from_coco

__all__ = ["Keypoints", "read_keypoints"]

_FRAME = 256  # pixels: the side of the square that the pixels of an .npz or .csv are counted in
_HEADER = "name:keypoints_y:keypoints_x"
_COCO = (
    "nose", "neck", "r_shoulder", "r_elbow", "r_wrist", "l_shoulder", "l_elbow", "l_wrist", "r_hip",
    "r_knee", "r_ankle", "l_hip", "l_knee", "l_ankle", "r_eye", "l_eye", "r_ear", "l_ear",
)  # fmt: skip
_UNUSED = ("neck", "r_ear", "l_ear")  # of these 18, what JOINTS does without


class Keypoints(NamedTuple):
    """An index, row by row.

    Attributes:
        names: Of the images, each only once.
        joints: :data:`~pyro_lrp.people.JOINTS`, (x, y) in shares of the image, float32 of shape ``(N, 15, 2)``;
            both -1 where one is missing.
        train: Whether an image is trained on, bool of shape ``(N,)``; None if the index does not say.
        of_image: Whether the shares are of the image's own width and height; else they are of the side of the
            square that it is the centre of.
    """

    names: list[str]
    joints: Tensor
    train: Tensor | None
    of_image: bool


def read_keypoints(path: Path) -> Keypoints:
    """Reads an index in one of three formats, which its name tells.

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
              that were cut down to 176x256.

    Raises:
        UserError: If the file is none of these, is broken, or has other joints.
    """
    name = path.name.lower()
    if name.endswith((".p", ".pkl", ".pickle")):
        found = _vunet(path)
    elif name.endswith(".npz"):
        found = _npz(path)
    elif name.endswith((".csv", ".csv.gz")):
        found = _csv(path)
    else:
        raise UserError(f"data.index: {path} is no .p or .pkl (of VUNet), .npz, .csv or .csv.gz")
    if not found.names:
        raise UserError(f"{path} has no images")
    if len(set(found.names)) < len(found.names):
        [(often, times)] = Counter(found.names).most_common(1)
        raise UserError(f"{path} must have each image once, but has {often} {times} times")
    return found


def _vunet(path: Path) -> Keypoints:
    index = _unpickle(path)
    if isinstance(index, dict):
        index = {_text(key): value for key, value in index.items() if isinstance(key, (str, bytes))}
    if not (isinstance(index, dict) and {"joint_order", "imgs", "joints"} <= set(index)):
        raise UserError(f"{path} must hold a dict of joint_order, imgs and joints")
    order, names = (_texts(path, key, index[key]) for key in ("joint_order", "imgs"))
    _need(path, "joint_order", order, JOINTS)
    shares = _numbers(path, "joints", index["joints"], (len(names), len(order), 2))
    columns = [order.index(joint) for joint in JOINTS]
    train = None
    if index.get("train") is not None:
        train = torch.from_numpy(_numbers(path, "train", index["train"], (len(names),)) > 0)
    return Keypoints(names, torch.from_numpy(_marked(shares)[:, columns]).float(), train, of_image=True)


def _npz(path: Path) -> Keypoints:
    keys = ("names", "joint_names", "keypoints_yx", "frame")
    found = read_npz(path)
    if not set(keys[:3]) <= set(found):
        raise UserError(f"{path} must hold the arrays names, joint_names and keypoints_yx")
    names, order = (_texts(path, key, found[key]) for key in keys[:2])
    frame = found.get("frame", np.array(_FRAME))
    if frame.size != 1 or frame.dtype.kind not in "iu" or frame.item() < 1:
        raise UserError(f"{path}: frame must be one whole number of pixels, at least 1, got {frame.tolist()!r}")
    pixels = _numbers(path, "keypoints_yx", found["keypoints_yx"], (len(names), len(_COCO), 2))
    return Keypoints(names, _of_pixels(path, pixels, order, frame.item()), None, of_image=False)


def _csv(path: Path) -> Keypoints:
    # The people are in the middle 176 of 256 pixels, but x counts from the border's outer edge, so that nothing
    # is added to it: of the 376 images that have both an .npz of pixels of the 256x256 frame and a row in
    # fasion-annotation-test.csv, all 5,295 visible keypoints are the same in both, and x goes from 9 to 245.
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix.lower() == ".gz" else path.read_bytes()
        header, *lines = content.decode("utf-8-sig").splitlines() or [""]
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not readable, or is truncated ({error})") from error
    if header.strip() != _HEADER:
        raise UserError(f"{path} must begin with the header {_HEADER}, got {header[:80]!r}")
    names, rows = [], []
    for number, line in enumerate(lines, start=2):
        if not line.strip():
            continue
        try:
            name, y, x = line.rsplit(":", 2)
            row = np.array([json.loads(y), json.loads(x)], dtype=np.float64)
        except (ValueError, TypeError) as error:
            raise UserError(f"{path}, line {number}: expected NAME: [y, ...]: [x, ...] ({error})") from error
        if row.shape != (2, len(_COCO)):
            raise UserError(
                f"{path}, line {number}: expected {len(_COCO)} y and {len(_COCO)} x, found {row.shape}"
            )
        names.append(name.strip())
        rows.append(row.T)
    pixels = np.array(rows).reshape(-1, len(_COCO), 2)
    return Keypoints(names, _of_pixels(path, pixels, _COCO, _FRAME), None, of_image=False)


def _of_pixels(path: Path, pixels: np.ndarray, order: Sequence[str], frame: int) -> Tensor:
    """JOINTS in shares of a frame, from the pixels (y, x), whose centres count, of ``(N, 18, 2)`` keypoints."""
    _need(path, "joint_names", order, [name for name in _COCO if name not in _UNUSED])
    if len(order) != pixels.shape[1]:
        raise UserError(f"{path}: expected {pixels.shape[1]} joint_names, found {len(order)}")
    missing = (pixels < 0).any(-1, keepdims=True)
    shares = np.where(missing, -1.0, (pixels[..., ::-1] + 0.5) / frame)
    return from_coco(torch.from_numpy(shares).float(), list(order))


def _marked(shares: np.ndarray) -> np.ndarray:
    """The same with both coordinates -1 where one of them is negative, that is, where the joint is missing."""
    return np.where((shares < 0).any(-1, keepdims=True), -1.0, shares)


def _need(path: Path, key: str, found: Sequence[str], wanted: Sequence[str]) -> None:
    lacking = [name for name in wanted if name not in found]
    if lacking:
        raise UserError(f"{path}: {key} lacks {', '.join(lacking)}; it has {', '.join(found)}")


def _numbers(path: Path, key: str, values: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Values as float64 of this shape."""
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise UserError(f"{path}: {key} must be numbers of the shape {shape} ({error})") from error
    if array.shape != shape:
        raise UserError(f"{path}: {key} must have the shape {shape}, found {array.shape}")
    return array


def _texts(path: Path, key: str, values: Any) -> list[str]:
    try:
        return [_text(value) for value in values]
    except TypeError as error:
        raise UserError(f"{path}: {key} must be a list of names ({error})") from error


def _text(value: Any) -> str:
    """Text of Python 3, or the bytes that Python 2 and NumPy may have instead."""
    if isinstance(value, bytes):
        return value.decode("latin1")
    if not isinstance(value, str):
        raise TypeError(f"expected text, found {type(value).__name__}")
    return str(value)


class _Type:
    """Stands for a pickled ``numpy.dtype``: only plain numbers, text and objects."""

    def __init__(self, code: Any, *_: Any) -> None:
        self.plain = np.dtype(_text(code))
        if self.plain.kind not in "biufSUO":
            raise pickle.UnpicklingError(f"an array of {self.plain}")

    def __setstate__(self, state: tuple) -> None:
        self.plain = self.plain.newbyteorder(">" if _text(state[1]) == ">" else "<")


class _Array:
    """Stands for a pickled ``numpy.ndarray``, whose own reconstruction would trust addresses in the file."""

    def __init__(self, *_: Any) -> None:
        self.values = np.empty(0)

    def __setstate__(self, state: tuple) -> None:
        _, shape, kind, fortran, content = state
        if isinstance(content, list):
            self.values = np.empty(len(content), dtype=object)
            self.values[:] = content
        else:
            content = content.encode("latin1") if isinstance(content, str) else content
            self.values = np.frombuffer(content, kind.plain)  # refuses objects
        self.values = self.values.reshape(shape, order="F" if fortran else "C")


def _from_buffer(content: bytes, kind: _Type, shape: tuple[int, ...], order: str) -> _Array:
    array = _Array()
    array.__setstate__((1, shape, kind, order == "F", content))
    return array


def _scalar(kind: _Type, content: bytes | str) -> Any:
    content = content.encode("latin1") if isinstance(content, str) else content
    return np.frombuffer(content, kind.plain)[0]


class _Unpickler(pickle.Unpickler):
    """Knows NumPy's arrays and nothing else: a pickle may name any function there is, and have it called."""

    def find_class(self, module: str, name: str) -> Any:
        known = {
            "numpy.ndarray": None,  # only ever an argument
            "numpy.dtype": _Type,
            "numpy.core.multiarray._reconstruct": _Array,
            "numpy.core.multiarray.scalar": _scalar,
            "numpy.core.numeric._frombuffer": _from_buffer,
            "_codecs.encode": lambda text, _: text.encode("latin1"),
        }
        what = f"{module}.{name}".replace("numpy._core.", "numpy.core.")
        if what not in known:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, and may hold only arrays and lists")
        return known[what]


def _unpickle(path: Path) -> Any:
    """What a pickle of Python 2 or 3 holds, without running anything that it names."""
    try:
        with open(path, "rb") as file:
            found = _Unpickler(file, encoding="latin1").load()
        return _plain(found)
    except Exception as error:  # a broken pickle may raise anything
        reason = " ".join(str(error).split())
        raise UserError(f"{path} is not unpickled: {reason or type(error).__name__}") from error


def _plain(value: Any) -> Any:
    """The same with the arrays themselves in place of what stood for them."""
    if isinstance(value, _Array):
        return _plain(value.values.tolist()) if value.values.dtype == object else value.values
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, (list, tuple)) else value
