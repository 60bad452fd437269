"""Rows of images with labels a person can read: reconstructions, paths, traversals, edits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from torch import Tensor

from pyro_lrp.core.files import write_atomically
from pyro_lrp.figures.style import PAGE, new_figure, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["save_gif", "strips"]

_CELL = 0.55  # inches of an image, or less if a row would not fit a page


def strips(
    images: Tensor, rows: Sequence[str], columns: Sequence[str] = (), title: str = "", groups: int = 0
) -> Figure:
    """Rows of images under column labels and beside row labels.

    Args:
        images: In [0, 1], shape ``(R, S, C, H, W)``, with 1 or 3 channels.
        rows: ``R`` labels; an empty one leaves no trace.
        columns: ``S`` labels, or none.
        title: Above all.
        groups: Rows that belong together, such as 2 for pairs: a gap is left after each; 0 for none.
    """
    pixels = _rgb(images)
    count, steps, height, width = pixels.shape[:4]
    cell = min(_CELL, (PAGE - 1.0) / steps)
    margin = 0.12 + 0.065 * max((len(line) for row in rows for line in row.split("\n")), default=0)
    top = (0.2 if columns else 0.05) + (0.25 if title else 0)
    gap = 0.12 * ((count - 1) // groups) if groups else 0
    tall = count * cell * height / width + gap + top + 0.05
    wide = margin + steps * cell + 0.08
    with style():
        figure = new_figure(wide, tall)
        figure.set_layout_engine("none")
        for r in range(count):
            above = r * cell * height / width + (0.12 * (r // groups) if groups else 0)
            bottom = 1 - (top + above + cell * height / width) / tall
            for s in range(steps):
                place = (
                    (margin + s * cell) / wide,
                    bottom,
                    0.96 * cell / wide,
                    0.96 * cell * height / width / tall,
                )
                axes = figure.add_axes(place)
                axes.imshow(pixels[r, s], interpolation="nearest", aspect="auto")
                axes.set_axis_off()
                if r == 0 and columns:
                    axes.set_title(columns[s], fontsize=7, pad=2)
            middle = bottom + 0.48 * cell * height / width / tall
            figure.text(0.9 * margin / wide, middle, rows[r], ha="right", va="center", fontsize=7)
        if title:
            figure.text(margin / wide, 1 - 0.04 / tall, title, ha="left", va="top", fontsize=8)
    return figure


def save_gif(path: Path, images: Tensor, seconds: float = 2.0) -> None:
    """The columns of ``(R, S, C, H, W)`` images one after another, there and back, in a loop."""
    pixels = _rgb(images)
    factor = max(1, 96 // pixels.shape[2])
    frames = []
    for s in [*range(pixels.shape[1]), *range(pixels.shape[1] - 2, 0, -1)]:
        column = np.concatenate(list(pixels[:, s]), axis=1)
        frames.append(Image.fromarray(column.repeat(factor, 0).repeat(factor, 1)))
    duration = round(1000 * seconds / pixels.shape[1])
    options = {"save_all": True, "append_images": frames[1:], "duration": duration, "loop": 0}
    write_atomically(path, lambda target: frames[0].save(target, format="GIF", **options))


def _rgb(images: Tensor) -> np.ndarray:
    """uint8, ``(R, S, H, W, 3)``."""
    if images.shape[2] == 1:
        images = images.expand(-1, -1, 3, -1, -1)
    return (images.detach().cpu().clamp(0, 1) * 255).round().byte().permute(0, 1, 3, 4, 2).numpy()
