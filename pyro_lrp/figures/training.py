"""Pictures that are drawn while a model is trained."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from pyro_lrp.core.randomness import seeded
from pyro_lrp.figures.images import grid, save_png
from pyro_lrp.trainer import Report

__all__ = ["SamplePictures"]

_DRAWN, _PICTURED = 1000, 64


class SamplePictures:
    """Draws the prior, always with the same noise: a picture when one is due, and how far samples stray.

    Args:
        directory: Of the run.
        seed: Of the noise.
        contexts: The contexts of training images; a conditional prior is given the first ones.
    """

    def __init__(self, directory: Path, seed: int, contexts: Tensor) -> None:
        self.directory = directory
        self.seed = seed
        self.contexts = contexts[:_DRAWN]

    def __call__(self, report: Report) -> Mapping[str, float]:
        autoencoder = report.game.in_force()
        context = torch.zeros(_DRAWN, 0)
        if autoencoder.prior.context_dim:
            most = _DRAWN if len(autoencoder.sites) == 1 else _PICTURED  # large networks draw what is shown
            context = self.contexts[:most].to(next(autoencoder.parameters()).device)
        with seeded(self.seed, "pictures"):
            draw = autoencoder.draw(len(context), context=context)
        if report.picture_due and len(draw.images):
            picture = grid(draw.images[:_PICTURED])
            save_png(self.directory / "samples" / f"step_{report.step:07d}_{report.phase}.png", picture)
            save_png(self.directory / "figures" / "samples.png", picture)
        largest = draw.latents.abs().max().item() if len(draw.latents) else math.inf
        return {"samples/non_finite": draw.non_finite, "samples/max_abs_z": largest}
