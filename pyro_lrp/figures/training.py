"""Pictures of samples during training."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from pyro_lrp.core.randomness import seeded, some_rows
from pyro_lrp.data import Condition, NoCondition, Split
from pyro_lrp.figures.classes import draw_by_class, rows_by_class
from pyro_lrp.figures.curves import training_curves
from pyro_lrp.figures.images import grid, save_picture
from pyro_lrp.figures.overview import overview
from pyro_lrp.figures.progress import frame, save_progress
from pyro_lrp.figures.style import save_figure
from pyro_lrp.models import Autoencoder
from pyro_lrp.objectives import Game
from pyro_lrp.trainer import Report
from pyro_lrp.trainer.history import read_rows

__all__ = ["SamplePictures", "draw_training"]

_DRAWN = 1000  # samples whose codes are checked
_PICTURED = 64  # samples in a picture


class SamplePictures:
    """A training callback that samples the prior, saves a picture and reports the largest code.

    Args:
        directory: The run directory.
        seed: The seed of the noise, which is the same at every report.
        contexts: The contexts of training images; a conditional prior is sampled for some of them, chosen at
            random and always the same.
        condition: The meaning of the contexts; a picture has a row for each class, if they are classes.
        on_picture: Called with the step and each picture, for loggers.
    """

    def __init__(
        self,
        directory: Path,
        seed: int,
        contexts: Tensor,
        condition: Condition | None = None,
        on_picture: Callable[[int, Tensor], None] = lambda step, picture: None,
    ) -> None:
        self.directory = directory
        self.seed = seed
        self.contexts = contexts[some_rows(len(contexts), _DRAWN, "pictures")]
        self.condition = condition or NoCondition()
        self.on_picture = on_picture

    def __call__(self, report: Report) -> Mapping[str, float]:
        autoencoder = report.game.in_force()
        context = self._contexts(autoencoder)
        with seeded(self.seed, "pictures"):
            draw = autoencoder.draw(len(context), context=context, decoded=_PICTURED)
        if len(draw.images):
            picture = self._picture(autoencoder, draw.images)
            save_picture(frame(self.directory, report.row), picture, fast=True)
            if report.picture_due:
                save_picture(self.directory / "figures" / "samples.png", picture)
            self.on_picture(report.step, picture)
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


def draw_training(directory: Path, game: Game, test: Split, seed: int) -> Tensor:
    """Write the pictures of a finished training to ``figures``: overview, curves and animation.

    Args:
        directory: The run directory, with its ``metrics.jsonl``.
        game: The trained game.
        test: Test images.
        seed: Seed of the noise.

    Returns:
        The overview, uint8 of shape ``(3, H, W)``.
    """
    autoencoder = game.in_force()
    rows = read_rows(directory / "metrics.jsonl").rows
    folder = directory / "figures"
    picture = overview(autoencoder, test, seed)
    save_picture(folder / "overview.png", picture)
    curves = training_curves(rows, autoencoder.likelihood.unit)
    if curves is not None:
        save_figure(curves, folder / "curves.png")
    save_progress(directory, rows)
    return picture
