"""A user's own image files, converted to the images of a trained model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from pyro_lrp.core.errors import UserError, printable
from pyro_lrp.core.limits import refuse_special
from pyro_lrp.data.modes import Colour, Refused, background_colour, eight_bit
from pyro_lrp.data.source import is_hidden, unreadable_errors

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["image_files", "pictures"]

_NO_IMAGES = (".json", ".csv", ".txt", ".md")


def pictures(
    paths: Sequence[str | Path], image_shape: Sequence[int], background: str = "white"
) -> tuple[list[str], Tensor, list[str]]:
    """Image files as a model's images: centred squares, resized, grey or RGB.

    Args:
        paths: Files, or folders of files.
        image_shape: ``(C, H, W)``.
        background: The colour on which transparent images are composed.

    Returns:
        Names; uint8 of shape ``(N, C, H, W)``; and notes on those that were not of this size or mode.

    Raises:
        UserError: If a file is missing or no image.
    """
    from PIL import Image, ImageOps

    channels, height, width = image_shape
    colour = background_colour(background)
    names = []
    arrays = []
    changed: dict[str, list[str]] = {}  # the names of the images, by what was done to them
    for path in image_files(paths):
        image, changes = _open(path, channels, colour)
        if image.width * height != image.height * width:
            changes.append("are cut to their centre")
        if image.size != (width, height):
            changes.append(f"are resized to {width}x{height}")
            image = ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR)
        for change in changes:
            changed.setdefault(change, []).append(path.name)
        names.append(path.name)
        pixels = np.asarray(image).reshape(height, width, channels)
        arrays.append(pixels)
    images = torch.from_numpy(np.stack(arrays))
    notes = [_note(change, of, len(names)) for change, of in changed.items()]
    return names, images.permute(0, 3, 1, 2).contiguous(), notes


def _note(change: str, names: Sequence[str], total: int) -> str:
    """What was done to some of the images, by name if it was one."""
    if len(names) == 1:
        return f"{names[0]} is among images that {change}"
    return f"{len(names)} of {total} images {change}"


def _open(path: Path, channels: int, background: Colour) -> tuple[Image.Image, list[str]]:
    """A decoded image, upright, grey or RGB, and what was done to it."""
    from PIL import Image

    mode = "RGB"
    if channels == 1:
        mode = "L"
    try:
        with Image.open(path) as file:
            return eight_bit(file, mode, background)
    except Refused as error:
        raise UserError(f"images: {printable(str(path))} is among images that {error.kind}") from error
    except unreadable_errors() as error:
        raise UserError(f"images: {printable(str(path))} is no image that can be read") from error


def image_files(paths: Sequence[str | Path]) -> list[Path]:
    """The files among ``paths``, and the files in the folders among them, in order.

    Hidden files, tables and texts in folders are ignored.

    Raises:
        UserError: If there is none.
    """
    files: list[Path] = []
    for file_or_folder in paths:
        path = Path(file_or_folder).expanduser()
        if not path.exists():
            raise UserError(f"images: there is no file or folder {path}")
        if path.is_dir():
            files += _files_in(path)
        else:
            refuse_special(path, "images")
            files.append(path)
    if not files:
        places = ", ".join(map(str, paths)) or "an empty list"
        raise UserError(f"images: there are no files in {places}")
    return files


def _files_in(folder: Path) -> list[Path]:
    files = []
    for path in sorted(folder.iterdir()):
        is_litter = is_hidden(path.name) or path.suffix.lower() in _NO_IMAGES
        if path.is_file() and not is_litter:
            files.append(path)
    return files
