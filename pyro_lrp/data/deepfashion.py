"""DeepFashion: images of people in clothes, with their joints, for the Variational U-Net (spec 11.1)."""

from __future__ import annotations

import re
import zlib
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pyro_lrp.core.errors import UserError
from pyro_lrp.core.randomness import derive_seed
from pyro_lrp.data.dataset import ImageData, Split
from pyro_lrp.data.decoded import Source, decode
from pyro_lrp.data.modes import eight_bit
from pyro_lrp.data.parts import counts_of
from pyro_lrp.people import JOINTS, Keypoints, complete, read_keypoints

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["deepfashion"]

_SIDES = (32, 64, 128, 256, 512, 1024)
_GREY = 128  # half of 255 as an integer: zero for networks whose images lie in [-1, 1]
_OUTSIDE = 0.1  # of the side: detectors place joints slightly beyond the edge, but not further than this
_PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
_INDEX_PATTERNS = (
    ("index.p",),
    ("index.pkl",),
    ("*keypoints*.npz",),
    ("*annotation*.csv", "*annotation*.csv.gz"),
)
_IMAGE_PATTERNS = (("img",), ("images",), ("*.zip",))

Parts = tuple[slice, slice | None, slice]  # training, validation and test rows


def deepfashion(
    root: str | Path,
    images: str | Path | None = None,
    index: str | Path | None = None,
    split: Sequence[float] | None = None,
    image_size: int = 256,
) -> ImageData:
    """People of DeepFashion's in-shop retrieval benchmark (Liu et al., 2016), with their joints.

    As for the Variational U-Net (Esser et al., 2018), images on which a shoulder or a hip is missing are
    omitted, with a note that counts them. Images are padded to squares with grey, resized, bilinearly and
    antialiased, decoded once and then mapped into memory. Files and rows of the index are matched by path, else
    by the name without folder, suffix and case; files and rows without a match are omitted.

    Args:
        root: A folder that contains ``deepfashion/``, or that folder.
        images: A folder or a ``.zip``, relative to that folder. By default ``img``, ``images`` or the only
            ``.zip`` there.
        index: The file of the joints, in a format of :func:`pyro_lrp.people.read_keypoints`, relative to that
            folder. By default ``index.p`` or ``index.pkl``, else the only ``.npz`` of keypoints, else the only
            ``.csv`` (plain or gzipped) of annotations there.
        split: ``[train, test]`` or ``[train, validation, test]``, numbers of images or shares of them. The
            garments are in an order that is random, and the same in every run, each with all its images. If
            None the index decides, and if it does not, the test images are those of a tenth of the garments.
        image_size: Side of the resulting squares, in pixels: a power of two from 32 to 1024.

    Returns:
        Images uint8 of shape ``(N, 3, S, S)`` and joints float32 of shape ``(N, 15, 2)``, (x, y) in shares of
        the square's side, both -1 where one is missing.

    Raises:
        UserError: If a file is missing (the message tells where to place it), or files do not match; if a joint
            lies outside its image by more than a tenth of the side.
    """
    _check_size(image_size)
    base = Path(root).expanduser()
    if (base / "deepfashion").is_dir():
        base = base / "deepfashion"
    source = Source(_place(base, "images", images, _IMAGE_PATTERNS), "data.images")
    origin = _place(base, "index", index, _INDEX_PATTERNS)
    known = read_keypoints(origin)
    files = _match(known.names, source, origin)
    rows, notes = _complete_rows(known, files)
    parts: Parts
    if split is None:
        rows, parts = _by_index_or_garment(known, rows, origin)
    else:
        rows.sort(key=lambda row: _shuffled(files[row]))
        parts = _consecutive(counts_of(split, len(rows)))

    source.names = [files[row] for row in rows]  # only these are decoded, in this order
    joints = known.joints[rows]
    if known.of_image:
        joints = _padded(joints, source)
    _check_inside(joints, [known.names[row] for row in rows], origin)
    _, pixels, converted = decode(
        source,
        partial(_square, image_size=image_size),
        lambda: (3, image_size, image_size),
        {"deepfashion": _GREY, "image_size": image_size},
    )
    everything = Split(pixels, extras={"joints": joints})
    train, validation, test = parts
    held_out = None
    if validation is not None:
        held_out = everything[validation]
    return ImageData(
        "deepfashion",
        everything[train],
        everything[test],
        held_out,
        notes=(*notes, *converted),
    )


