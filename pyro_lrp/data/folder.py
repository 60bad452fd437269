"""Any folder or zip of images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from pyro_lrp.core.errors import UserError, printable
from pyro_lrp.data.dataset import ImageData, Split
from pyro_lrp.data.decoded import Refused, Source, decode
from pyro_lrp.data.layout import Layout, layout_of
from pyro_lrp.data.modes import background_colour, eight_bit, is_grey
from pyro_lrp.data.parts import Parts, as_slice, divide, tenth
from pyro_lrp.data.source import unreadable_errors
from pyro_lrp.data.tables import decoded_text, flags_of_csv, matched

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["folder"]

_ATTRIBUTES = "attributes.csv"


def folder(
    path: str | Path | None,
    image_size: int = 64,
    crop: int | None = None,
    channels: int | None = None,
    split: Sequence[float] | None = None,
    background: str = "white",
    *,
    skip_unreadable: bool = False,
) -> ImageData:
    """The images of a folder with its subfolders, or of a zip, decoded once and then mapped into memory.

    Subfolders ``train``, ``test`` and perhaps ``val`` are the parts of the data set; other subfolders are
    classes, if there are two or more, in the order in which people number them. Links are followed. Files that
    are no images are passed over; images of all modes are converted to 8 bits of grey or RGB. The data set's
    notes say what was passed over or converted.

    Args:
        path: The folder or ``.zip``. An ``attributes.csv`` in it has the header ``file,NAME,NAME,...`` and for
            each image a row with its name and with 0 or 1 (or -1 and 1).
        image_size: Side of the resulting squares, in pixels.
        crop: Side of the centre square that is cropped first, in pixels; the largest possible square if None.
        channels: 1 (grey) or 3 (RGB); if None, 3 if any image has colour.
        split: As for :func:`pyro_lrp.data.divide`: at random, with each class in proportion, and the same in
            every run. If None the subfolders decide; without them a tenth of the images are test images.
        background: The colour on which transparent images are composed: white, black, #808080.
        skip_unreadable: Omit images that cannot be read.

    Raises:
        UserError: If there are fewer than two images; if some are unreadable or smaller than the crop; if the
            attributes' rows do not match the images; if both subfolders and ``split`` name the parts.
    """
    if path is None:
        raise UserError("data=folder needs data.path=DIR, a folder or .zip of images")
    _check_options(image_size, crop, channels)
    place = Path(path).expanduser()
    source = Source(place, "data.path")
    squares = _Squares(source, image_size, crop, channels, background)
    names, images, converted = decode(
        source,
        squares.convert,
        squares.shape,
        squares.parameters,
        skip_unreadable=skip_unreadable,
    )
    if len(names) < 2:
        raise UserError(f"data.path: {place} has one image; training and testing need at least two")
    layout = layout_of(names, "data.path")
    table, columns, flags = _attributes(source, names)
    everything = Split(images, layout.labels, flags)
    train, validation, test = _rows(layout, len(everything), split)
    held_out = None
    if validation is not None:
        held_out = _part(everything, validation)
    return ImageData(
        _name(place),
        _part(everything, train),
        _part(everything, test),
        held_out,
        columns,
        classes=layout.classes,
        notes=(*source.notes(table), *converted, *layout.notes),
    )


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


def _name(place: Path) -> str:
    """The name of the data set, also for a place such as ``.`` that has none."""
    name = place.stem
    if name.strip("."):
        return name
    return place.resolve().stem


class _Squares:
    """Converts images to resized centre squares, grey or RGB."""

    def __init__(
        self,
        source: Source,
        image_size: int,
        crop: int | None,
        channels: int | None,
        background: str,
    ) -> None:
        self.source = source
        self.image_size = image_size
        self.crop = crop
        self.channels = channels
        self.background = background_colour(background)
        self.mode = {1: "L", 3: "RGB", None: ""}[channels]  # settled by shape() if empty

    @property
    def parameters(self) -> dict[str, Any]:
        """The part of the cache's key that depends on the options."""
        return {
            "image_size": self.image_size,
            "crop": self.crop,
            "channels": self.channels,
            "background": self.background,
        }

    def shape(self) -> tuple[int, int, int]:
        """``(C, S, S)``; opens the images until one has colour, if no option decides."""
        if not self.mode:
            self.mode = _common_mode(self.source)
        return len(self.mode), self.image_size, self.image_size

    def convert(self, image: Image.Image) -> tuple[Image.Image, list[str]]:
        from PIL import Image

        is_odd = self.channels is None and self.mode == "RGB" and is_grey(image)
        square, changes = eight_bit(image, self.mode, self.background)
        if is_odd:
            changes.append("are grey among colour ones, and are repeated to RGB (or set data.channels=1)")
        side = self.crop or min(square.size)
        if min(square.size) < side:
            raise Refused(
                f"are smaller than data.crop={side}",
                f" ({square.width}x{square.height})",
            )
        left = (square.width - side) // 2
        top = (square.height - side) // 2
        box = (left, top, left + side, top + side)
        size = (self.image_size, self.image_size)
        return square.crop(box).resize(size, Image.Resampling.BILINEAR), changes


def _common_mode(source: Source) -> str:
    """RGB if any image has colour, or none can be opened; else grey."""
    opened = 0
    for name in source.names:
        try:
            with source.open(name) as image:
                opened += 1
                if not is_grey(image):
                    return "RGB"
        except unreadable_errors():
            continue
    if opened:
        return "L"
    return "RGB"


def _rows(layout: Layout, images: int, split: Sequence[float] | None) -> Parts:
    """Training, validation (or None) and test rows: of the subfolders, or at random."""
    parts = layout.parts
    if not parts and split is None:
        return tenth(images, layout.labels)
    if not parts:
        return divide(split or (), images, layout.labels)
    if split is not None:
        raise UserError(
            "data.split has no effect: the subfolders of data.path say which images are for training and tests"
        )
    if "test" in parts:
        return parts["train"], parts.get("validation"), parts["test"]
    return parts["train"], None, parts["validation"]


def _part(everything: Split, rows: Tensor) -> Split:
    """The images at some rows; without labels if none of them has one."""
    part = everything[as_slice(rows)]
    if not len(part.labelled()):
        return replace(part, labels=None)
    return part


def _attributes(source: Source, names: list[str]) -> tuple[list[str], tuple[str, ...], Tensor | None]:
    """The file of attributes, if there is one, their names, and their values in the order of the images."""
    tables = [name for name in source.others if name.rsplit("/", 1)[-1] == _ATTRIBUTES]
    if not tables:
        return [], (), None
    place = f"{source.path}/{printable(tables[0])}"
    if len(tables) > 1:
        raise UserError(f"data.path: there are several {_ATTRIBUTES}, {place} and others: join them in one")
    columns, flags = flags_of_csv(decoded_text(source.read(tables[0])), place)
    return tables, columns, matched(flags, names, place)
