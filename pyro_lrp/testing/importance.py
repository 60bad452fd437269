"""Above dim 2: the mass by importance sampling, and a comparison of the samples with weighted draws."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from pyro_lrp.testing.core import At, Law
from pyro_lrp.testing.draws import number_of_scores, scores

__all__ = ["Proposal", "by_importance"]

_FIT = 5_000  # samples that the proposal is fitted to
_LEAST_SIZE = 200  # effective sample size below which a law has no power
_LEAST_SHARE = 0.05  # the same as a share of the draws
_SLACK = 1e-2  # for mass in tails that no draw reaches, as in the quadrature


class _Tail(NamedTuple):
    share: float
    degrees: float  # of freedom, of Student's t
    inflation: float  # factor of the variance


_TAILS = (
    _Tail(0.45, 30.0, 1.2),
    _Tail(0.45, 5.0, 1.2),
    _Tail(0.1, 1.0, 1.0),
)


class Proposal:
    """A mixture of multivariate Student-t distributions, fitted to samples by EM.

    Every component has thin, thick and Cauchy tails, so that few densities have heavier tails.

    Args:
        samples: Shape ``(n, d)``; those beyond ten deviations are ignored.
        components: Maximum number of components; there is at most one for every ``20 d`` samples.
    """

    def __init__(self, samples: Tensor, components: int = 10) -> None:
        levels = torch.tensor([0.16, 0.5, 0.84])
        low, self.centre, high = samples.quantile(levels, dim=0)
        self.scale = ((high - low) / 2).clamp(min=1e-12)
        white = (samples - self.centre) / self.scale
        white = white[(white.abs() < 10.0).all(-1)]
        affordable = len(white) // (20 * white.shape[1])
        em = _run_em(white, max(1, min(components, affordable)))
        covariances = torch.from_numpy(em.covariances_)
        self.weights = torch.from_numpy(em.weights_)
        self.loc = torch.from_numpy(em.means_)
        self.cholesky = torch.linalg.cholesky(covariances)

    def sample(self, count: int) -> Tensor:
        """Draws, shape ``(count, d)``."""
        shares, degrees, inflation = torch.tensor(_TAILS).T
        tail = torch.multinomial(shares, count, replacement=True)
        component = torch.multinomial(self.weights, count, replacement=True)
        chi_square = 2.0 * torch._standard_gamma(degrees[tail] / 2.0)
        variance = inflation[tail] * degrees[tail] / chi_square
        draws = torch.randn(count, self.loc.shape[1])
        draws *= variance.sqrt()[:, None]
        for k in range(len(self.weights)):
            rows = component == k
            draws[rows] = self.loc[k] + draws[rows] @ self.cholesky[k].T
        return self.centre + self.scale * draws

    def log_prob(self, z: Tensor) -> Tensor:
        """Log density, ``(n, d) -> (n,)``."""
        squares, constant = self._distances(z)
        dim = z.shape[1]
        parts = []
        for tail in _TAILS:
            nu = tail.degrees
            width = nu * tail.inflation
            volume = math.lgamma(nu / 2) - math.lgamma((nu + dim) / 2)
            volume += dim / 2 * math.log(math.pi * width)
            kernel = -(nu + dim) / 2 * (squares / width).log1p()
            parts.append(math.log(tail.share) - volume + constant + kernel)
        return torch.cat(parts).logsumexp(0) - self.scale.log().sum()

    def landmarks(self, z: Tensor) -> Tensor:
        """Location of codes: their shares in the components, and the log density of the normal mixture."""
        squares, constant = self._distances(z)
        joint = constant - squares / 2.0
        total = joint.logsumexp(0)[None]
        return torch.cat([joint.softmax(0), total]).T

    def _distances(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Squared Mahalanobis distances to the components, ``(K, n)``; log weights over volumes, ``(K, 1)``."""
        white = (z - self.centre) / self.scale
        centred = (white - self.loc[:, None]).mT
        white = torch.linalg.solve_triangular(self.cholesky, centred, upper=False)
        diagonal = self.cholesky.diagonal(dim1=-2, dim2=-1)
        log_volumes = diagonal.log().sum(-1)
        constant = (self.weights.log() - log_volumes)[:, None]
        return white.square().sum(1), constant


