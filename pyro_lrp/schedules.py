"""Phases of training, and schedules of rates and weights: pure functions of how far training has come."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

__all__ = [
    "Constant", "ConstantThenLinear", "Halving", "Linear", "Phase", "Progress", "Schedule", "StepDecay",
]  # fmt: skip


@dataclass(frozen=True)
class Phase:
    """Some epochs of training.

    Attributes:
        name: ``"joint"``, ``"autoencoder_only"``, ``"decoder_only"`` or ``"prior_only"``.
        epochs: Its length.
    """

    name: str
    epochs: int


@dataclass(frozen=True)
class Progress:
    """Where a step stands.

    Attributes:
        epoch: Its epoch, counted through all phases.
        fraction: The done fraction of its phase.
        phase: The name of the phase.
        prior_was_joint: Whether the prior moved in an earlier, joint phase; with two stages it did not.
    """

    epoch: int
    fraction: float
    phase: str = "joint"
    prior_was_joint: bool = True

    @property
    def of_joint(self) -> float:
        """The done fraction of the phase in which the encoder moves; 1 once it is over."""
        if self.phase in ("decoder_only", "prior_only"):
            return 1.0
        return self.fraction

    @property
    def of_players(self) -> float:
        """The done fraction of the main phase of the players that move now.

        That is the joint phase, and each of two stages for the player that it trains; 1 in a phase that goes
        on after it: of the decoder alone, or of the prior alone after a joint one.
        """
        goes_on = self.phase == "prior_only" and self.prior_was_joint
        if goes_on or self.phase == "decoder_only":
            return 1.0
        return self.fraction


Schedule = Callable[[Progress], float]


@dataclass(frozen=True)
class Constant:
    """A factor of 1 throughout."""

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
        for name in ("start", "final"):
            value = getattr(self, name)
            if not _is_share(value):
                raise ValueError(f"expected {name} to be a share between 0 and 1, got {value!r}")

    def __call__(self, progress: Progress) -> float:
        past = max(0.0, progress.fraction - self.start)
        decayed = past / max(1.0 - self.start, 1e-9)
        return 1.0 - (1.0 - self.final) * decayed


@dataclass(frozen=True)
class Linear:
    """From ``initial`` until ``start`` of the joint phase, linearly to ``final`` at ``stop``, and then that.

    As a schedule of β it is a warm-up (``start=0``), or the ramp of the Variational U-Net (Esser et al., 2018):

    >>> ramp = Linear(start=0.5, stop=0.75, initial=1e-6)
    >>> [ramp(Progress(0, step / 100_000)) for step in (0, 50_000, 62_500, 75_000)]
    [1e-06, 1e-06, 0.5000005, 1.0]
    """

    start: float = 0.0
    stop: float = 0.1
    initial: float = 0.0
    final: float = 1.0

    def __post_init__(self) -> None:
        shares = _is_share(self.start) and _is_share(self.stop)
        if not (shares and self.start < self.stop):
            raise ValueError(
                f"expected shares start < stop between 0 and 1, got {self.start!r} and {self.stop!r}"
            )

    def __call__(self, progress: Progress) -> float:
        past = progress.of_joint - self.start
        done = past / (self.stop - self.start)
        done = min(max(done, 0.0), 1.0)
        return self.initial + (self.final - self.initial) * done


@dataclass(frozen=True)
class StepDecay:
    """Half the rate at each milestone, a share of the joint phase; 1 halves it for what comes after.

    The paper's CIFAR-10 runs (500 joint epochs, halved every 250) have the milestones 1/2 and 1, its
    disentanglement runs (300, every 100) 1/3 and 2/3. Shares keep the shape of a run that is made shorter.
    With two stages they are shares of each stage: the prior begins at the full rate.

    >>> schedule = StepDecay(milestones=(0.5, 1.0))
    >>> [schedule(Progress(0, fraction)) for fraction in (0.0, 0.499, 0.5, 0.999)]
    [1.0, 1.0, 0.5, 0.5]
    >>> schedule(Progress(500, 0.0, phase="prior_only"))
    0.25
    >>> stage = [Progress(500, fraction, "prior_only", prior_was_joint=False) for fraction in (0.0, 0.5)]
    >>> [schedule(progress) for progress in stage]
    [1.0, 0.5]
    """

    milestones: Sequence[float] = ()

    def __post_init__(self) -> None:
        milestones = self.milestones
        is_list = isinstance(milestones, (list, tuple))
        if not (is_list and all(_is_share(m) for m in milestones)):
            raise ValueError(f"expected milestones to be shares between 0 and 1, got {self.milestones!r}")

    def __call__(self, progress: Progress) -> float:
        # a hair of tolerance: 100 of 300 epochs are not below a third
        done = progress.of_players + 1e-9
        passed = sum(done >= m for m in self.milestones)
        return 0.5**passed


Halving = StepDecay  # the name in the stored configuration of earlier runs


def _is_share(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return 0 <= value <= 1
