"""Any folder or zip of images."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, ImageOps
from torch import Tensor

from pyro_lrp.core.errors import UserError
from pyro_lrp.data.dataset import ImageData, Split, divide
from pyro_lrp.data.decoded import Refused, Source, decode

__all__ = ["folder"]

_ATTRIBUTES = "attributes.csv"
_GREY = ("1", "L", "LA", "I", "I;16", "F")


def folder(
    path: str | Path | None,
    image_size: int = 64,
    crop: int | None = None,
    channels: int | None = None,
    split: Sequence[float] | None = None,
    *,
    skip_unreadable: bool = False,
) -> ImageData:
    """The images of a folder with its subfolders, or of a zip, decoded once and then mapped into memory.

    Args:
        path: The folder or ``.zip``. If its images lie in subfolders, two or more, each of these is a class. An
            ``attributes.csv`` beside the images has the header ``file,NAME,NAME,...`` and for each image a row
            of its name and of 0 or 1 (or -1 and 1).
        image_size: Side of the resulting squares, in pixels.
        crop: Side of the centre that is cut out first, in pixels; the largest centred square if None.
        channels: 1 (grey) or 3 (RGB); as the images are if None, which they must then all be.
        split: As for :func:`pyro_lrp.data.divide`, in the order of names; if None every tenth image is a test
            image.
        skip_unreadable: Leave out files that are no images.

    Raises:
        UserError: If there are fewer than two images; if some are unreadable, smaller than the crop, or grey
            among colour; if the attributes' rows do not match the images.
    """
    if path is None:
        raise UserError("data=folder needs data.path=DIR, a folder or .zip of images")
    if channels not in (None, 1, 3):
        raise UserError(f"data.channels must be 1, 3 or null, got {channels}")
    if not all(
        isinstance(side, int) and side >= 1 for side in (image_size, image_size if crop is None else crop)
    ):
        raise UserError(f"data.image_size and data.crop must be whole numbers, got {image_size!r} and {crop!r}")
    place = Path(path).expanduser()
    source = Source(place, "data.path", leave_out=[_ATTRIBUTES])
    mode = {1: "L", 3: "RGB"}[channels] if channels else _mode(source)

    def convert(image: Image.Image) -> Image.Image:
        if channels is None and ("L" if image.mode in _GREY else "RGB") != mode:
            which = "grey among colour" if mode == "RGB" else "colour among grey"
            raise Refused(f"are {which} ones: set data.channels=3 or data.channels=1", "")
        image = ImageOps.exif_transpose(image)
        side = crop or min(image.size)
        if min(image.size) < side:
            raise Refused(f"are smaller than data.crop={side}", f" ({image.width}x{image.height})")
        left, top = (image.width - side) // 2, (image.height - side) // 2
        square = image.convert(mode).crop((left, top, left + side, top + side))
        return square.resize((image_size, image_size), Image.Resampling.BILINEAR)

    names, images = decode(
        source, convert, (len(mode), image_size, image_size), {"mode": mode, "crop": crop, "given": channels},
        skip_unreadable=skip_unreadable, key="data.path",
    )  # fmt: skip
    if len(names) < 2:
        raise UserError(f"data.path: {place} has one image; training and testing need at least two")
    columns, attributes = _attributes(place / _ATTRIBUTES, names)
    everything = Split(images, _labels(names), attributes)
    if split is None:
        test = torch.arange(len(names)) % 10 == (9 if len(names) >= 10 else 0)
        return ImageData(place.stem, everything[~test], everything[test], attributes=columns)
    train, validation, held = divide(split, len(names))
    own = None if validation is None else everything[validation]
    return ImageData(place.stem, everything[train], everything[held], own, columns)


def _mode(source: Source) -> str:
    """Grey or RGB, as the first image that can be opened."""
    for name in source.names:
        try:
            with source.open(name) as image:
                return "L" if image.mode in _GREY else "RGB"
        except (OSError, ValueError, SyntaxError):
            continue
    return "RGB"


def _labels(names: list[str]) -> Tensor | None:
    """The number of the subfolder each image lies in, if there are two or more and no image beside them."""
    tops = [name.split("/")[0] if "/" in name else "" for name in names]
    classes = sorted(set(tops))
    if len(classes) < 2 or "" in classes:
        return None
    return torch.tensor([classes.index(top) for top in tops])


def _attributes(path: Path, names: list[str]) -> tuple[tuple[str, ...], Tensor | None]:
    if not path.is_file():
        return (), None
    with open(path, newline="", encoding="utf-8-sig") as file:
        header, *rows = [row for row in csv.reader(file) if row] or [[]]
    if len(header) < 2:
        raise UserError(f"{path} must begin with the header file,NAME,... of its columns")
    table = {}
    for number, row in enumerate(rows, start=2):
        if len(row) != len(header) or any(value.strip() not in ("0", "1", "-1") for value in row[1:]):
            raise UserError(
                f"{path}, row {number}: expected a file's name and {len(header) - 1} values, 0 or 1"
            )
        table[row[0]] = [int(value) > 0 for value in row[1:]]
    return tuple(header[1:]), matched(table, names, path)


def matched(table: dict[str, list[bool]], names: list[str], path: Path) -> Tensor:
    """The rows of a table of attributes in the order of the images; each image must have one."""
    missing = [name for name in names if name not in table]
    if missing:
        raise UserError(
            f"{path}: its rows do not match the images: {len(missing)} of {len(names)} have no row, the first: "
            f"{missing[0]}"
        )
    return torch.tensor([table[name] for name in names], dtype=torch.bool)