def _run_em(samples: Tensor, components: int) -> Any:
    from sklearn.mixture import GaussianMixture

    em = GaussianMixture(components, max_iter=50, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # EM need not converge
        return em.fit(samples.numpy())


def by_importance(at: At, samples: Tensor) -> Iterator[Law]:
    """The weights p(z) / g(z) of draws from a proposal g have mean 1; weighted draws agree with the samples.

    The limit of the first law is six standard errors plus a hundredth, for the mass in tails that no draw
    reaches. The second law compares some dozens of functions with values in [-1, 1], each within 6.5 standard
    errors plus a hundredth. Normal means exceed six standard errors with a probability of 2e-9 even without the
    hundredth. Means of skewed weights behave less well, so the laws are decided only if the effective sample
    size is large: by the weights of the draws and, as draws may miss a sharp peak, by those of the samples.
    ``tests/test_laws.py`` repeats the check on correct densities under many seeds.
    """
    mass = "mass is 1 by importance sampling"
    agreement = "sampler against density by importance sampling (over its limit)"
    count = number_of_scores(at.prior)
    half = min(_FIT, len(samples) // 2)
    held_out = samples[half:]
    proposal = Proposal(samples[:half])
    draws = proposal.sample(count)
    weights = _weights(at, proposal, draws)
    sample_weights = _weights(at, proposal, held_out[: count // 10])
    size = _effective_size(weights, sample_weights)
    enough = size >= max(_LEAST_SIZE, _LEAST_SHARE * count)
    if not enough:
        note = f"no power: effective sample size {size:.0f} of {count:,}"
        yield Law(mass, 0.0, math.inf, note)
        yield Law(agreement, 0.0, math.inf, note)
        return
    slack = _SLACK + at.prior.tolerance
    standard_error = weights.std().item() / math.sqrt(count)
    error = abs(weights.mean().item() - 1.0)
    yield Law(mass, error, slack + 6.0 * standard_error)
    disagreement = _disagreement(proposal, draws, weights, held_out, slack)
    yield Law(agreement, disagreement, 1.0)


def _weights(at: At, proposal: Proposal, z: Tensor) -> Tensor:
    """Importance weights of codes; 0 where the density is NaN, so that mass is missing there."""
    log_weights = scores(at, z) - proposal.log_prob(z)
    return log_weights.exp().nan_to_num(nan=0.0)


def _effective_size(weights: Tensor, sample_weights: Tensor) -> float:
    """The effective sample size from the weights of draws or from those of samples, whichever is smaller.

    The mean of the squared weights of draws, E_g[w^2], is the mean weight of samples, E_p[w]. The heaviest
    samples are ignored, up to a mass of half the slack.
    """
    from_draws = weights.sum() ** 2 / weights.square().sum()
    level = sample_weights.quantile(1.0 - _SLACK / 2)
    light = sample_weights[sample_weights <= level]
    from_samples = len(weights) * weights.mean() / light.mean()
    return torch.minimum(from_draws, from_samples).item()


def _disagreement(
    proposal: Proposal,
    draws: Tensor,
    weights: Tensor,
    samples: Tensor,
    slack: float,
) -> float:
    """The largest difference between a weighted mean of draws and a mean of samples, over its limit."""
    levels = torch.linspace(0.1, 0.9, 9)
    edges = proposal.landmarks(samples)[:, -1].quantile(levels)
    ours = _functions(proposal, samples, edges)
    theirs = weights[:, None] * _functions(proposal, draws, edges)
    variance = ours.var(0) / len(ours) + theirs.var(0) / len(theirs)
    differences = (ours.mean(0) - theirs.mean(0)).abs()
    limits = slack + 6.5 * variance.sqrt()
    return (differences / limits).max().item()


def _functions(proposal: Proposal, z: Tensor, edges: Tensor) -> Tensor:
    """Functions with values in [-1, 1], shape ``(n, m)``: components, shells, positions along the axes."""
    landmarks = proposal.landmarks(z)
    shares = landmarks[:, :-1]
    log_density = landmarks[:, -1].contiguous()
    shell = torch.bucketize(log_density, edges)
    shells = one_hot(shell, len(edges) + 1).to(z.dtype)
    axes = (z - proposal.centre) / proposal.scale
    functions = [shares, shells, axes.tanh(), axes.abs().tanh()]
    return torch.cat(functions, dim=1)
