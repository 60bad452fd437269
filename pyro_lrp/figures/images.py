"""Grids of images, and strips: labelled rows of images."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from pyro_lrp.core.files import write_atomically
from pyro_lrp.core.pixels import as_bytes
from pyro_lrp.figures.style import PAGE, new_figure, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["grid", "save_gif", "save_picture", "strips"]

_MIN_SIDE = 48  # pixels of an image in a grid; smaller images are enlarged
_MIN_FRAME = 96  # pixels of an image in an animation
_CELL = 0.55  # inches of an image in a strip; less if a row would not fit on a page
_GAP = 0.12  # inches between groups of rows

_LONG_AGO = time.gmtime(0)
_FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    ".png": ("PNG", {}),
    ".jpg": ("JPEG", {"quality": 95}),
    ".jpeg": ("JPEG", {"quality": 95}),
    ".gif": ("GIF", {}),
    ".pdf": ("PDF", {"creationDate": _LONG_AGO, "modDate": _LONG_AGO}),
}
_FAST = {"compress_level": 1}

Box = tuple[float, float, float, float]
"""The left, the bottom, the width and the height of an image, as fractions of the figure."""


def grid(images: Tensor, columns: int | None = None) -> Tensor:
    """Arrange images side by side on white.

    Args:
        images: Values in [0, 1], shape ``(N, C, H, W)``, with 1 or 3 channels.
        columns: Number of images in a row; None for a nearly square grid.

    Returns:
        uint8, shape ``(3, height, width)``.

    >>> import torch
    >>> grid(torch.rand(5, 1, 8, 8)).shape
    torch.Size([3, 102, 152])
    """
    from torchvision.utils import make_grid  # here, because it imports torch's compiler

    factor = max(1, _MIN_SIDE // images.shape[-2])
    columns = columns or math.ceil(math.sqrt(len(images)))
    images = images.detach().cpu().float()
    large = F.interpolate(images, scale_factor=factor, mode="nearest")
    picture = make_grid(large, nrow=columns, padding=2, pad_value=1.0)
    return as_bytes(picture)


def save_picture(path: Path, picture: Tensor, *, fast: bool = False) -> None:
    """Write a uint8 picture of shape ``(3, H, W)``, atomically; equal pictures give equal bytes.

    Args:
        path: The file; its ending is one of ``.png``, ``.jpg``, ``.jpeg``, ``.gif`` and ``.pdf``.
        picture: The picture.
        fast: Compress a ``.png`` in a third of the time, to a larger file.
    """
    pixels = picture.permute(1, 2, 0).contiguous()
    image = Image.fromarray(pixels.numpy())
    file_format, options = _FORMATS[path.suffix.lower()]
    if fast and file_format == "PNG":
        options = _FAST

    def write(target: Path) -> None:
        image.save(target, format=file_format, **options)

    write_atomically(path, write)


def strips(
    images: Tensor,
    rows: Sequence[str],
    columns: Sequence[str] = (),
    title: str = "",
    groups: int = 0,
) -> Figure:
    """Rows of images with row labels on the left and column labels above; lengths are in inches.

    Args:
        images: Values in [0, 1], shape ``(R, S, C, H, W)``, with 1 or 3 channels.
        rows: ``R`` labels; empty ones take no space.
        columns: ``S`` labels, or none.
        title: A title above the columns.
        groups: Number of consecutive rows that form a group; groups are separated by a gap. 0 for no groups.
    """
    pixels = _rgb(images)
    count, steps, height, width = pixels.shape[:4]
    cell = min(_CELL, (PAGE - 1.0) / steps)
    left = 0.12 + 0.065 * _longest_line(rows)
    top = _top(columns, title)
    total_width = left + steps * cell + 0.08
    total_height = count * cell * height / width + _gaps(count - 1, groups) + top + 0.05
    image_width = 0.96 * cell / total_width
    image_height = 0.96 * cell * height / width / total_height
    starts = [(left + s * cell) / total_width for s in range(steps)]
    with style():
        figure = new_figure(total_width, total_height)
        figure.set_layout_engine("none")
        for r in range(count):
            above = r * cell * height / width + _gaps(r, groups)
            bottom = 1 - (top + above + cell * height / width) / total_height
            boxes = [(start, bottom, image_width, image_height) for start in starts]
            _draw_row(figure, pixels[r], boxes, columns if r == 0 else ())
            end = 0.9 * left / total_width
            middle = bottom + 0.48 * cell * height / width / total_height
            figure.text(end, middle, rows[r], ha="right", va="center", fontsize=7)
        if title:
            figure.text(left / total_width, 1 - 0.04 / total_height, title, ha="left", va="top", fontsize=8)
    return figure


def _draw_row(figure: Figure, pixels: np.ndarray, boxes: Sequence[Box], titles: Sequence[str]) -> None:
    for s, box in enumerate(boxes):
        axes = figure.add_axes(box)
        axes.imshow(pixels[s], interpolation="nearest", aspect="auto")
        axes.set_axis_off()
        if titles:
            axes.set_title(titles[s], fontsize=7, pad=2)


def _longest_line(labels: Sequence[str]) -> int:
    lengths = [len(line) for label in labels for line in label.split("\n")]
    return max(lengths, default=0)


def _top(columns: Sequence[str], title: str) -> float:
    """The height of the labels above the first row."""
    height = 0.05
    if columns:
        height = 0.2
    if title:
        height += 0.25
    return height


def _gaps(rows: int, groups: int) -> float:
    """The height of the gaps above a row that has ``rows`` rows above it."""
    if not groups:
        return 0
    return _GAP * (rows // groups)


def save_gif(path: Path, images: Tensor, seconds: float = 2.0) -> None:
    """Write the columns of a strip as an animation that plays forwards and backwards in a loop.

    Args:
        path: The file.
        images: Values in [0, 1], shape ``(R, S, C, H, W)``.
        seconds: Duration of the forward half.
    """
    pixels = _rgb(images)
    steps = pixels.shape[1]
    factor = max(1, _MIN_FRAME // pixels.shape[2])
    forwards = range(steps)
    backwards = range(steps - 2, 0, -1)
    frames = []
    for s in (*forwards, *backwards):
        column = np.concatenate(list(pixels[:, s]), axis=1)
        large = column.repeat(factor, 0).repeat(factor, 1)
        frames.append(Image.fromarray(large))
    first, *others = frames
    duration = round(1000 * seconds / steps)

    def write(target: Path) -> None:
        first.save(
            target,
            format="GIF",
            save_all=True,
            append_images=others,
            duration=duration,
            loop=0,
        )

    write_atomically(path, write)


def _rgb(images: Tensor) -> np.ndarray:
    """The images of a strip as uint8, shape ``(R, S, H, W, 3)``."""
    if images.shape[2] == 1:
        images = images.expand(-1, -1, 3, -1, -1)
    pixels = as_bytes(images.detach().cpu())
    return pixels.permute(0, 1, 3, 4, 2).numpy()
