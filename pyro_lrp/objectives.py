r"""The bilevel ELBO, and training as a game of named players.

A player is a group of modules; players are disjoint and, together, all that learns. A turn computes one
loss and moves one or more players. A game knows no optimizer, no epoch and no device.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyro.infer
import torch
from pyro import poutine
from pyro.infer.util import is_validation_enabled
from pyro.poutine.util import prune_subsample_sites
from pyro.util import check_model_guide_match
from torch import Tensor, nn

from pyro_lrp.gradients import bilevel, boundary, scale_grad
from pyro_lrp.models import Autoencoder

__all__ = ["BilevelELBO", "Codes", "Game", "LatentGame", "Losses", "Turn", "scale_grad"]


@dataclass(frozen=True)
class Losses:
    """A scalar to descend, and detached terms in nats per image for the log."""

    loss: Tensor
    terms: dict[str, Tensor]


class BilevelELBO(pyro.infer.ELBO):
    r"""The bilevel evidence lower bound (Morrow and Chiu, Eq. 12-13), in one evaluation of the prior.

    Encoder and decoder get the gradient of
    :math:`F = E_q[\log p(x|z) + \beta (\log p_\theta(z) - \log q(z|x))]`, the prior that of
    :math:`f = E_q[\log p_\theta(z)]`, for every number of latent sites. What a model feeds into a prior besides
    the site's own value must pass :func:`pyro_lrp.gradients.boundary`. At β = 1 value and gradients are those
    of ``pyro.infer.Trace_ELBO``; elsewhere the VALUE is neither -F nor -f: read the terms of :meth:`losses`.

    Args:
        beta: Weight of the latent regularization in the upper objective, at least 0. A 0-dim tensor may change
            from step to step; a constant 0.0 skips what it would multiply.
        single_level: Eq. 11 instead: one objective F for all, so the prior too gets the β-weighted gradient.

    Raises:
        ValueError: If ``beta`` is negative or not finite.

    >>> from pyro_lrp import likelihoods, networks, priors
    >>> networks_of_an_mlp = networks.mlp((1, 8, 8), latent_dim=2, hidden_dims=(16,))
    >>> ae = Autoencoder(*networks_of_an_mlp, priors.StandardNormal(2), likelihoods.Gaussian())
    >>> losses = BilevelELBO(beta=0.0).losses(ae.model, ae.guide, torch.rand(4, 1, 8, 8))
    >>> sorted(losses.terms)
    ['entropy', 'log_likelihood', 'log_prior']
    """

    def __init__(self, beta: float | Tensor = 0.0, *, single_level: bool = False) -> None:
        super().__init__()
        if not isinstance(beta, Tensor):
            if not (isinstance(beta, (int, float)) and math.isfinite(beta) and beta >= 0):
                raise ValueError(f"expected beta to be a finite number of at least 0, got {beta!r}")
            beta = float(beta)
        self.beta, self.single_level = beta, single_level

    def loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """The loss as a float, without gradients."""
        with torch.no_grad():
            return self.differentiable_loss(model, guide, *args, **kwargs).item()

    def loss_and_grads(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """Accumulate gradients, as ``pyro.infer.SVI`` asks, and return the loss."""
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        loss.backward(retain_graph=self.retain_graph)
        return loss.item()

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Tensor:
        """The loss to descend, summed over the batch (Pyro's convention)."""
        return self.losses(model, guide, *args, **kwargs).loss

    def losses(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Losses:
        """The loss, summed over the batch, and its terms, each a mean over the images."""
        model_trace, guide_trace = self._get_trace(model, guide, args, kwargs)
        log_likelihood = _sum(s["log_prob_sum"] for s in _samples(model_trace) if s["is_observed"])
        log_prior = _sum(s["log_prob_sum"] for s in _samples(model_trace) if not s["is_observed"])
        log_posterior = _sum(s["log_prob_sum"] for s in _samples(guide_trace))
        weighted = self._weigh(log_posterior)
        loss = weighted - log_likelihood - (self._weigh(log_prior) if self.single_level else log_prior)
        images = _number_of_images(model_trace)
        terms = {"log_likelihood": log_likelihood, "log_prior": log_prior, "entropy": -log_posterior}
        return Losses(loss, {name: term.detach() / images for name, term in terms.items()})

    def _weigh(self, term: Tensor) -> Tensor:
        # a constant 0.0 must drop the term, not multiply it: 0 * inf is NaN
        skip = not isinstance(self.beta, Tensor) and self.beta == 0.0
        return torch.zeros_like(term) if skip else self.beta * term

    def _get_trace(self, model: Any, guide: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
        guide_trace = prune_subsample_sites(poutine.trace(guide).get_trace(*args, **kwargs))
        for site in _samples(guide_trace):
            if not site["fn"].has_rsample:
                raise NotImplementedError(f"site {site['name']!r} cannot be reparametrized: it needs rsample")
        levels: AbstractContextManager = nullcontext() if self.single_level else bilevel(self.beta)
        with levels:
            replayed = poutine.replay(model, trace=guide_trace)
            model_trace = prune_subsample_sites(poutine.trace(replayed).get_trace(*args, **kwargs))
            if is_validation_enabled():
                check_model_guide_match(model_trace, guide_trace)
            for site in _samples(model_trace):
                if not site["is_observed"]:  # the decoder has already consumed the code itself
                    site["value"] = boundary(site["value"])
            model_trace.compute_log_prob()
        if isinstance(self.beta, Tensor) or self.beta != 0.0:
            guide_trace.compute_log_prob()
        else:
            with torch.no_grad():  # only for the log
                guide_trace.compute_log_prob()
        return model_trace, guide_trace


def _samples(trace: Any) -> Iterator[dict[str, Any]]:
    return (site for site in trace.nodes.values() if site["type"] == "sample")


def _sum(terms: Iterator[Tensor]) -> Tensor:
    first, *rest = [*terms] or [torch.zeros(())]
    return sum(rest, start=first)


def _number_of_images(model_trace: Any) -> int:
    """How many images the scaled log-probabilities stand for: the full size of the observed sites' plates."""
    for site in _samples(model_trace):
        if site["is_observed"]:
            return math.prod(frame.full_size or frame.size for frame in site["cond_indep_stack"])
    return 1


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

    def codes(self, batch: Any) -> Codes | None:
        """What a prior-only phase may cache and be given in place of images; None if it cannot."""
        return None

    def score(self, batch: Any) -> dict[str, Tensor]:
        """Terms on a held-out batch, as means over its images."""
        return {}

    def forward(self, turn: str, batches: Sequence[Any], memo: dict[str, Any]) -> Losses:
        """The loss of one turn, in nats per image. ``memo`` holds what earlier turns of the step computed."""
        raise NotImplementedError


class LatentGame(Game):
    """An autoencoder and its prior under one ELBO: the joint turn moves both, the prior's turn only the prior.

    Args:
        autoencoder: Its encoder, decoder and likelihood are the player ``autoencoder``; its prior is ``prior``.
        elbo: Computes the joint turn.

    Raises:
        TypeError: If the prior has no density.
    """

    def __init__(self, autoencoder: Autoencoder, elbo: BilevelELBO) -> None:
        super().__init__()
        if not isinstance(elbo, BilevelELBO):
            raise TypeError(f"expected elbo to be a BilevelELBO, got {elbo!r}")
        if not autoencoder.prior.has_log_prob:
            kind = type(autoencoder.prior).__name__
            raise TypeError(f"{type(elbo).__name__} needs log p(z), and the prior {kind} can only be sampled")
        self.autoencoder, self.elbo = autoencoder, elbo

    def players(self) -> dict[str, nn.ModuleList]:
        ae = self.autoencoder
        return {
            "autoencoder": nn.ModuleList([ae.encoder, ae.decoder, ae.likelihood]),
            "prior": nn.ModuleList([ae.prior]),
        }

    def turns(self, phase: str) -> tuple[Turn, ...]:
        learns = any(p.requires_grad for p in self.autoencoder.prior.parameters())
        if phase == "joint":
            return (Turn("joint", ("autoencoder", "prior") if learns else ("autoencoder",)),)
        return (Turn("prior", ("prior",)),) if phase == "prior_only" and learns else ()

    def codes(self, batch: Any) -> Codes:
        q = self.autoencoder.encode(batch.x)
        return Codes(q.mean, q.stddev)

    def score(self, batch: Any) -> dict[str, Tensor]:
        return self.elbo.losses(self.autoencoder.model, self.autoencoder.guide, batch.x).terms

    def forward(self, turn: str, batches: Sequence[Any], memo: dict[str, Any]) -> Losses:
        if turn == "prior":
            log_prior = self.autoencoder.prior().log_prob(batches[0].sample()).mean()
            return Losses(-log_prior, {"log_prior": log_prior.detach()})
        x = batches[0].x
        losses = self.elbo.losses(self.autoencoder.model, self.autoencoder.guide, x)
        gamma = getattr(self.autoencoder.likelihood, "gamma", None)
        extra = {} if gamma is None else {"gamma": gamma.detach()}
        return Losses(losses.loss / x.shape[0], {**losses.terms, **extra})
