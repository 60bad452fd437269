"""The laws that draw codes: samples are finite, the density is finite far out, has mass 1, is the sampler's."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from pyro_lrp.testing.core import At, Law
from pyro_lrp.testing.draws import SECONDS, affordable, draw, scores
from pyro_lrp.testing.importance import by_importance
from pyro_lrp.testing.quadrature import by_quadrature

__all__ = ["statistical"]

_CODES = 20_000
_INFINITE = 1e-3  # the paper's flow divides by a sigmoid, and rarely sends a draw to infinity
_DIRECTIONS = 8
_FALSE_ALARM = 1e-7


def statistical(at: At) -> Iterator[Law]:
    """All of them. Samples that are not finite are left out once their share has been found small."""
    count = affordable(lambda n: at().sample((n,)), _CODES)
    samples = draw(at, count)
    finite = samples.isfinite().all(-1)
    note = "" if count == _CODES else f"{count:,} samples are what {SECONDS:g} seconds allow"
    yield Law("samples are finite (share of others)", 1.0 - finite.double().mean().item(), _INFINITE, note)
    samples = samples[finite]
    if not at.prior.has_log_prob or len(samples) < 2:
        return
    yield _tails(at, samples)
    if at.noise:
        yield Law("mass is 1", 0.0, math.inf, "no power: log_prob is an estimate, whose exponential is biased")
    else:
        yield from (by_quadrature if at.dim <= 2 else by_importance)(at, samples)
    if at.prior.has_base and at.dim > 2:
        yield _sampler_against_base(at, samples)


def _tails(at: At, samples: Tensor) -> Law:
    """At up to a thousand standard deviations, by the quantiles at one of them on either side."""
    low, centre, high = samples.quantile(torch.tensor([0.16, 0.5, 0.84]), dim=0)
    directions = torch.nn.functional.normalize(torch.randn(20, 1, at.dim), dim=-1)
    radii = torch.tensor([10.0, 100.0, 1000.0])[:, None]
    far = (centre + radii * directions * (high - low) / 2).flatten(0, 1)
    name = "density is finite far out (number of codes where not)"
    try:
        return Law(name, (~scores(at, far).isfinite()).sum().item(), 0.0)
    except (ValueError, RuntimeError) as error:  # a solver that gives up
        return Law(name, float(len(far)), 0.0, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")


def _sampler_against_base(at: At, samples: Tensor) -> Law:
    """Samples taken to the base are distributed as it is: two-sample Kolmogorov-Smirnov tests of projections.

    They have power at any dim. A correct prior fails with a probability of at most 1e-7 (Wei and Dudley, 2012:
    the inequality of Dvoretzky, Kiefer, Wolfowitz and Massart for two samples of equal size).
    """
    samples = samples[: affordable(lambda n: at.to_base(samples[:n]), len(samples))]
    there = torch.cat([at.to_base(piece) for piece in samples.split(4096)])
    expected = at.base().sample((len(there),))
    directions = torch.nn.functional.normalize(torch.randn(at.dim, _DIRECTIONS), dim=0)
    figures = [_distance(a, b) for a, b in zip((there @ directions).T, (expected @ directions).T, strict=True)]
    figures.append(_distance(there.norm(dim=-1), expected.norm(dim=-1)))
    limit = math.sqrt(math.log(2 * len(figures) / _FALSE_ALARM) / len(there))
    slack = 2.0 * _INFINITE + at.prior.tolerance  # samples left out, and the error of their bases
    return Law("sampler against base (Kolmogorov-Smirnov distance)", max(figures), limit + slack)


def _distance(a: Tensor, b: Tensor) -> float:
    """The largest difference between two empirical distribution functions."""
    a, b = a.sort().values, b.sort().values
    both = torch.cat([a, b])
    shares = [torch.searchsorted(values, both, right=True) / len(values) for values in (a, b)]
    return (shares[0] - shares[1]).abs().max().item()
