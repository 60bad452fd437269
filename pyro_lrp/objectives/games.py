"""Training as a game of named players, and the game of one ELBO.

A player is a group of modules; players are disjoint and, together, all that learns. A turn computes one
loss and moves one or more players. A game knows no optimizer and no device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pyro_lrp.models import Autoencoder
from pyro_lrp.objectives.elbo import BilevelELBO, Losses, is_diagonal
from pyro_lrp.schedules import Constant, Progress, Schedule

__all__ = ["Codes", "Game", "LatentGame", "Turn", "Weight"]


class Codes(NamedTuple):
    """Parameters of q(z|x) of some images: ``loc`` and ``scale``, each ``(B, *event_shape)``."""

    loc: Tensor
    scale: Tensor

    def sample(self) -> Tensor:
        """Codes drawn anew from q(z|x)."""
        return self.loc + self.scale * torch.randn_like(self.scale)


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
        """The turns of one step in ``"joint"`` or ``"prior_only"``; none if the phase has nothing to move."""
        raise NotImplementedError

    def initialize(self, batch: Any) -> None:
        """Data-dependent initialisation, called once before optimizers exist."""

    def advance(self, progress: Progress) -> None:
        """Set what is scheduled; called before each step."""

    def codes(self, batch: Any) -> Codes | None:
        """What a prior-only phase may cache and be given in place of images; None if it cannot."""
        return None

    def score(self, batch: Any) -> dict[str, Tensor]:
        """Terms on a held-out batch, as means over its images."""
        return {}

    def forward(self, turn: str, batches: Sequence[Any], memo: dict[str, Any]) -> Losses:
        """The loss of one turn, in nats per image. ``memo`` holds what earlier turns of the step computed."""
        raise NotImplementedError


class Weight(nn.Module):
    """A number that may follow a schedule: a constant stays a Python float, a scheduled one is a 0-dim tensor.

    Args:
        value: The constant, or what the schedule's factors multiply.
        schedule: Factor over the progress of training; None or ``Constant`` for none.

    >>> from pyro_lrp.schedules import Linear
    >>> beta = Weight(4.0, Linear(start=0.0, stop=0.5))
    >>> beta.advance(Progress(0, 0.25))
    >>> beta()
    tensor(2.)
    """

    scheduled: Tensor

    def __init__(self, value: float | Tensor, schedule: Schedule | None = None) -> None:
        super().__init__()
        self.value = value
        self.schedule = None if isinstance(schedule, Constant) else schedule
        if self.schedule is not None:
            if isinstance(value, Tensor):
                raise ValueError("expected beta to be a number where there is a beta_schedule, got a tensor")
            self.register_buffer("scheduled", torch.zeros(()), persistent=False)  # a function of the step
            self.advance(Progress(0, 0.0))

    def advance(self, progress: Progress) -> None:
        """Set the value of a scheduled weight."""
        if self.schedule is not None:
            self.scheduled.fill_(float(self.value) * self.schedule(progress))

    def forward(self) -> float | Tensor:
        return self.value if self.schedule is None else self.scheduled

    def terms(self, name: str) -> dict[str, Tensor]:
        """What is worth a line in the log: the weight, if it changes."""
        return {} if self.schedule is None else {name: self.scheduled.clone()}


class LatentGame(Game):
    """An autoencoder and its prior under one ELBO: the joint turn moves both, the prior's turn only the prior.

    Args:
        autoencoder: Its encoder, decoder and likelihood are the player ``autoencoder``; its prior is ``prior``.
        elbo: Computes the joint turn.
        beta_schedule: Factor of the ELBO's β over the joint phase.

    Raises:
        TypeError: If the prior has no density, or no closed form that the ELBO insists on.
    """

    def __init__(
        self, autoencoder: Autoencoder, elbo: BilevelELBO, beta_schedule: Schedule | None = None
    ) -> None:
        super().__init__()
        if not isinstance(elbo, BilevelELBO):
            raise TypeError(f"expected elbo to be a BilevelELBO, got {elbo!r}")
        if not autoencoder.prior.has_log_prob:
            kind = type(autoencoder.prior).__name__
            raise TypeError(f"{type(elbo).__name__} needs log p(z), and the prior {kind} can only be sampled")
        if elbo.kl == "analytic" and not is_diagonal(autoencoder.prior()):
            kind = type(autoencoder.prior).__name__
            raise TypeError(
                f"kl=analytic needs a diagonal normal p(z), which {kind} is not: use sampled or auto"
            )
        self.autoencoder, self.elbo = autoencoder, elbo
        self.beta = Weight(elbo.beta, beta_schedule)

    def players(self) -> dict[str, nn.ModuleList]:
        return players_of(self.autoencoder)

    def turns(self, phase: str) -> tuple[Turn, ...]:
        learns = prior_learns(self.autoencoder)
        if phase == "joint":
            return (Turn("joint", ("autoencoder", "prior") if learns else ("autoencoder",)),)
        return (Turn("prior", ("prior",)),) if phase == "prior_only" and learns else ()

    def advance(self, progress: Progress) -> None:
        self.beta.advance(progress)

    def codes(self, batch: Any) -> Codes:
        return codes_of(self.autoencoder, batch)

    def score(self, batch: Any) -> dict[str, Tensor]:
        return self._losses(batch).terms

    def forward(self, turn: str, batches: Sequence[Any], memo: dict[str, Any]) -> Losses:
        if turn == "prior":
            log_prior = self.autoencoder.prior().log_prob(batches[0].sample()).mean()
            return Losses(-log_prior, {"log_prior": log_prior.detach()})
        losses = self._losses(batches[0])
        extra = {**gamma_of(self.autoencoder), **self.beta.terms("beta")}
        return Losses(losses.loss / len(batches[0].x), {**losses.terms, **extra}, losses.latents)

    def _losses(self, batch: Any) -> Losses:
        self.elbo.beta = self.beta()  # its tensor, if it is scheduled, moves with the game's device
        return self.elbo.losses(self.autoencoder.model, self.autoencoder.guide, batch.x)


def players_of(autoencoder: Autoencoder) -> dict[str, nn.ModuleList]:
    """The two players of every autoencoder."""
    ae = autoencoder
    return {
        "autoencoder": nn.ModuleList([ae.encoder, ae.decoder, ae.likelihood]),
        "prior": nn.ModuleList([ae.prior]),
    }


def prior_learns(autoencoder: Autoencoder) -> bool:
    """Whether the prior has anything to train."""
    return any(p.requires_grad for p in autoencoder.prior.parameters())


def codes_of(autoencoder: Autoencoder, batch: Any) -> Codes:
    """q(z|x) of a batch."""
    q = autoencoder.encode(batch.x)
    return Codes(q.mean, q.stddev)


def gamma_of(autoencoder: Autoencoder) -> dict[str, Tensor]:
    """The decoder's variance, for the log, if the likelihood has one."""
    gamma = getattr(autoencoder.likelihood, "gamma", None)
    return {} if gamma is None else {"gamma": gamma.detach()}
