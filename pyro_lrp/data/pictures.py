"""A user's own image files, converted to the images of a trained model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from pyro_lrp.core.errors import UserError

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["image_files", "pictures"]


def pictures(paths: Sequence[str | Path], image_shape: Sequence[int]) -> tuple[list[str], Tensor, list[str]]:
    """Image files as a model's images: centred squares, resized, grey or RGB.

    Args:
        paths: Files, or folders of files.
        image_shape: ``(C, H, W)``.

    Returns:
        Names; uint8 of shape ``(N, C, H, W)``; and a note for each that was not of this size.

    Raises:
        UserError: If a file is missing or no image.
    """
    from PIL import Image, ImageOps

    channels, height, width = image_shape
    names = []
    arrays = []
    notes = []
    for path in image_files(paths):
        image = _open(path, channels)
        if image.size != (width, height):
            notes.append(
                f"{path.name} ({image.width}x{image.height}) is cut to its centre, resized to {width}x{height}"
            )
            image = ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR)
        names.append(path.name)
        pixels = np.asarray(image).reshape(height, width, channels)
        arrays.append(pixels)
    images = torch.from_numpy(np.stack(arrays))
    return names, images.permute(0, 3, 1, 2).contiguous(), notes


def _open(path: Path, channels: int) -> Image.Image:
    """A decoded image, upright, grey or RGB."""
    from PIL import Image, ImageOps

    mode = "RGB"
    if channels == 1:
        mode = "L"
    try:
        with Image.open(path) as file:
            return ImageOps.exif_transpose(file).convert(mode)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"images: {path} is no image that can be read") from error


def image_files(paths: Sequence[str | Path]) -> list[Path]:
    """The files among ``paths``, and the files in the folders among them, in order.

    Hidden files and ``.json`` files in folders are ignored.

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
            files.append(path)
    if not files:
        places = ", ".join(map(str, paths)) or "an empty list"
        raise UserError(f"images: there are no files in {places}")
    return files


def _files_in(folder: Path) -> list[Path]:
    files = []
    for path in sorted(folder.iterdir()):
        is_hidden = path.name.startswith(".")
        if path.is_file() and not is_hidden and path.suffix != ".json":
            files.append(path)
    return files
