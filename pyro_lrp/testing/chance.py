"""Statistical laws: samples are finite; the density is finite far out, has mass 1 and fits the samples."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import normalize

from pyro_lrp.testing.core import At, Law
from pyro_lrp.testing.draws import bases, draw, number_of_draws, scores
from pyro_lrp.testing.importance import by_importance
from pyro_lrp.testing.quadrature import by_quadrature

__all__ = ["statistical"]

_INFINITE = 1e-3  # the paper's flow divides by a sigmoid, so a rare sample is infinite
_DIRECTIONS = 8
_FALSE_ALARM = 1e-7


def statistical(at: At) -> Iterator[Law]:
    """All statistical laws. Samples that are not finite are left out after the first law has counted them."""
    samples = draw(at, number_of_draws(at.prior))
    finite = samples.isfinite().all(-1)
    infinite_share = 1.0 - finite.double().mean().item()
    yield Law("samples are finite (share of others)", infinite_share, _INFINITE)
    samples = samples[finite]
    if not at.prior.has_log_prob or len(samples) < 2:
        return
    yield _tails(at, samples)
    yield from _mass(at, samples)
    if at.prior.has_base and at.dim > 2:
        yield _sampler_against_base(at, samples)


def _mass(at: At, samples: Tensor) -> Iterator[Law]:
    """The mass is 1, and the density agrees with the samples."""
    if at.noise:
        note = "no power: log_prob is an estimate, whose exponential is biased"
        yield Law("mass is 1", 0.0, math.inf, note)
    elif at.dim <= 2:
        yield from by_quadrature(at, samples)
    else:
        yield from by_importance(at, samples)


def _tails(at: At, samples: Tensor) -> Law:
    """The density is finite up to a thousand standard deviations from the median, estimated by quantiles."""
    levels = torch.tensor([0.16, 0.5, 0.84])
    low, centre, high = samples.quantile(levels, dim=0)
    directions = normalize(torch.randn(20, 1, at.dim), dim=-1)
    radii = torch.tensor([10.0, 100.0, 1000.0])[:, None]
    far = centre + radii * directions * (high - low) / 2
    far = far.flatten(0, 1)
    name = "density is finite far out (number of codes where not)"
    try:
        wrong = ~scores(at, far).isfinite()
    except (ValueError, RuntimeError) as error:  # a solver did not converge
        line = " ".join(str(error).split())[:200]
        note = f"{type(error).__name__}: {line}"
        return Law(name, float(len(far)), 0.0, note)
    return Law(name, wrong.sum().item(), 0.0)


def _sampler_against_base(at: At, samples: Tensor) -> Law:
    """Samples mapped to the base have its distribution: two-sample Kolmogorov-Smirnov tests of projections.

    The tests have power at any dim. A correct prior fails with a probability of at most 1e-7 (Wei and Dudley,
    2012: the inequality of Dvoretzky, Kiefer, Wolfowitz and Massart for two samples of equal size).
    """
    mapped = bases(at, samples)
    expected = at.base().sample((len(mapped),))
    directions = normalize(torch.randn(at.dim, _DIRECTIONS), dim=0)
    distances = [_distance(mapped.norm(dim=-1), expected.norm(dim=-1))]
    for direction in directions.T:
        distances.append(_distance(mapped @ direction, expected @ direction))
    limit = math.sqrt(math.log(2 * len(distances) / _FALSE_ALARM) / len(mapped))
    # for samples left out, and for the error of mapped samples
    slack = 2.0 * _INFINITE + at.prior.tolerance
    name = "sampler against base (Kolmogorov-Smirnov distance)"
    return Law(name, max(distances), limit + slack)


def _distance(a: Tensor, b: Tensor) -> float:
    """The largest difference between two empirical distribution functions."""
    points = torch.cat([a, b])
    difference = _distribution_function(a, points) - _distribution_function(b, points)
    return difference.abs().max().item()


def _distribution_function(samples: Tensor, points: Tensor) -> Tensor:
    """The share of samples that are at most as large as each point."""
    ordered = samples.sort().values
    counts = torch.searchsorted(ordered, points, right=True)
    return counts / len(samples)
