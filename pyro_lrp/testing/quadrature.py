"""At dim 1 and 2: mass by quadrature on a grid that follows the samples, and the samples in its cells."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from scipy.stats import ncx2
from torch import Tensor

from pyro_lrp.testing.core import At, Law
from pyro_lrp.testing.draws import SECONDS, affordable, scores

__all__ = ["by_quadrature"]

_FALSE_ALARM = 1e-7
_CELLS = 16  # a side, for the chi-square
_COARSEST = 32
_FINEST = {1: 2**14, 2: 2**11}
_LIMIT = 1e-2


class _Grid(NamedTuple):
    """What a grid integrates to, and by how much that differs from what one half as fine does."""

    side: int
    expected: Tensor  # mass of each cell of the chi-square
    mass_change: float
    noncentrality: float  # of the chi-square, that the change of the expected masses amounts to

    @property
    def settled(self) -> bool:
        return self.mass_change <= _LIMIT / 10 and self.noncentrality <= 10.0


def by_quadrature(at: At, samples: Tensor) -> Iterator[Law]:
    """The mass is 1, within a hundredth; and a chi-square of the samples, which a correct prior fails at 1e-7.

    What the quadrature may be wrong by enters the chi-square as a noncentrality, and so costs power but raises
    no false alarm; a numerical prior's tolerance likewise.
    """
    mass, same = "mass is 1 by quadrature", "sampler against density (chi-square over its limit)"
    grid = _refined(at, samples)
    if grid is None:
        note = f"no power: a grid takes more than the {3 * SECONDS:g} seconds allowed"
        yield from (Law(name, 0.0, math.inf, note) for name in (mass, same))
        return
    note = "" if grid.settled else f"no power: the quadrature is not settled at {grid.side} cells a side"
    known = grid.mass_change <= _LIMIT / 10
    limit = _LIMIT + at.prior.tolerance if known else math.inf
    yield Law(mass, abs(grid.expected.sum().item() - 1.0), limit, "" if known else note)
    observed = torch.bincount(_cells(samples, _edges(samples, _CELLS)), minlength=_CELLS**at.dim).double()
    statistic, freedom = _chi_square(observed, len(samples) * grid.expected)
    noncentrality = grid.noncentrality + len(samples) * at.prior.tolerance**2
    threshold = float(ncx2.isf(_FALSE_ALARM, freedom, noncentrality))
    yield Law(same, statistic / threshold, 1.0, note.replace("no power", "little power"))


def _refined(at: At, samples: Tensor) -> _Grid | None:
    """Finer and finer grids, until two agree or time is up; None if there was no time for two."""
    dim, grid, before, side = at.dim, None, None, _COARSEST
    left = affordable(lambda n: scores(at, samples[:n]), 2 * _FINEST[dim] ** dim, 3 * SECONDS)
    while side <= _FINEST[dim] and side**dim <= left and not (grid and grid.settled):
        expected = _masses(at, samples, side)
        if before is not None:
            change = expected - before
            counts = (len(samples) * expected).clamp(min=10.0)
            noncentrality = ((len(samples) * change).square() / counts).sum().item()
            grid = _Grid(side, expected, abs(change.sum().item()), noncentrality)
        left, side, before = left - side**dim, 2 * side, expected
    return grid


def _masses(at: At, samples: Tensor, side: int) -> Tensor:
    """Mass of each cell of the chi-square: the density in the middle of each small cell, times its volume."""
    edges = _edges(samples, side)
    middles = torch.cartesian_prod(*(edges[:, :-1] + edges[:, 1:]) / 2).reshape(-1, at.dim)
    volumes = torch.cartesian_prod(*edges.diff(dim=1)).reshape(-1, at.dim).prod(1)
    cells = _cells(middles, _edges(samples, _CELLS))
    return torch.bincount(cells, scores(at, middles).exp() * volumes, minlength=_CELLS**at.dim)


def _edges(samples: Tensor, side: int) -> Tensor:
    """``side + 1`` cell edges a dimension, shape ``(d, side + 1)``; those of half the side are among them.

    They cover the samples and one deviation beyond. Half are at quantiles, half evenly spaced up to about three
    deviations, and logarithmically beyond.
    """
    half = side // 2
    low, centre, high = samples.quantile(torch.tensor([0.16, 0.5, 0.84]), dim=0)
    scale = ((high - low) / 2).clamp(min=1e-12)
    ends = [samples.amin(0) - scale, samples.amax(0) + scale]
    start, end = (((value - centre) / (3.0 * scale)).asinh() for value in ends)
    even = start + (end - start) * torch.linspace(0.0, 1.0, half + 1)[:, None]
    quantiles = samples.quantile(torch.arange(half) / half, dim=0)
    return torch.cat([centre + 3.0 * scale * even.sinh(), quantiles]).sort(dim=0).values.T.contiguous()


def _cells(points: Tensor, edges: Tensor) -> Tensor:
    """The number of the cell that each point is in."""
    index = torch.zeros(len(points), dtype=torch.long)
    for values, ends in zip(points.T.contiguous(), edges, strict=True):
        index = index * _CELLS + (torch.searchsorted(ends, values, right=True) - 1).clamp(0, _CELLS - 1)
    return index


def _chi_square(observed: Tensor, expected: Tensor) -> tuple[float, int]:
    """The statistic and its degrees of freedom; cells that expect fewer than ten samples are taken together."""
    rare = expected < 10.0
    expected = torch.cat([expected[~rare], expected[rare].sum()[None].clamp(min=1.0)])
    observed = torch.cat([observed[~rare], observed[rare].sum()[None]])
    return ((observed - expected) ** 2 / expected).sum().item(), max(1, len(expected) - 1)
