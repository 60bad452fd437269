"""The bilevel evidence lower bound, in one evaluation of the prior."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pyro.infer
import torch
from pyro import poutine
from pyro.distributions import Unit
from pyro.infer.util import is_validation_enabled
from pyro.poutine.util import prune_subsample_sites
from pyro.util import check_model_guide_match
from torch import Tensor

from pyro_lrp.objectives.regularization import (
    ClosedForm,
    Fitted,
    FreeBits,
    Regularization,
    Sampled,
    Site,
    UpperWeight,
    has_conditionals,
    has_fit_loss,
    is_diagonal,
    is_point,
)
from pyro_lrp.objectives.weight import Weight

__all__ = ["BilevelELBO", "Losses"]


@dataclass(frozen=True)
class Losses:
    """The result of one turn.

    Attributes:
        loss: The scalar to descend.
        terms: Detached scalars in nats per image, for the log.
        latents: The codes that were drawn, by site.
    """

    loss: Tensor
    terms: dict[str, Tensor]
    latents: dict[str, Tensor] = field(default_factory=dict)


class BilevelELBO(pyro.infer.ELBO):
    r"""The bilevel evidence lower bound (Morrow and Chiu, Eq. 12-13), in one evaluation of the prior.

    Encoder and decoder ascend F, the prior ascends f:

    .. math::
        F = E_q[\log p(x|z)] + \beta E_q[\log p_\theta(z) - \log q(z|x)]

        f = E_q[\log p_\theta(z)]

    Any number of latent sites will do. A tensor that a model feeds into a prior besides the site's own value
    must pass :func:`pyro_lrp.gradients.boundary`. At β = 1 value and gradients are those of
    ``pyro.infer.Trace_ELBO``; elsewhere the VALUE is neither -F nor -f: read the terms of :meth:`losses`.

    A prior whose distribution brings a loss of its own (``fit_loss``, see :class:`pyro_lrp.priors.Prior`)
    descends that at the lower level; the upper level has log p(z) with the prior's parameters held, and at a
    constant β of 0 nothing of it, so that the term is ``fit_loss`` in place of ``log_prior`` and ``kl``. A
    deterministic encoder has neither ``entropy`` nor ``kl``.

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
        ValueError: If a weight or ``free_bits`` is negative or not finite, ``kl`` is unknown, or ``free_bits``
            is given with weights of the halves.

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
        beta_prior: float | None = None,
        beta_entropy: float | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(beta, Tensor):
            beta = _at_least_zero("beta", beta)
        if kl not in ("sampled", "analytic", "auto"):
            raise ValueError(f"expected kl to be sampled, analytic or auto, got {kl!r}")
        self._weight = Weight(beta)
        self.single_level = single_level
        self.kl = kl
        self.free_bits = _at_least_zero("free_bits", free_bits)
        self._beta_prior = _optional("beta_prior", beta_prior)
        self._beta_entropy = _optional("beta_entropy", beta_entropy)
        if self.free_bits and self.weighs_halves:
            raise ValueError("free_bits are bits of the whole KL: expected neither beta_prior nor beta_entropy")

    @property
    def weighs_halves(self) -> bool:
        """Whether the halves of the KL have weights of their own."""
        return self._beta_prior is not None or self._beta_entropy is not None

    @property
    def beta_prior(self) -> float | Tensor:
        """The present weight of E_q[-log p(z)] in F: the pull towards the prior."""
        if self._beta_prior is None:
            return self.beta
        return self._beta_prior

    @property
    def beta_entropy(self) -> float | Tensor:
        """The present weight of E_q[log q(z|x)] in F: the negative entropy of the codes."""
        if self._beta_entropy is None:
            return self.beta
        return self._beta_entropy

    @property
    def beta(self) -> float | Tensor:
        """The present weight; the game's, if a game scheduled it."""
        return self._weight()

    def weighed_by(self, weight: Weight) -> BilevelELBO:
        """This ELBO with a β that a game owns, and may schedule."""
        other = copy.copy(self)
        other._weight = weight
        return other

    def loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """The loss as a float, without gradients."""
        with torch.no_grad():
            loss = self.differentiable_loss(model, guide, *args, **kwargs)
        return loss.item()

    def loss_and_grads(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """Accumulate gradients, as ``pyro.infer.SVI`` asks, and return the loss."""
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        loss.backward(retain_graph=self.retain_graph)
        return loss.item()

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Tensor:
        """The loss to descend, summed over the batch (Pyro's convention)."""
        losses = self.losses(model, guide, *args, **kwargs)
        return losses.loss

    def losses(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Losses:
        """The loss, summed over the batch, and its terms, each a mean over the images.

        Raises:
            NotImplementedError: If a site of the guide cannot be reparametrized.
            ValueError: If ``kl="analytic"`` and a site has no closed form.
        """
        p, q = self._get_trace(model, guide, args, kwargs)
        sites = [*_samples(p)]
        factors = [s for s in sites if isinstance(s["fn"], Unit)]
        observed = [s for s in sites if s["is_observed"] and not isinstance(s["fn"], Unit)]
        latent = [s for s in sites if not s["is_observed"]]
        images = _number_of_images(observed)

        log_likelihood = _sum(s["log_prob_sum"] for s in observed)
        parts = [self._part(s, q.nodes[s["name"]], images) for s in latent]
        loss = self._objectives(log_likelihood, parts)
        terms = {"log_likelihood": log_likelihood.detach()}
        for factor in factors:  # pyro.factor: a term of the model's own, such as a penalty
            score = factor["log_prob_sum"]
            loss = loss - score
            terms[factor["name"]] = score.detach()

        terms |= _terms(parts)
        means = {name: term / images for name, term in terms.items()}
        values = {s["name"]: s["value"] for s in _samples(q)}
        return Losses(loss, means, values)

    def _objectives(self, log_likelihood: Tensor, parts: list[_Part]) -> Tensor:
        """-F for encoder and decoder, -f for the prior: Eq. 12-13, summed over the batch."""
        loss = -log_likelihood
        for part in parts:
            log_p, log_q, fit_loss = part.scores
            weight = part.weight
            # F: + beta log q(z|x). A constant 0 drops it: 0 * inf is NaN
            if weight.has_entropy:
                loss = loss + (weight.entropy * log_q).sum()
            # f of a prior that descends a loss of its own
            if fit_loss is not None:
                loss = loss + fit_loss
            if log_p is None:
                continue
            # f: - log p(z), whole for the prior. F: - beta log p(z), since beta
            # is already on the gradient with which the code entered the prior
            if not self.single_level:
                loss = loss - log_p.sum()
            # Eq. 11, one objective: - beta log p(z) for all
            elif weight.has_pull:
                loss = loss - (weight.pull * log_p).sum()
        return loss

    def _part(self, p: Site, q: Site, images: int) -> _Part:
        """The regularization of one site, and its weight."""
        kind = self._kind(p, q)
        weight = self._upper_weight(kind.dimensions(q))
        scores = kind.terms(p, q, weight)
        weight.decide(scores, images)
        return _Part(scores, weight, is_point(q["fn"]))

    def _kind(self, p: Site, q: Site) -> Sampled | ClosedForm:
        """How the KL of a site is to be had."""
        fitted = has_fit_loss(p["fn"]) and not self.single_level
        normal = is_diagonal(p["fn"]) or has_conditionals(p["fn"])
        closed = normal and is_diagonal(q["fn"]) and not fitted
        if closed and self.kl != "sampled":
            return ClosedForm()
        if self.kl == "analytic":
            kinds = f"{type(q['fn']).__name__} and {type(p['fn']).__name__}"
            raise ValueError(f"site {p['name']!r} has no closed-form KL ({kinds}): use kl=sampled or kl=auto")
        if fitted:
            return Fitted()
        return Sampled()

    def _upper_weight(self, dimensions: int) -> UpperWeight:
        plain = UpperWeight(self.beta_prior, self.beta_entropy, single_level=self.single_level)
        if not plain.has_pull or not self.free_bits:
            return plain
        free = self.free_bits * dimensions
        return FreeBits(self.beta, free, single_level=self.single_level)

    def _get_trace(self, model: Any, guide: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
        """The traces of the model and of the guide, with the images' log-probabilities."""
        q = poutine.trace(guide).get_trace(*args, **kwargs)
        q = prune_subsample_sites(q)
        for site in _samples(q):
            if not site["fn"].has_rsample:
                raise NotImplementedError(f"site {site['name']!r} cannot be reparametrized: it needs rsample")
        # contexts and features enter the priors while the model runs
        weight = UpperWeight(self.beta_prior, single_level=self.single_level)
        with weight.levels():
            replayed = poutine.replay(model, trace=q)
            p = poutine.trace(replayed).get_trace(*args, **kwargs)
            p = prune_subsample_sites(p)
            if is_validation_enabled():
                check_model_guide_match(p, q)
            p.compute_log_prob(lambda name, site: site["is_observed"])
        return p, q


class _Part(NamedTuple):
    """What one latent site adds to the loss."""

    scores: Regularization
    weight: UpperWeight
    is_point: bool


@torch.no_grad()
def _terms(parts: list[_Part]) -> dict[str, Tensor]:
    """The terms of all latent sites, summed over the batch; only those that every site has."""
    terms = {}
    log_q = _sum(part.scores.log_q.sum() for part in parts)
    scores = [part.scores.log_p for part in parts]
    log_ps = [score.sum() for score in scores if score is not None]
    has_log_p = len(log_ps) == len(parts)
    has_entropy = not any(part.is_point for part in parts)
    if has_entropy:
        terms["entropy"] = -log_q
    if has_log_p:
        terms["log_prior"] = _sum(log_ps)
    if has_entropy and has_log_p:
        terms["kl"] = log_q - _sum(log_ps)
    own = [part.scores.fit_loss for part in parts]
    fit_losses = [loss for loss in own if loss is not None]
    if fit_losses:
        terms["fit_loss"] = _sum(fit_losses)
    return terms


def _at_least_zero(name: str, value: float) -> float:
    is_number = isinstance(value, (int, float))
    if not (is_number and math.isfinite(value) and value >= 0):
        raise ValueError(f"expected {name} to be a finite number of at least 0, got {value!r}")
    return float(value)


def _optional(name: str, value: float | None) -> float | None:
    if value is None:
        return None
    return _at_least_zero(name, value)


def _samples(trace: Any) -> Iterator[Site]:
    for site in trace.nodes.values():
        if site["type"] == "sample":
            yield site


def _sum(terms: Iterable[Tensor]) -> Tensor:
    """The sum in order, without a zero to start from; a zero if there are no terms."""
    first, *rest = [*terms] or [torch.zeros(())]
    return sum(rest, start=first)


def _number_of_images(observed: list[Site]) -> int:
    """How many images the scaled log-probabilities stand for: the full size of the observed sites' plates."""
    if not observed:
        return 1
    frames = observed[0]["cond_indep_stack"]
    return math.prod(f.full_size or f.size for f in frames)
