"""Pictures of samples during training."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from pyro_lrp.core.randomness import seeded, some_rows
from pyro_lrp.data import Condition, NoCondition
from pyro_lrp.figures.classes import draw_by_class, rows_by_class
from pyro_lrp.figures.images import grid, save_picture
from pyro_lrp.models import Autoencoder
from pyro_lrp.trainer import Report

__all__ = ["SamplePictures"]

_DRAWN = 1000  # samples that are checked
_PICTURED = 64  # samples in a picture


class SamplePictures:
    """A training callback that samples the prior, saves pictures and reports the largest code.

    Args:
        directory: The run directory.
        seed: The seed of the noise, which is the same at every report.
        contexts: The contexts of training images; a conditional prior is sampled for some of them, chosen at
            random and always the same.
        condition: The meaning of the contexts; a picture has a row for each class, if they are classes.
    """

    def __init__(
        self, directory: Path, seed: int, contexts: Tensor, condition: Condition | None = None
    ) -> None:
        self.directory = directory
        self.seed = seed
        self.contexts = contexts[some_rows(len(contexts), _DRAWN, "pictures")]
        self.condition = condition or NoCondition()

    def __call__(self, report: Report) -> Mapping[str, float]:
        autoencoder = report.game.in_force()
        context = self._contexts(autoencoder)
        with seeded(self.seed, "pictures"):
            draw = autoencoder.draw(len(context), context=context)
        if report.picture_due and len(draw.images):
            name = f"step_{report.step:07d}_{report.phase}.png"
            picture = self._picture(autoencoder, draw.images)
            save_picture(self.directory / "samples" / name, picture)
            save_picture(self.directory / "figures" / "samples.png", picture)
        largest = math.inf
        if len(draw.latents):
            largest = draw.latents.abs().max().item()
        return {
            "samples/non_finite": draw.non_finite,
            "samples/max_abs_z": largest,
        }

    def _picture(self, autoencoder: Autoencoder, images: Tensor) -> Tensor:
        """The first of some images, or a labelled row of further samples for each class."""
        names = self.condition.classes(None)
        if not names:
            return grid(images[:_PICTURED])
        with seeded(self.seed, "pictures", "by class"):
            by_class, _ = draw_by_class(autoencoder, self.condition, names, _PICTURED)
        if not any(map(len, by_class.values())):
            return grid(images[:_PICTURED])
        return rows_by_class(by_class)

    def _contexts(self, autoencoder: Autoencoder) -> Tensor:
        """The contexts to draw for, one per sample."""
        if not autoencoder.prior.context_dim:
            return torch.zeros(_DRAWN, 0)
        count = _DRAWN
        if len(autoencoder.sites) > 1:
            count = _PICTURED  # several latents mean a large network: draw only the samples in the picture
        device = next(autoencoder.parameters()).device
        return self.contexts[:count].to(device)
