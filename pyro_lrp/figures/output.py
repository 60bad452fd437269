"""The files that ``sample`` writes: pictures, animations and arrays."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from pyro_lrp import figures
from pyro_lrp.core.files import write_atomically
from pyro_lrp.latents.views import Strip
from pyro_lrp.models import Draw

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw_strip", "write_draw", "write_strip"]


def write_draw(out: Path, draw: Draw) -> list[Path]:
    """Write samples as a grid (``.png``) or as arrays (``.npz``); returns the files."""
    if out.suffix == ".png":
        figures.save_png(out, figures.grid(draw.images))
    else:
        _write_arrays(out, draw.images, draw.latents)
    return [out]


def write_strip(out: Path, strip: Strip) -> list[Path]:
    """Write a strip: a picture (``.png``), an animation (``.gif``) or arrays (``.npz``); returns the files."""
    if out.suffix == ".png":
        return figures.save_figure(draw_strip(strip), out)
    if out.suffix == ".gif":
        figures.save_gif(out, strip.images)
    else:
        _write_arrays(out, strip.images.flatten(0, 1), strip.latents.flatten(0, 1))
    return [out]


def draw_strip(strip: Strip) -> Figure:
    """Draw a strip as a figure."""
    return figures.strips(strip.images, strip.rows, strip.columns, groups=strip.groups)


def _write_arrays(out: Path, images: Tensor, latents: Tensor) -> None:
    pixels = images.cpu().float().numpy()
    codes = latents.flatten(1).cpu().float().numpy()

    def write(path: Path) -> None:
        with open(path, "wb") as file:
            np.savez(file, images=pixels, latents=codes)

    write_atomically(out, write)
