"""Pictures of a user's own, made into what a trained model takes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from pyro_lrp.core.errors import UserError

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
    channels, height, width = image_shape
    names, arrays, notes = [], [], []
    for path in image_files(paths):
        try:
            with Image.open(path) as file:
                image = ImageOps.exif_transpose(file).convert("L" if channels == 1 else "RGB")
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise UserError(f"images: {path} is no image that can be read") from error
        if image.size != (width, height):
            notes.append(
                f"{path.name} ({image.width}x{image.height}) is cut to its centre, resized to {width}x{height}"
            )
            image = ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR)
        names.append(path.name)
        arrays.append(np.asarray(image).reshape(height, width, channels))
    return names, torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous(), notes


def image_files(paths: Sequence[str | Path]) -> list[Path]:
    """Files, and the files of folders among them, in order.

    Raises:
        UserError: If there is none.
    """
    found: list[Path] = []
    for given in paths:
        path = Path(given).expanduser()
        if not path.exists():
            raise UserError(f"images: there is no file or folder {path}")
        if path.is_dir():
            files = (p for p in path.iterdir() if p.is_file() and p.name[0] != "." and p.suffix != ".json")
            found += sorted(files)
        else:
            found.append(path)
    if not found:
        raise UserError(f"images: there are no files in {', '.join(map(str, paths)) or 'an empty list'}")
    return found