def _check_size(image_size: int) -> None:
    is_integer = isinstance(image_size, int) and not isinstance(image_size, bool)
    if not is_integer or image_size not in _SIDES:
        raise UserError(
            f"data.image_size must be a power of two from {_SIDES[0]} to {_SIDES[-1]}, as the U-Net "
            f"halves it down to 4, got {image_size!r}"
        )


# ---------------------------------------------------------------------
# files
# ---------------------------------------------------------------------


def _place(base: Path, key: str, name: str | Path | None, usual: Sequence[Sequence[str]]) -> Path:
    """The path of this name, or the first of the usual files and folders that exists."""
    if name is not None:
        path = base / Path(name).expanduser()
        if not path.exists():
            raise UserError(f"data.{key}: there is no {path}")
        return path
    for patterns in usual:
        paths: set[Path] = set()
        for pattern in patterns:
            paths.update(base.glob(pattern))
        if len(paths) > 1:
            names = ", ".join(path.name for path in sorted(paths))
            raise UserError(f"data.{key} must say which of {names} in {base} is meant")
        if paths:
            return paths.pop()
    raise UserError(
        "data=deepfashion needs data.root=DIR with deepfashion/img (or a .zip of images) and "
        "deepfashion/index.p (or an .npz of keypoints, or a .csv of annotations), "
        f"and finds no {key} in {base}; DeepFashion is at "
        "mmlab.ie.cuhk.edu.hk/projects/DeepFashion.html"
    )


def _match(names: list[str], source: Source, origin: Path) -> dict[int, str]:
    """The file of each row of the index, for the rows that have one."""
    pictures = [file for file in source.names if file.lower().endswith(_PICTURES)]
    by_path = {f"{source.path.name}/{file}": file for file in pictures}
    by_path.update({file: file for file in pictures})
    by_stem = defaultdict(list)
    for file in pictures:
        by_stem[_stem(file)].append(file)
    rows_of = defaultdict(list)
    for name in names:
        rows_of[_stem(name)].append(name)

    files = {}
    for row, name in enumerate(names):
        stem = _stem(name)
        path = PurePosixPath(name).as_posix()
        if path in by_path:
            files[row] = by_path[path]
            continue
        alike = by_stem.get(stem, [])
        if len(rows_of[stem]) > 1 or not alike:
            continue  # only a path can tell several rows of the same name apart
        if len(alike) > 1:
            choices = " or ".join(alike)
            raise UserError(f"data.images: {name} of {origin} may be {choices} in {source.path}")
        files[row] = alike[0]
    if not files:
        raise UserError(
            f"data.images: none of the {len(names)} images of {origin} is in {source.path}: "
            f"there the first is {source.names[0]}, in the index {names[0]}"
        )
    return files


def _stem(name: str) -> str:
    return PurePosixPath(name).stem.lower()


# ---------------------------------------------------------------------
# rows
# ---------------------------------------------------------------------


def _complete_rows(known: Keypoints, files: dict[int, str]) -> tuple[list[int], list[str]]:
    """The rows with a file and with all shoulders and hips, in the order of the files' names, and notes."""
    by_name = sorted(files, key=lambda row: files[row])
    is_complete = complete(known.joints)
    rows = [row for row in by_name if is_complete[row]]
    lacking = len(by_name) - len(rows)
    notes = []
    if lacking:
        notes.append(
            f"data=deepfashion: {lacking} of {len(by_name)} images lack a shoulder or a hip and are left out"
        )
    return rows, notes


