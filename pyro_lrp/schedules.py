"""Phases of training, and learning-rate schedules: pure functions of how far training has come."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Constant", "ConstantThenLinear", "Halving", "Phase", "Progress", "Schedule"]


@dataclass(frozen=True)
class Phase:
    """Some epochs of ``"joint"`` or of ``"prior_only"`` training."""

    name: str
    epochs: int


@dataclass(frozen=True)
class Progress:
    """Where a step stands: its epoch, counted through all phases, and the done fraction of its phase."""

    epoch: int
    fraction: float


Schedule = Callable[[Progress], float]


@dataclass(frozen=True)
class Constant:
    """The rate as given (the paper, but for CIFAR-10)."""

    def __call__(self, progress: Progress) -> float:
        return 1.0


@dataclass(frozen=True)
class ConstantThenLinear:
    """Constant until ``start`` of each phase, then linear down to ``final`` of the rate at its end.

    >>> [ConstantThenLinear(start=0.5, final=0.0)(Progress(0, f)) for f in (0.0, 0.5, 0.75)]
    [1.0, 1.0, 0.5]
    """

    start: float = 0.5
    final: float = 0.02

    def __post_init__(self) -> None:
        for name, value in (("start", self.start), ("final", self.final)):
            if not (isinstance(value, (int, float)) and 0 <= value <= 1):
                raise ValueError(f"expected {name} to be a share between 0 and 1, got {value!r}")

    def __call__(self, progress: Progress) -> float:
        decayed = max(0.0, progress.fraction - self.start) / max(1.0 - self.start, 1e-9)
        return 1.0 - (1.0 - self.final) * decayed


@dataclass(frozen=True)
class Halving:
    """Half the rate after every ``every`` epochs, counted through all phases (CIFAR-10: 250; spec, section 7).

    >>> [Halving(every=250)(Progress(epoch, 0.0)) for epoch in (0, 249, 250, 500)]
    [1.0, 1.0, 0.5, 0.25]
    """

    every: int

    def __post_init__(self) -> None:
        if not (isinstance(self.every, int) and self.every >= 1):
            raise ValueError(f"expected every to be a whole number of at least 1, got {self.every!r}")

    def __call__(self, progress: Progress) -> float:
        return 0.5 ** (progress.epoch // self.every)
