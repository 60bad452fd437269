"""The bilevel evidence lower bound, in one evaluation of the prior."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pyro.infer
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.infer.util import is_validation_enabled
from pyro.poutine.util import prune_subsample_sites
from pyro.util import check_model_guide_match
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from pyro_lrp.core.gradients import bilevel, frozen, scale_grad

__all__ = ["BilevelELBO", "Losses", "is_diagonal"]

_LOG_2PI = math.log(2.0 * math.pi)


@dataclass(frozen=True)
class Losses:
    """A scalar to descend, detached terms in nats per image for the log, and the codes drawn, by site."""

    loss: Tensor
    terms: dict[str, Tensor]
    latents: dict[str, Tensor] = field(default_factory=dict)


class BilevelELBO(pyro.infer.ELBO):
    r"""The bilevel evidence lower bound (Morrow and Chiu, Eq. 12-13), in one evaluation of the prior.

    Encoder and decoder get the gradient of
    :math:`F = E_q[\log p(x|z) + \beta (\log p_\theta(z) - \log q(z|x))]`, the prior that of
    :math:`f = E_q[\log p_\theta(z)]`, for every number of latent sites. What a model feeds into a prior besides
    the site's own value must pass :func:`pyro_lrp.gradients.boundary`. At β = 1 value and gradients are those
    of ``pyro.infer.Trace_ELBO``; elsewhere the VALUE is neither -F nor -f: read the terms of :meth:`losses`.

    A prior whose distribution brings a loss of its own (``fit_loss``, see :class:`pyro_lrp.priors.Prior`)
    descends that at the lower level; the upper level has log p(z) with the prior's parameters held, and at a
    constant β of 0 nothing of it, so that the term is ``fit_loss`` in place of ``log_prior`` and ``kl``.

    Args:
        beta: Weight of the latent regularization in the upper objective, at least 0. A 0-dim tensor may change
            from step to step; a constant 0.0 skips what it would multiply.
        single_level: Eq. 11 instead: one objective F for all, so the prior too gets the β-weighted gradient.
        kl: ``"sampled"``; ``"analytic"`` for the closed form, which needs sites whose q(z|x) and p(z) are both
            diagonal normals (of an autoregressive p(z), given the dimensions before each); ``"auto"`` for the
            closed form where there is one.
        free_bits: Nats per latent dimension that are not regularized (Kingma et al., 2016, Eq. 15): the upper
            objective has max(free_bits, KL) in place of the batch's mean KL, dimension by dimension in closed
            form, for a sampled KL over the whole site. The lower objective is as ever.

    Raises:
        ValueError: If ``beta`` or ``free_bits`` is negative or not finite, or ``kl`` is unknown.

    >>> from pyro_lrp import likelihoods, networks, priors
    >>> from pyro_lrp.models import Autoencoder
    >>> networks_of_an_mlp = networks.mlp((1, 8, 8), latent_dim=2, hidden_dims=(16,))
    >>> ae = Autoencoder(*networks_of_an_mlp, priors.StandardNormal(2), likelihoods.Gaussian())
    >>> losses = BilevelELBO(beta=0.0).losses(ae.model, ae.guide, torch.rand(4, 1, 8, 8))
    >>> sorted(losses.terms)
    ['entropy', 'kl', 'log_likelihood', 'log_prior']
    """

    def __init__(
        self,
        beta: float | Tensor = 0.0,
        *,
        single_level: bool = False,
        kl: str = "sampled",
        free_bits: float = 0.0,
    ) -> None:
        super().__init__()
        if not isinstance(beta, Tensor):
            beta = _at_least_zero("beta", beta)
        if kl not in ("sampled", "analytic", "auto"):
            raise ValueError(f"expected kl to be sampled, analytic or auto, got {kl!r}")
        self.beta, self.single_level = beta, single_level
        self.kl, self.free_bits = kl, _at_least_zero("free_bits", free_bits)

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
        observed = [site for site in _samples(model_trace) if site["is_observed"]]
        images = _number_of_images(observed)
        log_likelihood = _sum(site["log_prob_sum"] for site in observed)
        loss, terms = -log_likelihood, {"log_likelihood": log_likelihood}
        sites = [s for s in _samples(model_trace) if not s["is_observed"]]
        parts = [self._regularization(site, guide_trace.nodes[site["name"]], images) for site in sites]
        for part in parts:
            loss = loss + _weigh(part.log_q, part.weight) + part.fit_loss
            if part.log_p is not None:
                loss = loss - (_weigh(part.log_p, part.weight) if self.single_level else part.log_p.sum())
        log_posterior = sum((part.log_q.sum() for part in parts), start=_zero(observed))
        terms["entropy"] = -log_posterior
        scores = [part.log_p.sum() for part in parts if part.log_p is not None]
        if len(scores) == len(parts):
            log_prior = sum(scores, start=_zero(observed))
            terms |= {"log_prior": log_prior, "kl": log_posterior - log_prior}
        if any(self._brings_its_own_loss(site["fn"]) for site in sites):
            terms["fit_loss"] = sum((part.fit_loss for part in parts), start=_zero(observed))
        latents = {name: s["value"] for name, s in guide_trace.nodes.items() if s["type"] == "sample"}
        return Losses(loss, {name: term.detach() / images for name, term in terms.items()}, latents)

    def _get_trace(self, model: Any, guide: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
        guide_trace = prune_subsample_sites(poutine.trace(guide).get_trace(*args, **kwargs))
        for site in _samples(guide_trace):
            if not site["fn"].has_rsample:
                raise NotImplementedError(f"site {site['name']!r} cannot be reparametrized: it needs rsample")
        with self._levels():
            replayed = poutine.replay(model, trace=guide_trace)
            model_trace = prune_subsample_sites(poutine.trace(replayed).get_trace(*args, **kwargs))
            if is_validation_enabled():
                check_model_guide_match(model_trace, guide_trace)
            model_trace.compute_log_prob(lambda name, site: site["is_observed"])
        return model_trace, guide_trace

    def _levels(self) -> AbstractContextManager:
        return nullcontext() if self.single_level else bilevel(self.beta)

    def _brings_its_own_loss(self, fn: Any) -> bool:
        return not self.single_level and hasattr(fn, "fit_loss")

    def _regularization(self, p: dict, q: dict, images: int) -> _Regularization:
        """What a site adds to the loss, summed over the batch."""
        shifts = getattr(p["fn"], "shifts_alone", False)
        closed = self.kl != "sampled" and is_diagonal(q["fn"]) and (is_diagonal(p["fn"]) or shifts)
        if self.kl == "analytic" and not closed:
            kinds = f"{type(q['fn']).__name__} and {type(p['fn']).__name__}"
            raise ValueError(f"site {p['name']!r} has no closed-form KL ({kinds}): use kl=sampled or kl=auto")
        weight: float | Tensor = self.beta
        log_p: Tensor | None
        gated = self.free_bits and self._regularizes()
        if gated:  # filled in once the KL is known: gradients read it when they flow back
            weight = p["value"].new_ones(q["fn"].event_shape if closed else ())

        def cross(tensor: Tensor) -> Tensor:
            return tensor if self.single_level else scale_grad(tensor, weight)

        if closed:
            with self._levels():
                normal = p["fn"].conditionals(cross(p["value"])) if shifts else p["fn"]
            log_p, log_q = _expected(q["fn"], normal, cross)
        else:
            log_p = self._score(p, cross)
            # at a constant beta of 0 the entropy is only logged
            with nullcontext() if self._regularizes() else torch.no_grad():
                log_q = q["fn"].log_prob(q["value"])
        batch_dims = len(q["fn"].batch_shape)
        log_q = _sum_over_batch(log_q, q, batch_dims)
        log_p = None if log_p is None else _sum_over_batch(log_p, p, batch_dims)
        if gated:
            assert isinstance(weight, Tensor), "made above"
            assert log_p is not None, "beta is not a constant 0"
            free = self.free_bits * (1 if closed else math.prod(q["fn"].event_shape))
            with torch.no_grad():
                weight.copy_(self.beta * ((log_q - log_p) / images > free))
        fit_loss = torch.zeros_like(log_q.sum())
        if self._brings_its_own_loss(p["fn"]):
            fit_loss = _sum_over_batch(p["fn"].fit_loss(p["value"].detach()), p, batch_dims)
        return _Regularization(log_p, log_q, weight, fit_loss)

    def _regularizes(self) -> bool:
        return isinstance(self.beta, Tensor) or self.beta != 0.0

    def _score(self, p: dict, cross: Callable[[Tensor], Tensor]) -> Tensor | None:
        """Of a site's value, log p; None where only the prior's own loss would need it."""
        own = self._brings_its_own_loss(p["fn"])
        if own and not self._regularizes():
            return None
        with self._levels(), frozen(p["fn"].fitted) if own else nullcontext():
            return p["fn"].log_prob(cross(p["value"]))


class _Regularization(NamedTuple):
    """Of one site, summed over the batch and, but for its own loss, by group; and the weight of each group."""

    log_p: Tensor | None
    log_q: Tensor
    weight: float | Tensor
    fit_loss: Tensor


def _at_least_zero(name: str, value: float) -> float:
    if not (isinstance(value, (int, float)) and math.isfinite(value) and value >= 0):
        raise ValueError(f"expected {name} to be a finite number of at least 0, got {value!r}")
    return float(value)


def _weigh(terms: Tensor, weight: float | Tensor) -> Tensor:
    # a constant 0.0 must drop the term, not multiply it: 0 * inf is NaN
    skip = not isinstance(weight, Tensor) and weight == 0.0
    return torch.zeros_like(terms).sum() if skip else (weight * terms).sum()


def _normal(fn: Distribution) -> Distribution:
    while isinstance(fn, Independent):
        fn = fn.base_dist
    return fn


def is_diagonal(fn: Distribution) -> bool:
    """Whether a distribution is a normal with independent dimensions."""
    return isinstance(_normal(fn), Normal)


def _expected(q: Distribution, p: Distribution, cross: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """E_q[log p] and E_q[log q] of diagonal normals, dimension by dimension."""
    loc, scale, normal = cross(q.mean), cross(q.stddev), _normal(p)
    log_p = -0.5 * (_LOG_2PI + ((loc - normal.mean).square() + scale.square()) / normal.variance)
    return log_p - normal.stddev.log(), -0.5 * (1.0 + _LOG_2PI) - q.stddev.log()


def _sum_over_batch(terms: Tensor, site: dict, batch_dims: int) -> Tensor:
    """Sum over plates, subsampling scales and masks applied; what is left are the groups of the KL."""
    scale, mask, groups = site["scale"], site["mask"], terms.dim() - batch_dims
    if groups:
        scale, mask = (_widen(factor, groups) for factor in (scale, mask))
    terms = scale_and_mask(terms, scale, mask)
    return terms.sum(tuple(range(batch_dims))) if batch_dims else terms  # sum over () would sum over all


def _widen(factor: Any, dims: int) -> Any:
    return factor.reshape(factor.shape + (1,) * dims) if isinstance(factor, Tensor) else factor


def _samples(trace: Any) -> Iterator[dict[str, Any]]:
    return (site for site in trace.nodes.values() if site["type"] == "sample")


def _sum(terms: Iterator[Tensor]) -> Tensor:
    first, *rest = [*terms] or [torch.zeros(())]
    return sum(rest, start=first)


def _zero(observed: list[dict[str, Any]]) -> Tensor:
    return torch.zeros_like(observed[0]["log_prob_sum"]) if observed else torch.zeros(())


def _number_of_images(observed: list[dict[str, Any]]) -> int:
    """How many images the scaled log-probabilities stand for: the full size of the observed sites' plates."""
    for site in observed:
        return math.prod(frame.full_size or frame.size for frame in site["cond_indep_stack"])
    return 1
