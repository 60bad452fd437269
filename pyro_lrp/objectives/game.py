"""Training as a game of named players.

A player is a group of modules; players are disjoint and, together, all that learns. A turn computes one
loss and moves one or more players. A game knows no optimizer and no device.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from pyro_lrp.data import Batch, Split
from pyro_lrp.models import Autoencoder, Codes, ImageCodes
from pyro_lrp.objectives.elbo import Losses
from pyro_lrp.schedules import Progress

__all__ = ["Game", "Turn"]


@dataclass(frozen=True)
class Turn:
    """One loss of a step: which players it moves, and how many independent minibatches it asks for."""

    name: str
    moves: tuple[str, ...]
    batches: int = 1


class Game(nn.Module):
    """Losses for named players, turn by turn. Owns every module that learns."""

    def players(self) -> dict[str, nn.ModuleList]:
        """The modules of each player: disjoint, and complete."""
        raise NotImplementedError

    def turns(self, phase: str) -> tuple[Turn, ...]:
        """The turns of one step of a phase, see :class:`~pyro_lrp.schedules.Phase`.

        Empty if the phase has nothing to move.

        Raises:
            UserError: If the game has no such phase.
        """
        raise NotImplementedError

    def initialize(self, batch: Any) -> None:
        """Data-dependent initialisation with some minibatches as one, called once before optimizers exist."""

    def advance(self, progress: Progress) -> None:
        """Set all that depends on the progress of training; called on the host before each step."""

    def codes(self, images: Split | Batch) -> Codes | ImageCodes | None:
        """The codes of images; None if the game has none.

        A prior-only phase is given codes in the place of images, and images if there are none. A decoder-only
        phase is given :class:`~pyro_lrp.models.CodedImages`.
        """
        return None

    def caution(self, phase: str, images: Split) -> str | None:
        """What a phase on these training images must lead to, if it is nothing good; called before training."""
        return None

    def check_fit(self, codes: int) -> None:
        """Refuse a prior-only phase on so many codes; called before training."""

    def fit(self, codes: Codes | ImageCodes) -> dict[str, Any] | None:
        """Called once when a prior-only phase begins, with all training codes; returns what was estimated."""
        return None

    def score(self, batch: Any) -> dict[str, Tensor]:
        """Terms on a held-out batch, as means over its images."""
        return {}

    def fault(self, terms: Mapping[str, float]) -> str | None:
        """What is wrong with the means of the training terms since the last report; None if nothing is."""
        return None

    def in_force(self) -> Autoencoder:
        """The autoencoder with the prior of the present phase: what generates images now."""
        raise NotImplementedError

    def forward(self, turn: str, batches: Sequence[Any], memo: dict[str, Any]) -> Losses:
        """The loss of one turn, in nats per image. ``memo`` holds what earlier turns of the step computed."""
        raise NotImplementedError
