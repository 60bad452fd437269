"""Importance-weighted bounds on log p(x), and normal proposals that are refined for each image."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor

from pyro_lrp.metrics.functional.checks import check_finite

__all__ = ["RATE", "STEPS", "Bound", "LogJoint", "importance_weighted_bound", "refine"]

LogJoint = Callable[[Tensor], "tuple[Tensor, Tensor]"]
STEPS = 200  # of Adam, to refine a proposal
RATE = 0.05
_DRAWS = 2_000  # codes that are scored at once; another number gives other random numbers


class Bound(NamedTuple):
    """A bound on log p(x) for each image and its parts; shape ``(B,)`` each, float64, in nats.

    Attributes:
        bound: Lower bound on log p(x), in expectation.
        sample_size: Effective sample size of the weights, between 1 and K.
        log_likelihood: Mean of log p(x|z) over the proposal.
        log_prior: Mean of log p(z).
        log_proposal: Mean of log q(z).
    """

    bound: Tensor
    sample_size: Tensor
    log_likelihood: Tensor
    log_prior: Tensor
    log_proposal: Tensor


@torch.no_grad()
def importance_weighted_bound(log_joint: LogJoint, proposal: TorchDistribution, k: int) -> Bound:
    r"""The bound :math:`\log \frac1K \sum_k p(x|z_k) p(z_k) / q(z_k)`, with :math:`z_k \sim q`.

    Its expectation never exceeds log p(x) and rises with K. At an effective sample size near 1 a single draw
    carries the sum: the proposal does not fit the posterior, and the bound is loose.

    Args:
        log_joint: Maps codes ``(k, B, *event)`` to log p(x|z) and log p(z), each ``(k, B)``.
        proposal: q, with batch shape ``(B,)``.
        k: Draws for each image, at least 1.

    Raises:
        ValueError: If there are no images or draws, or a term is NaN.

    References:
        Burda, Grosse and Salakhutdinov (2016), Importance Weighted Autoencoders, arXiv:1509.00519, Eq. 8.
    """
    if k < 1 or 0 in proposal.batch_shape:
        batch = tuple(proposal.batch_shape)
        raise ValueError(f"expected at least 1 draw for each of at least 1 image, got k={k}, batch {batch}")
    parts = []
    size = max(1, _DRAWS // proposal.batch_shape[0])
    for start in range(0, k, size):
        z = proposal.sample((min(size, k - start),))
        log_likelihood, log_prior = log_joint(z)
        log_proposal = proposal.log_prob(z)
        terms = torch.stack([log_likelihood, log_prior, log_proposal])
        parts.append(terms.double())
    log_likelihood, log_prior, log_proposal = torch.cat(parts, dim=1)
    log_weight = log_likelihood + log_prior - log_proposal
    _refuse_nan(log_weight)
    total = log_weight.logsumexp(0)
    sample_size = (2 * total - (2 * log_weight).logsumexp(0)).exp()
    return Bound(
        total - math.log(k),
        sample_size,
        log_likelihood.mean(0),
        log_prior.mean(0),
        log_proposal.mean(0),
    )


def _refuse_nan(log_weight: Tensor) -> None:
    """An infinite weight is an answer; one that is NaN would be lost in a mean over images."""
    wrong = log_weight.isnan().any(0)
    if wrong.any():
        raise ValueError(f"log p(x, z) / q(z) is NaN for {int(wrong.sum())} of {len(wrong)} images")


def refine(
    log_joint: LogJoint,
    loc: Tensor,
    scale: Tensor,
    *,
    unit: Tensor,
    steps: int = STEPS,
    rate: float = RATE,
) -> TorchDistribution:
    """A normal proposal for each image, by gradient ascent on its own ELBO from the encoder's proposal.

    At beta = 0 no term fits the encoder's scale to the posterior, and its bound says little. The refined
    proposal does not depend on the objective that the encoder was trained with.

    Args:
        log_joint: As in :func:`importance_weighted_bound`.
        loc: Means of the encoder, shape ``(B, *event)``.
        scale: Standard deviations of the encoder; those below a twentieth of ``unit`` start there.
        unit: Spread of each dimension of codes, shape ``event``; steps are in these units.
        steps: Steps of Adam, whose rate falls to 0 as a cosine.
        rate: The first rate.

    Raises:
        ValueError: If the encoder's means or standard deviations are not finite.

    References:
        Kim et al. (2018), Semi-Amortized Variational Autoencoders, arXiv:1802.02550.
    """
    check_finite(loc, "the encoder's means")
    check_finite(scale, "the encoder's standard deviations")
    shift = torch.zeros_like(loc, requires_grad=True)
    log_scale = torch.maximum(scale, unit / 20).log()
    log_scale = log_scale.detach().requires_grad_()
    adam = torch.optim.Adam([shift, log_scale], lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
    events = loc.dim() - 1

    def proposal(shift: Tensor, log_scale: Tensor) -> TorchDistribution:
        return dist.Normal(loc + unit * shift, log_scale.exp()).to_event(events)

    with torch.enable_grad():
        for _ in range(steps):
            q = proposal(shift, log_scale)
            log_likelihood, log_prior = log_joint(q.rsample((1,)))
            entropy = log_scale.flatten(1).sum(1)  # up to a constant
            elbo = log_likelihood + log_prior + entropy
            # with respect to these two alone: the model's own parameters get no gradients
            grads = torch.autograd.grad(-elbo.sum(), [shift, log_scale])
            shift.grad = torch.nan_to_num(grads[0], 0.0, 0.0, 0.0)
            log_scale.grad = torch.nan_to_num(grads[1], 0.0, 0.0, 0.0)
            adam.step()
            schedule.step()
    return proposal(shift.detach(), log_scale.detach())
