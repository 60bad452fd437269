"""Files of pictures and arrays that ``sample`` writes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch import Tensor

from pyro_lrp import figures
from pyro_lrp.core.files import write_atomically
from pyro_lrp.latents.views import Strip
from pyro_lrp.models import Draw

__all__ = ["write_draw", "write_strip"]


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
        return figures.save_figure(
            figures.strips(strip.images, strip.rows, strip.columns, groups=strip.groups), out
        )
    if out.suffix == ".gif":
        figures.save_gif(out, strip.images)
    else:
        _write_arrays(out, strip.images.flatten(0, 1), strip.latents.flatten(0, 1))
    return [out]


def _write_arrays(out: Path, images: Tensor, latents: Tensor) -> None:
    pixels, codes = images.cpu().float().numpy(), latents.flatten(1).cpu().float().numpy()

    def write(path: Path) -> None:
        with open(path, "wb") as file:
            np.savez(file, images=pixels, latents=codes)

    write_atomically(out, write)
