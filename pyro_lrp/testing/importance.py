"""Above dim 2: mass by importance sampling, and what the samples and the weighted draws have in common."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator

import torch
from torch import Tensor

from pyro_lrp.testing.core import At, Law
from pyro_lrp.testing.draws import SECONDS, affordable, scores

__all__ = ["Proposal", "by_importance"]

_CODES = 20_000
_FIT = 5_000  # samples that the proposal is fitted to
_POWER = (200, 0.05)  # effective sample size, and its share of the draws, below which nothing is said
_SLACK = 1e-2  # as of the quadrature: mass in tails that no draw reaches
_TAILS = ((0.45, 30.0, 1.2), (0.45, 5.0, 1.2), (0.1, 1.0, 1.0))  # share, degrees of freedom, inflated variance


class Proposal:
    """A mixture of multivariate Student-t distributions, placed by EM on samples.

    Every component comes with thin, thick and Cauchy tails, so that few densities have tails beyond its own.

    Args:
        samples: Shape ``(n, d)``, of which those beyond ten deviations do not count.
        components: At most so many, and one for every ``20 d`` samples.
    """

    def __init__(self, samples: Tensor, components: int = 10) -> None:
        from sklearn.mixture import GaussianMixture

        low, self.centre, high = samples.quantile(torch.tensor([0.16, 0.5, 0.84]), dim=0)
        self.scale = ((high - low) / 2).clamp(min=1e-12)
        white = (samples - self.centre) / self.scale
        white = white[(white.abs() < 10.0).all(-1)]
        components = max(1, min(components, len(white) // (20 * white.shape[1])))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # where EM stops does not matter
            em = GaussianMixture(components, max_iter=50, random_state=0).fit(white.numpy())
        self.weights, self.loc = torch.from_numpy(em.weights_), torch.from_numpy(em.means_)
        self.factor = torch.linalg.cholesky(torch.from_numpy(em.covariances_))

    def sample(self, count: int) -> Tensor:
        """Draws, shape ``(count, d)``."""
        shares, degrees, inflation = torch.tensor(_TAILS).T
        tail = torch.multinomial(shares, count, replacement=True)
        component = torch.multinomial(self.weights, count, replacement=True)
        chi_square = 2.0 * torch._standard_gamma(degrees[tail] / 2.0)
        draws = torch.randn(count, self.loc.shape[1])
        draws *= (inflation[tail] * degrees[tail] / chi_square).sqrt()[:, None]
        for k in range(len(self.weights)):
            draws[component == k] = self.loc[k] + draws[component == k] @ self.factor[k].T
        return self.centre + self.scale * draws

    def log_prob(self, z: Tensor) -> Tensor:
        """Its log density, ``(n, d) -> (n,)``."""
        squares, constant = self._distances(z)
        dim, parts = z.shape[1], []
        for share, nu, inflation in _TAILS:
            width = nu * inflation
            volume = math.lgamma(nu / 2) - math.lgamma((nu + dim) / 2) + dim / 2 * math.log(math.pi * width)
            parts.append(math.log(share) - volume + constant - (nu + dim) / 2 * (squares / width).log1p())
        return torch.cat(parts).logsumexp(0) - self.scale.log().sum()

    def landmarks(self, z: Tensor) -> Tensor:
        """Where codes are: their shares in the components, and the log density of the plain mixture."""
        squares, constant = self._distances(z)
        joint = constant - squares / 2.0
        return torch.cat([joint.softmax(0), joint.logsumexp(0)[None]]).T

    def _distances(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Squared distances to components in their metric, ``(K, n)``; log weights over volumes, ``(K, 1)``."""
        white = (z - self.centre) / self.scale
        white = torch.linalg.solve_triangular(self.factor, (white - self.loc[:, None]).mT, upper=False)
        volumes = self.factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return white.square().sum(1), (self.weights.log() - volumes)[:, None]


def by_importance(at: At, samples: Tensor) -> Iterator[Law]:
    """The weights p(z) / g(z) of draws from a proposal g have mean 1, and weigh the draws as the samples are.

    Limits are six standard errors and a hundredth, for the mass in tails that no draw reaches; the second law
    compares some dozens of functions with values in [-1, 1], each with 6.5 errors and a hundredth. Normal means
    exceed six errors with a probability of 2e-9 even without the hundredth. Those of skewed weights behave less
    well, so nothing is said unless the effective sample size is large: by the draws and, as these may miss a
    sharp peak altogether, by the weights of the samples, which do not. ``tests/test_laws.py`` repeats the check
    on correct densities under many seeds.
    """
    mass = "mass is 1 by importance sampling"
    same = "sampler against density by importance sampling (over its limit)"
    half = min(_FIT, len(samples) // 2)
    count = affordable(lambda n: scores(at, samples[:n]), _CODES)
    note = f"no power: {count:,} codes are what {SECONDS:g} seconds allow"
    size, slack = math.nan, _SLACK + at.prior.tolerance
    enough = max(_POWER[0], _POWER[1] * count)
    if count >= enough:
        proposal = Proposal(samples[:half])
        draws = proposal.sample(count)
        weights = _weights(at, proposal, draws)
        size = _effective_size(weights, _weights(at, proposal, samples[half:][: count // 10]))
        note = f"no power: effective sample size {size:.0f} of {count:,}"
    if not size >= enough:
        yield from (Law(name, 0.0, math.inf, note) for name in (mass, same))
        return
    limit = slack + 6.0 * weights.std().item() / math.sqrt(count)
    yield Law(mass, abs(weights.mean().item() - 1.0), limit)
    yield Law(same, _disagreement(proposal, draws, weights, samples[half:], slack), 1.0)


def _weights(at: At, proposal: Proposal, z: Tensor) -> Tensor:
    """Of codes. Where the density is no number it counts as zero: if that matters, mass is missing."""
    return (scores(at, z) - proposal.log_prob(z)).exp().nan_to_num(nan=0.0)


def _effective_size(weights: Tensor, seen: Tensor) -> float:
    """Of so many draws: from their own weights or from those of samples, whichever is smaller.

    The mean of the squared weights of draws, E_g[w^2], is that of the samples' weights, E_p[w]. The heaviest of
    these do not count, up to a mass of half the slack.
    """
    own = weights.sum() ** 2 / weights.square().sum()
    seen = seen[seen <= seen.quantile(1.0 - _SLACK / 2)]
    return torch.minimum(own, len(weights) * weights.mean() / seen.mean()).item()


def _disagreement(proposal: Proposal, draws: Tensor, weights: Tensor, samples: Tensor, slack: float) -> float:
    """The largest difference between a weighted mean of draws and a mean of samples, over its limit."""
    edges = proposal.landmarks(samples)[:, -1].quantile(torch.linspace(0.1, 0.9, 9))
    ours, theirs = _functions(proposal, samples, edges), weights[:, None] * _functions(proposal, draws, edges)
    error = (ours.var(0) / len(ours) + theirs.var(0) / len(theirs)).sqrt()
    return ((ours.mean(0) - theirs.mean(0)).abs() / (slack + 6.5 * error)).max().item()


def _functions(proposal: Proposal, z: Tensor, edges: Tensor) -> Tensor:
    """Functions with values in [-1, 1], shape ``(n, m)``: components, shells, and the place along each axis."""
    landmarks = proposal.landmarks(z)
    shells = torch.nn.functional.one_hot(torch.bucketize(landmarks[:, -1].contiguous(), edges), len(edges) + 1)
    axes = (z - proposal.centre) / proposal.scale
    return torch.cat([landmarks[:, :-1], shells.to(z.dtype), axes.tanh(), axes.abs().tanh()], dim=1)