def _consecutive(counts: Sequence[int]) -> Parts:
    """Training, validation (or None) and test rows, one after another."""
    rows = []
    start = 0
    for count in counts:
        rows.append(slice(start, start + count))
        start += count
    if len(rows) == 2:
        return rows[0], None, rows[1]
    return rows[0], rows[1], rows[2]


def _shuffled(name: str) -> tuple[int, str]:
    """A key that sorts garments at random, and the images of a garment by name."""
    return derive_seed(0, "garment", _garment(name)), name


def _by_index_or_garment(known: Keypoints, rows: list[int], origin: Path) -> tuple[list[int], Parts]:
    """The rows, training ones first, and both parts as slices, since these keep the images mapped."""
    train = []
    test = []
    for row in rows:
        if _is_test(known, row):
            test.append(row)
        else:
            train.append(row)
    if not train or not test:
        raise UserError(
            f"{origin} leaves {len(train)} training and {len(test)} test images of the {len(rows)} with "
            f"shoulders and hips: set data.split=[TRAIN,TEST]"
        )
    count = len(train)
    return [*train, *test], (slice(0, count), None, slice(count, len(rows)))


def _is_test(known: Keypoints, row: int) -> bool:
    """As the index says; if it does not, for a tenth of the garments."""
    if known.train is not None:
        return not known.train[row]
    garment = _garment(known.names[row])
    return zlib.crc32(garment.encode()) % 10 == 0


def _garment(name: str) -> str:
    """The category and number that all images of a garment share; without a number, the image's own name.

    >>> _garment("img/fashionWOMENDressesid0000262902_1front.jpg")
    'fashionWOMENDressesid00002629'
    >>> _garment("WOMEN/Dresses/id_00002629/02_1_front.jpg")
    'WOMEN/Dresses/id_00002629'
    """
    file = name.rsplit("/", 1)[-1]
    for text in (file, name):
        match = re.match(r".*?id_?\d{8}", text)
        if match:
            return match.group()
    return name.rsplit(".", 1)[0]


# ---------------------------------------------------------------------
# squares
# ---------------------------------------------------------------------


def _square(image: Image.Image, image_size: int) -> tuple[Image.Image, list[str]]:
    """The image, centred on a grey square and resized, and what else was done to it."""
    from PIL import Image

    converted, changes = eight_bit(image, "RGB", turn=False)
    side = max(converted.size)
    square = Image.new("RGB", (side, side), (_GREY, _GREY, _GREY))
    left = (side - converted.width) // 2
    top = (side - converted.height) // 2
    square.paste(converted, (left, top))
    return square.resize((image_size, image_size), Image.Resampling.BILINEAR), changes


def _padded(joints: Tensor, source: Source) -> Tensor:
    """Joints in shares of the side of :func:`_square`, from shares of the images' widths and heights."""
    sizes = []
    for name in source.names:
        try:
            with source.open(name) as image:
                sizes.append(image.size)
        except (OSError, ValueError, SyntaxError):
            sizes.append((1, 1))  # an error follows when the images are decoded
    size = torch.tensor(sizes)[:, None]
    side = size.amax(-1, keepdim=True)
    moved = (joints * size + (side - size) // 2) / side
    return torch.where(joints < 0, joints, moved)


def _check_inside(joints: Tensor, names: list[str], origin: Path) -> None:
    # Negative joints are missing. NaN fails the comparison and so is outside.
    inside = joints <= 1 + _OUTSIDE
    outside = (~inside).any(-1)
    if not outside.any():
        return
    row, joint = outside.nonzero()[0].tolist()
    x, y = joints[row, joint].tolist()
    raise UserError(
        f"{origin}: {JOINTS[joint]} of {names[row]} is outside the image, at ({x:.3g}, {y:.3g}) "
        f"in shares of its side"
    )
