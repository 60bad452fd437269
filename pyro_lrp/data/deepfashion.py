"""DeepFashion: images of people in clothes, with their joints, for the Variational U-Net (spec 11.1)."""

from __future__ import annotations

import re
import warnings
import zlib
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import torch
from PIL import Image
from torch import Tensor

from pyro_lrp.core.errors import UserError
from pyro_lrp.data.dataset import ImageData, Split, divide
from pyro_lrp.data.decoded import Source, decode
from pyro_lrp.people.keypoints import Keypoints, read_keypoints
from pyro_lrp.people.poses import JOINTS, complete

__all__ = ["deepfashion"]

_SIDES = (32, 64, 128, 256, 512, 1024)
_GREY = 128  # half of 255, in whole numbers: what is 0 to networks that see images in [-1, 1]
_OUTSIDE = 0.1  # of the side: detectors place joints a little beyond the edge, but not this far
_PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
_INDICES = (("index.p",), ("index.pkl",), ("*keypoints*.npz",), ("*annotation*.csv", "*annotation*.csv.gz"))
_IMAGES = (("img",), ("images",), ("*.zip",))


def deepfashion(
    root: str | Path,
    images: str | Path | None = None,
    index: str | Path | None = None,
    split: Sequence[float] | None = None,
    image_size: int = 256,
) -> ImageData:
    """People of DeepFashion's in-shop retrieval benchmark (Liu et al., 2016), with their joints.

    As for the Variational U-Net (Esser et al., 2018), images on which a shoulder or a hip is missing are left
    out, with a warning that counts them. An image that is no square is centred on a grey one; all are resized,
    bilinearly and antialiased, decoded once and then mapped into memory. Files and rows of the index are
    matched by path, else by the name without folder, suffix and case; those that match nothing are left out.

    Args:
        root: A folder with ``deepfashion/`` in it, or that folder.
        images: A folder or a ``.zip``, relative to that folder. Without it ``img``, ``images`` or the only
            ``.zip`` there.
        index: The file of the joints, in a format of :func:`pyro_lrp.people.keypoints.read_keypoints`,
            relative to that folder. Without it ``index.p`` or ``index.pkl``, else the only ``.npz`` of
            keypoints, else the only ``.csv`` (plain or gzipped) of annotations there.
        split: As for :func:`pyro_lrp.data.divide`, in the order of the files' names; if None the index decides,
            and if it does not, a tenth of the garments, with all their images, is tested on.
        image_size: Side of the resulting squares, in pixels: a power of two from 32 to 1024.

    Returns:
        Images uint8 of shape ``(N, 3, S, S)`` and joints float32 of shape ``(N, 15, 2)``, (x, y) in shares of
        the square's side, both -1 where one is missing.

    Raises:
        UserError: If something is missing (what, and where to place it), or does not fit together; if a joint
            lies outside its image by more than a tenth of the side.
    """
    if isinstance(image_size, bool) or not isinstance(image_size, int) or image_size not in _SIDES:
        raise UserError(
            f"data.image_size must be a power of two from {_SIDES[0]} to {_SIDES[-1]}, as the U-Net halves it "
            f"down to 4, got {image_size!r}"
        )
    base = Path(root).expanduser()
    base = base / "deepfashion" if (base / "deepfashion").is_dir() else base
    source = Source(_place(base, "images", images, _IMAGES), "data.images")
    origin = _place(base, "index", index, _INDICES)
    known = read_keypoints(origin)
    files = _matched(known.names, source, origin)
    there = sorted(files, key=lambda row: files[row])
    whole = complete(known.joints)
    rows = [row for row in there if whole[row]]
    if len(rows) < len(there):
        lacking = f"{len(there) - len(rows)} of {len(there)} images lack a shoulder or a hip"
        warnings.warn(f"data=deepfashion: {lacking} and are left out", stacklevel=2)
    parts: tuple[slice, slice | None, slice]
    if split is None:
        rows, parts = _by_index_or_garment(known, rows, origin)
    else:
        parts = divide(split, len(rows))
    source.names = [files[row] for row in rows]  # only these are decoded, in this order
    joints = known.joints[rows]
    joints = _padded(joints, source) if known.of_image else joints
    _check_inside(joints, [known.names[row] for row in rows], origin)
    _, pixels = decode(
        source, lambda image: _square(image, image_size), (3, image_size, image_size), {"deepfashion": _GREY},
        key="data.images",
    )  # fmt: skip
    everything = Split(pixels, extras={"joints": joints})
    train, validation, test = (None if part is None else everything[part] for part in parts)
    assert train is not None, "always there"
    assert test is not None, "always there"
    return ImageData("deepfashion", train, test, validation)


