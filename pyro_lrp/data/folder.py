"""Any folder or zip of images."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pyro_lrp.core.errors import UserError
from pyro_lrp.data.dataset import ImageData, Split, divide
from pyro_lrp.data.decoded import Refused, Source, decode

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["folder"]

_ATTRIBUTES = "attributes.csv"
_GREY = ("1", "L", "LA", "I", "I;16", "F")  # Pillow's modes without colour


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
        path: The folder or ``.zip``. If its images lie in two or more subfolders, each of these is a class. An
            ``attributes.csv`` beside the images has the header ``file,NAME,NAME,...`` and for each image a row
            with its name and with 0 or 1 (or -1 and 1).
        image_size: Side of the resulting squares, in pixels.
        crop: Side of the centre square that is cropped first, in pixels; the largest possible square if None.
        channels: 1 (grey) or 3 (RGB); if None, as the images, which must then agree.
        split: As for :func:`pyro_lrp.data.divide`, in the order of names; if None every tenth image is a test
            image.
        skip_unreadable: Omit files that are not images.

    Raises:
        UserError: If there are fewer than two images; if some are unreadable, smaller than the crop, or mix
            grey and colour; if the attributes' rows do not match the images.
    """
    if path is None:
        raise UserError("data=folder needs data.path=DIR, a folder or .zip of images")
    _check_options(image_size, crop, channels)
    place = Path(path).expanduser()
    source = Source(place, "data.path", leave_out=[_ATTRIBUTES])
    squares = _Squares(source, image_size, crop, channels)
    names, images = decode(
        source,
        squares.convert,
        squares.shape,
        squares.parameters,
        skip_unreadable=skip_unreadable,
        key="data.path",
    )
    if len(names) < 2:
        raise UserError(f"data.path: {place} has one image; training and testing need at least two")
    columns, attributes = _attributes(place / _ATTRIBUTES, names)
    everything = Split(images, _labels(names), attributes)
    train, validation, test = _parts(everything, split)
    return ImageData(place.stem, train, test, validation, columns)


def _check_options(image_size: int, crop: int | None, channels: int | None) -> None:
    if channels not in (None, 1, 3):
        raise UserError(f"data.channels must be 1, 3 or null, got {channels}")
    sides = [image_size]
    if crop is not None:
        sides.append(crop)
    for side in sides:
        if not isinstance(side, int) or side < 1:
            raise UserError(
                f"data.image_size and data.crop must be whole numbers, got {image_size!r} and {crop!r}"
            )


class _Squares:
    """Converts images to resized centre squares of one mode, grey or RGB."""

    def __init__(self, source: Source, image_size: int, crop: int | None, channels: int | None) -> None:
        if channels is None:
            self.mode = _first_mode(source)
        else:
            self.mode = {1: "L", 3: "RGB"}[channels]
        self.image_size = image_size
        self.crop = crop
        self.channels = channels

    @property
    def shape(self) -> tuple[int, int, int]:
        return len(self.mode), self.image_size, self.image_size

    @property
    def parameters(self) -> dict[str, Any]:
        """The part of the cache's key that depends on the options."""
        return {"mode": self.mode, "crop": self.crop, "given": self.channels}

    def convert(self, image: Image.Image) -> Image.Image:
        from PIL import Image, ImageOps

        if self.channels is None:
            self._check_mode(image)
        image = ImageOps.exif_transpose(image)
        side = self.crop or min(image.size)
        if min(image.size) < side:
            raise Refused(
                f"are smaller than data.crop={side}",
                f" ({image.width}x{image.height})",
            )
        left = (image.width - side) // 2
        top = (image.height - side) // 2
        box = (left, top, left + side, top + side)
        square = image.convert(self.mode).crop(box)
        size = (self.image_size, self.image_size)
        return square.resize(size, Image.Resampling.BILINEAR)

    def _check_mode(self, image: Image.Image) -> None:
        if _mode(image) == self.mode:
            return
        mixture = "colour among grey"
        if self.mode == "RGB":
            mixture = "grey among colour"
        raise Refused(f"are {mixture} ones: set data.channels=3 or data.channels=1", "")


def _mode(image: Image.Image) -> str:
    if image.mode in _GREY:
        return "L"
    return "RGB"


def _first_mode(source: Source) -> str:
    """Grey or RGB, as the first image that can be opened."""
    for name in source.names:
        try:
            with source.open(name) as image:
                return _mode(image)
        except (OSError, ValueError, SyntaxError):
            continue
    return "RGB"


def _parts(everything: Split, split: Sequence[float] | None) -> tuple[Split, Split | None, Split]:
    """Training, validation (or None) and test images."""
    count = len(everything)
    if split is None:
        remainder = 0
        if count >= 10:
            remainder = 9
        is_test = torch.arange(count) % 10 == remainder
        return everything[~is_test], None, everything[is_test]
    train, validation, test = divide(split, count)
    held_out = None
    if validation is not None:
        held_out = everything[validation]
    return everything[train], held_out, everything[test]


def _labels(names: list[str]) -> Tensor | None:
    """The number of each image's subfolder, if there are two or more and no image outside of them."""
    folders = []
    for name in names:
        top, slash, _ = name.partition("/")
        if not slash:
            return None
        folders.append(top)
    classes = sorted(set(folders))
    if len(classes) < 2:
        return None
    return torch.tensor([classes.index(top) for top in folders])


def _attributes(path: Path, names: list[str]) -> tuple[tuple[str, ...], Tensor | None]:
    """Names of the attributes, and their values in the order of the images; nothing without the file."""
    if not path.is_file():
        return (), None
    with open(path, newline="", encoding="utf-8-sig") as file:
        filled = [row for row in csv.reader(file) if row]
    if not filled or len(filled[0]) < 2:
        raise UserError(f"{path} must begin with the header file,NAME,... of its columns")
    header, *rows = filled
    columns = tuple(header[1:])
    table = {}
    for number, row in enumerate(rows, start=2):
        name, *values = row
        valid = all(value.strip() in ("0", "1", "-1") for value in values)
        if len(values) != len(columns) or not valid:
            raise UserError(f"{path}, row {number}: expected a file's name and {len(columns)} values, 0 or 1")
        table[name] = [int(value) > 0 for value in values]
    return columns, matched(table, names, path)


def matched(table: dict[str, list[bool]], names: list[str], path: Path) -> Tensor:
    """The rows of a table of attributes in the order of the images; each image must have one."""
    missing = [name for name in names if name not in table]
    if missing:
        raise UserError(
            f"{path}: its rows do not match the images: {len(missing)} of {len(names)} have no row, "
            f"the first: {missing[0]}"
        )
    rows = [table[name] for name in names]
    return torch.tensor(rows, dtype=torch.bool)
