"""Phases laid out on the global counts of steps, epochs and images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pyro_lrp.core.errors import UserError
from pyro_lrp.objectives import Game, Turn
from pyro_lrp.schedules import Phase, Progress

__all__ = ["Span", "lay_out"]


@dataclass(frozen=True)
class Span:
    """A phase, and where it begins.

    Attributes:
        name: The phase's name.
        turns: The turns of each step.
        epochs: Its length.
        batch_size: Rows of a minibatch.
        steps_per_epoch: Whole minibatches of an epoch.
        start: Steps before it.
        first_epoch: Epochs before it.
        first_image: Images seen before it.
        prior_was_joint: Whether a joint phase comes before it.
    """

    name: str
    turns: tuple[Turn, ...]
    epochs: int
    batch_size: int
    steps_per_epoch: int
    start: int
    first_epoch: int
    first_image: int
    prior_was_joint: bool

    @property
    def stop(self) -> int:
        return self.start + self.epochs * self.steps_per_epoch

    def progress(self, step: int) -> Progress:
        """The progress of training at a step of the phase."""
        done = step - self.start
        epoch = self.first_epoch + done // self.steps_per_epoch
        fraction = done / (self.stop - self.start)
        return Progress(epoch, fraction, self.name, self.prior_was_joint)

    def position(self, step: int) -> dict[str, Any]:
        """Where training stands after a step of the phase, for a row of the metrics."""
        done = step - self.start
        epoch = self.first_epoch + done / self.steps_per_epoch
        return {
            "step": step,
            "images_seen": self.first_image + done * self.batch_size,
            "epoch": round(epoch, 4),
            "phase": self.name,
        }

    def due(self, step: int, times: int, every: int) -> bool:
        """Whether one of ``times`` evenly spaced moments lies in the ``every`` steps up to ``step``."""
        steps = self.stop - self.start
        done = step - self.start
        before = (step - 1) // every * every - self.start
        before = max(0, before)
        return done * times // steps > before * times // steps


def lay_out(
    game: Game, phases: Sequence[Phase], batch_size: Callable[[str], int], images: int
) -> tuple[list[Span], list[str]]:
    """The phases that have something to train, one after another, and a note on each that has not.

    Raises:
        UserError: If nothing is left, or the prior cannot be fitted to so few codes.
    """
    spans: list[Span] = []
    notes: list[str] = []
    start = epoch = image = 0
    for phase in phases:
        turns = game.turns(phase.name)
        if not turns:
            notes.append(f"phase {phase.name} is skipped: this model has nothing to train in it")
        if not turns or phase.epochs == 0:
            continue
        if phase.name == "prior_only":
            game.check_fit(images)
        size = batch_size(phase.name)
        was_joint = any(span.name == "joint" for span in spans)
        span = Span(phase.name, turns, phase.epochs, size, images // size, start, epoch, image, was_joint)
        spans.append(span)
        start = span.stop
        epoch += phase.epochs
        image += (span.stop - span.start) * size
    if not spans:
        raise UserError("epochs and prior_epochs leave nothing to train: one of them must be above 0")
    return spans, notes
