r"""The regularization of one latent site: log p(z) and log q(z|x), the two halves of its KL.

Three kinds of site give them:

- :class:`Sampled`: both at the code that was drawn;
- :class:`ClosedForm`: both in expectation, for diagonal normals;
- :class:`Fitted`: log p(z) for the upper objective only, since the prior descends a loss of its own.

The upper objective F weighs both by :math:`\beta`; the lower objective f has log p(z) unweighed (Eq. 12-13).
One evaluation of the prior serves both objectives: a code enters the prior through :meth:`UpperWeight.enter`,
which multiplies the gradient on its way back to the encoder; that of the prior's parameters stays as it is.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from pyro.distributions import Delta
from pyro.distributions.util import scale_and_mask
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from pyro_lrp.core.gradients import Gate, bilevel, frozen, scale_grad

__all__ = [
    "ClosedForm", "Fitted", "FreeBits", "Regularization", "Sampled", "UpperWeight", "is_diagonal", "is_point",
]  # fmt: skip

_LOG_2PI = math.log(2.0 * math.pi)
Site = dict[str, Any]


class Regularization(NamedTuple):
    """The scores of one site in nats, summed over the batch.

    Attributes:
        log_p: E_q[log p(z)]; None where no objective needs it. Shape ``()``, or in closed form that of the
            event: one entry for each dimension.
        log_q: E_q[log q(z|x)], likewise.
        fit_loss: The prior's own loss, shape ``()``; None if it has none.
    """

    log_p: Tensor | None
    log_q: Tensor
    fit_loss: Tensor | None = None


class UpperWeight:
    """The weights of one site's KL in the upper objective: those of its two halves, β each by default.

    Args:
        pull: Of -log p(z): a constant, or a 0-dim tensor that may change from step to step.
        entropy: Of log q(z|x), likewise; ``pull`` if None.
        single_level: One objective for all players, so that log p(z) itself is weighed, not its gradient.

    Attributes:
        pull: See above; may become a tensor that broadcasts against the scores.
        entropy: Likewise.
    """

    pull: float | Tensor
    entropy: float | Tensor

    def __init__(
        self,
        pull: float | Tensor,
        entropy: float | Tensor | None = None,
        *,
        single_level: bool = False,
    ) -> None:
        self.pull = pull
        self.entropy = pull if entropy is None else entropy
        self.single_level = single_level

    @property
    def has_pull(self) -> bool:
        """Whether F has log p(z): it has not if the weight is a constant 0."""
        return not _is_zero(self.pull)

    @property
    def has_entropy(self) -> bool:
        """Whether F has log q(z|x), likewise; if not, it is only logged."""
        return not _is_zero(self.entropy)

    def enter(self, tensor: Tensor) -> Tensor:
        """Mark a tensor that enters the prior: the identity, whose gradient is weighed."""
        if self.single_level:
            return tensor
        return scale_grad(tensor, self.pull)

    def levels(self) -> AbstractContextManager:
        """The block in which a prior is evaluated: what else enters it passes ``boundary``."""
        if self.single_level:
            return nullcontext()
        return bilevel(self.pull)

    def decide(self, scores: Regularization, images: int) -> None:
        """Called once the scores are known, before any gradient flows back."""


class FreeBits(UpperWeight):
    """β where the KL exceeds the free nats, and 0 elsewhere (Kingma et al., 2016, Eq. 15).

    The derivative of β max(free, KL) is that of β KL above ``free``, and 0 below. The KL that decides comes
    out of the very evaluation of the prior whose gradient is weighed, so the code enters through a gate.

    Args:
        beta: As in :class:`UpperWeight`; not a constant 0.
        free: Nats of each entry of the scores that are not regularized.
        single_level: As in :class:`UpperWeight`.
    """

    def __init__(self, beta: float | Tensor, free: float, *, single_level: bool = False) -> None:
        super().__init__(beta, single_level=single_level)
        self.beta = beta
        self.free = free
        self.gate = Gate()

    def enter(self, tensor: Tensor) -> Tensor:
        if self.single_level:
            return tensor
        return self.gate(tensor)

    @torch.no_grad()
    def decide(self, scores: Regularization, images: int) -> None:
        assert scores.log_p is not None, "beta is not a constant 0"
        kl = (scores.log_q - scores.log_p) / images
        above = (kl > self.free).to(kl)
        self.pull = self.beta * above
        self.entropy = self.pull
        self.gate.factor = self.pull


class Sampled:
    """log p(z) and log q(z|x) at the code that was drawn."""

    def dimensions(self, q: Site) -> int:
        """The number of latent dimensions that one entry of the scores stands for."""
        return math.prod(q["fn"].event_shape)

    def terms(self, p: Site, q: Site, weight: UpperWeight) -> Regularization:
        """The scores of a site.

        Args:
            p: The site in the model's trace: p(z), and the code.
            q: The same site in the guide's trace: q(z|x).
            weight: The weight of the KL in the upper objective.
        """
        log_p = self.log_p(p, weight)
        log_q = self.log_q(q, weight)
        log_q = over_batch(log_q, q, q)
        return Regularization(over_batch(log_p, p, q), log_q)

    def log_p(self, p: Site, weight: UpperWeight) -> Tensor:
        with weight.levels():
            z = weight.enter(p["value"])
            return p["fn"].log_prob(z)

    def log_q(self, q: Site, weight: UpperWeight) -> Tensor:
        # without a weight the entropy is only logged
        wanted = torch.is_grad_enabled() and weight.has_entropy
        with torch.set_grad_enabled(wanted):
            return q["fn"].log_prob(q["value"])


class ClosedForm:
    """E_q[log p(z)] and E_q[log q(z|x)] of diagonal normals, dimension by dimension.

    An autoregressive p(z) has conditionals instead, each given the dimensions of the code before its own.
    """

    def dimensions(self, q: Site) -> int:
        """The number of latent dimensions that one entry of the scores stands for."""
        return 1

    def terms(self, p: Site, q: Site, weight: UpperWeight) -> Regularization:
        """The scores of a site; see :meth:`Sampled.terms`."""
        normal = _normal(self.conditionals(p, weight))
        loc = weight.enter(q["fn"].mean)
        scale = weight.enter(q["fn"].stddev)
        # E_q[(z - m)^2] = (loc - m)^2 + scale^2
        square = (loc - normal.mean).square() + scale.square()
        log_p = -0.5 * (_LOG_2PI + square / normal.variance)
        log_p = log_p - normal.stddev.log()
        log_q = -0.5 * (1.0 + _LOG_2PI) - q["fn"].stddev.log()
        log_q = over_batch(log_q, q, q)
        return Regularization(over_batch(log_p, p, q), log_q)

    def conditionals(self, p: Site, weight: UpperWeight) -> Distribution:
        if not has_conditionals(p["fn"]):
            return p["fn"]
        with weight.levels():
            z = weight.enter(p["value"])
            return p["fn"].conditionals(z)


class Fitted(Sampled):
    """A prior that descends a loss of its own, ``fit_loss``, in place of -log p(z).

    The upper objective has log p(z) with the prior's parameters held. At a constant weight of 0 it has nothing
    of it, and log p(z), which may cost much, is not computed.
    """

    def terms(self, p: Site, q: Site, weight: UpperWeight) -> Regularization:
        if not weight.has_pull:
            log_q = self.log_q(q, weight)
            scores = Regularization(None, over_batch(log_q, q, q))
        else:
            with frozen(p["fn"].fitted):
                scores = super().terms(p, q, weight)
        z = p["value"].detach()
        fit_loss = p["fn"].fit_loss(z)
        fit_loss = over_batch(fit_loss, p, q)
        return scores._replace(fit_loss=fit_loss)


def _is_zero(weight: float | Tensor) -> bool:
    return not isinstance(weight, Tensor) and weight == 0.0


def has_fit_loss(fn: Distribution) -> bool:
    """Whether a prior's distribution brings a loss of its own."""
    return hasattr(fn, "fit_loss")


