"""A prior alone: its loss on codes, and the game that has no other player."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from pyro_lrp.core.gradients import bilevel
from pyro_lrp.objectives.elbo import Losses
from pyro_lrp.objectives.game import Game, Turn
from pyro_lrp.priors import Prior

__all__ = ["PriorGame", "check_prior_fit", "prior_loss"]


def prior_loss(prior: Prior, z: Tensor, context: Tensor) -> Losses:
    """The lower objective: -log p(z) of codes in nats per code, or the prior's own loss.

    Args:
        prior: Modules that it computes with and does not own receive no gradient.
        z: Codes, shape ``(B, *event_shape)``.
        context: Their contexts, shape ``(B, context_dim)``.
    """
    with bilevel(0.0):
        p = prior(context)
        if hasattr(p, "fit_loss"):
            loss = p.fit_loss(z).mean()
            return Losses(loss, {"fit_loss": loss.detach()})
        log_prior = p.log_prob(z).mean()
    return Losses(-log_prior, {"log_prior": log_prior.detach()})


def check_prior_fit(prior: Prior, codes: int) -> None:
    """Refuse a fit of a prior, or of one that is part of it, to so many codes."""
    for part in prior.modules():
        if isinstance(part, Prior):
            part.check_fit(codes)


class PriorGame(Game):
    """A prior and codes that are there already: no encoder, no decoder, no images.

    Args:
        prior: The player ``prior``.

    Raises:
        TypeError: If the prior has no density.
        ValueError: If it computes with an encoder, and so needs one.

    >>> import torch
    >>> from pyro_lrp import priors
    >>> from pyro_lrp.models import Codes
    >>> game = PriorGame(priors.Mixture(2, components=3))
    >>> codes = Codes(torch.zeros(5, 2), torch.zeros(5, 2), torch.zeros(5, 0))
    >>> sorted(game("prior", [codes], {}).terms)
    ['log_prior']
    """

    def __init__(self, prior: Prior) -> None:
        super().__init__()
        kind = type(prior).__name__
        if not prior.has_log_prob:
            raise TypeError(f"the prior {kind} can only be sampled: it cannot be fitted to codes alone")
        if type(prior).bind is not Prior.bind:
            raise ValueError(f"the prior {kind} computes with an encoder: it cannot be fitted to codes alone")
        self.prior = prior

    def players(self) -> dict[str, nn.ModuleList]:
        return {"prior": nn.ModuleList([self.prior])}

    def turns(self, phase: str) -> tuple[Turn, ...]:
        learns = any(p.requires_grad for p in self.prior.parameters())
        if phase == "prior_only" and learns:
            return (Turn("prior", ("prior",)),)
        return ()

    def check_fit(self, codes: int) -> None:
        check_prior_fit(self.prior, codes)

    def forward(self, turn: str, batches: Sequence[Any], memo: dict[str, Any]) -> Losses:
        (codes,) = batches
        return prior_loss(self.prior, codes.sample(), codes.context)