def _place(base: Path, key: str, given: str | Path | None, usual: Sequence[Sequence[str]]) -> Path:
    """What was asked for, or the first of the usual files and folders that is there."""
    if given is not None:
        path = base / Path(given).expanduser()
        if not path.exists():
            raise UserError(f"data.{key}: there is no {path}")
        return path
    for patterns in usual:
        found = sorted({path for pattern in patterns for path in base.glob(pattern)})
        if len(found) > 1:
            names = ", ".join(path.name for path in found)
            raise UserError(f"data.{key} must say which of {names} in {base} is meant")
        if found:
            return found[0]
    raise UserError(
        f"data=deepfashion needs data.root=DIR with deepfashion/img (or a .zip of images) and "
        f"deepfashion/index.p (or an .npz of keypoints, or a .csv of annotations), and finds no {key} in "
        f"{base}; DeepFashion is at mmlab.ie.cuhk.edu.hk/projects/DeepFashion.html"
    )


def _matched(names: list[str], source: Source, origin: Path) -> dict[int, str]:
    """The file of each row of the index, for the rows that have one."""
    pictures = [name for name in source.names if name.lower().endswith(_PICTURES)]
    by_path = {f"{source.path.name}/{name}": name for name in pictures} | {name: name for name in pictures}
    by_stem, rows_of = defaultdict(list), defaultdict(list)
    for name in pictures:
        by_stem[_stem(name)].append(name)
    for name in names:
        rows_of[_stem(name)].append(name)
    files = {}
    for row, name in enumerate(names):
        file = by_path.get(PurePosixPath(name).as_posix())
        if file is None and len(rows_of[_stem(name)]) == 1:  # else only a path can tell them apart
            alike = by_stem[_stem(name)]
            if len(alike) > 1:
                raise UserError(f"data.images: {name} of {origin} may be {' or '.join(alike)} in {source.path}")
            file = alike[0] if alike else None
        if file is not None:
            files[row] = file
    if not files:
        raise UserError(
            f"data.images: none of the {len(names)} images of {origin} is in {source.path}: there the first is "
            f"{source.names[0]}, in the index {names[0]}"
        )
    return files


def _stem(name: str) -> str:
    return PurePosixPath(name).stem.lower()


def _by_index_or_garment(
    known: Keypoints, rows: list[int], origin: Path
) -> tuple[list[int], tuple[slice, None, slice]]:
    """The rows sorted into training and test ones, and which are which: slices keep the images mapped."""
    if known.train is None:
        test = {row: zlib.crc32(_garment(known.names[row]).encode()) % 10 == 0 for row in rows}
    else:
        test = {row: not known.train[row] for row in rows}
    rows = sorted(rows, key=lambda row: test[row])
    trained = len(rows) - sum(test.values())
    if not 0 < trained < len(rows):
        raise UserError(
            f"{origin} leaves {trained} training and {len(rows) - trained} test images of the {len(rows)} with "
            f"shoulders and hips: set data.split=[TRAIN,TEST]"
        )
    return rows, (slice(0, trained), None, slice(trained, len(rows)))


def _garment(name: str) -> str:
    """What all images of a garment share, its category and number; the image's own name if there is no number.

    >>> _garment("img/fashionWOMENDressesid0000262902_1front.jpg")
    'fashionWOMENDressesid00002629'
    >>> _garment("WOMEN/Dresses/id_00002629/02_1_front.jpg")
    'WOMEN/Dresses/id_00002629'
    """
    for text in (name.rsplit("/", 1)[-1], name):
        found = re.match(r".*?id_?\d{8}", text)
        if found:
            return found.group()
    return name.rsplit(".", 1)[0]


def _square(image: Image.Image, image_size: int) -> Image.Image:
    side = max(image.size)
    square = Image.new("RGB", (side, side), (_GREY, _GREY, _GREY))
    square.paste(image.convert("RGB"), ((side - image.width) // 2, (side - image.height) // 2))
    return square.resize((image_size, image_size), Image.Resampling.BILINEAR)


def _padded(joints: Tensor, source: Source) -> Tensor:
    """Joints in shares of their images' widths and heights, in shares of the sides of :func:`_square`."""
    sizes = []
    for name in source.names:
        try:
            with source.open(name) as image:
                sizes.append(image.size)
        except (OSError, ValueError, SyntaxError):
            sizes.append((1, 1))  # decoding says which these are, and how many
    size = torch.tensor(sizes)[:, None]
    side = size.amax(-1, keepdim=True)
    moved = (joints * size + (side - size) // 2) / side
    return torch.where(joints < 0, joints, moved)


def _check_inside(joints: Tensor, names: list[str], origin: Path) -> None:
    # Negative ones are missing; what is no number is outside.
    outside = (~(joints <= 1 + _OUTSIDE)).any(-1)
    if outside.any():
        row, joint = outside.nonzero()[0].tolist()
        x, y = joints[row, joint].tolist()
        raise UserError(
            f"{origin}: {JOINTS[joint]} of {names[row]} is outside the image, at ({x:.3g}, {y:.3g}) in shares "
            f"of its side"
        )
