"""Phases laid out on the global counts of steps, epochs and images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pyro_lrp.core.errors import UserError
from pyro_lrp.objectives import Game, Turn
from pyro_lrp.schedules import Phase, Progress

__all__ = ["Span", "lay_out"]


@dataclass(frozen=True)
class Span:
    """A phase, and where it begins."""

    name: str
    turns: tuple[Turn, ...]
    epochs: int
    batch_size: int
    steps_per_epoch: int
    start: int
    first_epoch: int
    first_image: int

    @property
    def stop(self) -> int:
        return self.start + self.epochs * self.steps_per_epoch

    def progress(self, step: int) -> Progress:
        """Where a step of it stands."""
        done = step - self.start
        epoch = self.first_epoch + done // self.steps_per_epoch
        return Progress(epoch, done / (self.stop - self.start), self.name)

    def due(self, step: int, times: int, every: int) -> bool:
        """Whether one of ``times`` evenly spaced moments lies in the ``every`` steps up to ``step``."""
        before = max(0, (step - 1) // every * every - self.start)
        steps = self.stop - self.start
        return (step - self.start) * times // steps > before * times // steps


def lay_out(
    game: Game, phases: Sequence[Phase], batch_size: Callable[[str], int], images: int
) -> tuple[list[Span], list[str]]:
    """The phases that have something to train, one after another, and a note on each that has not.

    Raises:
        UserError: If nothing is left.
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
        size = batch_size(phase.name)
        spans.append(Span(phase.name, turns, phase.epochs, size, images // size, start, epoch, image))
        start, epoch = spans[-1].stop, epoch + phase.epochs
        image += (spans[-1].stop - spans[-1].start) * size
    if not spans:
        raise UserError("epochs and prior_epochs leave nothing to train: one of them must be above 0")
    return spans, notes