def has_conditionals(fn: Distribution) -> bool:
    """Whether a distribution is autoregressive with normal conditionals that shift each dimension alone."""
    return getattr(fn, "shifts_alone", False)


def is_diagonal(fn: Distribution) -> bool:
    """Whether a distribution is a normal with independent dimensions."""
    return isinstance(_normal(fn), Normal)


def is_point(fn: Distribution) -> bool:
    """Whether a distribution is a single point, which has no entropy: that of a deterministic encoder."""
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    return isinstance(fn, Delta)


def _normal(fn: Distribution) -> Distribution:
    while isinstance(fn, Independent):
        fn = fn.base_dist
    return fn


def over_batch(scores: Tensor, site: Site, q: Site) -> Tensor:
    """The sum over plates, with the site's subsampling scale and mask applied.

    Args:
        scores: Shape ``(*batch, *groups)``.
        site: Has the scale and the mask.
        q: Has the batch shape.

    Returns:
        Shape ``groups``.
    """
    batch_dims = len(q["fn"].batch_shape)
    groups = scores.dim() - batch_dims
    scale = _widen(site["scale"], groups)
    mask = _widen(site["mask"], groups)
    scores = scale_and_mask(scores, scale, mask)
    if batch_dims == 0:  # sum over () would sum over all
        return scores
    return scores.sum(tuple(range(batch_dims)))


def _widen(factor: Any, dims: int) -> Any:
    if dims and isinstance(factor, Tensor):
        return factor.reshape(factor.shape + (1,) * dims)
    return factor
