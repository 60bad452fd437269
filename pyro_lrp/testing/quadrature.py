"""At dim 1 and 2: the mass by quadrature on a grid around the samples, and a chi-square test on its cells."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from scipy.stats import ncx2
from torch import Tensor

from pyro_lrp.priors import Prior
from pyro_lrp.testing.core import At, Law
from pyro_lrp.testing.draws import scores

__all__ = ["by_quadrature"]

_FALSE_ALARM = 1e-7
_CELLS = 16  # cells of the chi-square, in each dimension
_COARSEST = 32  # cells of the coarsest grid, in each dimension
_FINEST = {1: 2**14, 2: 2**10}
_FINEST_NUMERICAL = {1: 2**12, 2: 2**7}  # a score of a numerical prior solves an equation
_LIMIT = 1e-2
_RARE = 10.0  # samples that a cell must expect to count on its own


@dataclass(frozen=True)
class _Grid:
    """Masses on a grid, and their change since the grid with half as many cells in each dimension.

    Attributes:
        side: Number of cells in each dimension.
        expected: Mass of each cell of the chi-square.
        mass_change: Change of the total mass.
        noncentrality: Noncentrality of the chi-square that the changes of the cells amount to.
    """

    side: int
    expected: Tensor
    mass_change: float
    noncentrality: float

    @property
    def knows_mass(self) -> bool:
        return self.mass_change <= _LIMIT / 10

    @property
    def settled(self) -> bool:
        return self.knows_mass and self.noncentrality <= 10.0


def by_quadrature(at: At, samples: Tensor) -> Iterator[Law]:
    """The mass is 1 within a hundredth; samples pass a chi-square test, which a correct prior fails at 1e-7.

    The error of the quadrature and the tolerance of a numerical prior enter the chi-square as a noncentrality:
    they cost power but cause no false alarm.
    """
    grid = _refined(at, samples)
    yield _mass_law(at.prior, grid)
    yield _chi_square_law(at, samples, grid)


def _mass_law(prior: Prior, grid: _Grid) -> Law:
    name = "mass is 1 by quadrature"
    error = abs(grid.expected.sum().item() - 1.0)
    if not grid.knows_mass:
        note = f"no power: the quadrature is not settled at {grid.side} cells a side"
        return Law(name, error, math.inf, note)
    return Law(name, error, _LIMIT + prior.tolerance)


def _chi_square_law(at: At, samples: Tensor, grid: _Grid) -> Law:
    name = "sampler against density (chi-square over its limit)"
    cells = _cells(samples, _edges(samples, _CELLS))
    observed = torch.bincount(cells, minlength=_CELLS**at.dim).double()
    expected = len(samples) * grid.expected
    statistic, freedom = _chi_square(observed, expected)
    noncentrality = grid.noncentrality + len(samples) * at.prior.tolerance**2
    threshold = float(ncx2.isf(_FALSE_ALARM, freedom, noncentrality))
    note = ""
    if not grid.settled:
        note = f"little power: the quadrature is not settled at {grid.side} cells a side"
    return Law(name, statistic / threshold, 1.0, note)


def _refined(at: At, samples: Tensor) -> _Grid:
    """Double the cells of a grid until two grids agree, or up to the finest."""
    finest = _FINEST[at.dim]
    if at.prior.tolerance > 0.0:
        finest = _FINEST_NUMERICAL[at.dim]
    side = _COARSEST
    before = _masses(at, samples, side)
    while True:
        side = 2 * side
        expected = _masses(at, samples, side)
        grid = _compared(side, expected, before, len(samples))
        if grid.settled or side >= finest:
            return grid
        before = expected


def _compared(side: int, expected: Tensor, before: Tensor, count: int) -> _Grid:
    change = expected - before
    counts = (count * expected).clamp(min=_RARE)
    terms = (count * change).square() / counts
    mass_change = abs(change.sum().item())
    return _Grid(side, expected, mass_change, terms.sum().item())


def _masses(at: At, samples: Tensor, side: int) -> Tensor:
    """Mass of each cell of the chi-square: the density at the centre of each grid cell, times its volume."""
    edges = _edges(samples, side)
    centres = (edges[:, :-1] + edges[:, 1:]) / 2
    points = torch.cartesian_prod(*centres).reshape(-1, at.dim)
    lengths = torch.cartesian_prod(*edges.diff(dim=1)).reshape(-1, at.dim)
    masses = scores(at, points).exp() * lengths.prod(1)
    cells = _cells(points, _edges(samples, _CELLS))
    return torch.bincount(cells, masses, minlength=_CELLS**at.dim)


def _edges(samples: Tensor, side: int) -> Tensor:
    """``side + 1`` cell edges in each dimension, shape ``(d, side + 1)``; they contain those of half the side.

    They cover the samples and one deviation beyond. Half are at quantiles, half evenly spaced up to about three
    deviations and logarithmically spaced beyond.
    """
    half = side // 2
    levels = torch.tensor([0.16, 0.5, 0.84])
    low, centre, high = samples.quantile(levels, dim=0)
    scale = ((high - low) / 2).clamp(min=1e-12)
    unit = 3.0 * scale
    first = samples.amin(0) - scale
    last = samples.amax(0) + scale
    start = ((first - centre) / unit).asinh()
    end = ((last - centre) / unit).asinh()
    steps = torch.linspace(0.0, 1.0, half + 1)[:, None]
    even = start + (end - start) * steps
    spaced = centre + unit * even.sinh()
    quantiles = samples.quantile(torch.arange(half) / half, dim=0)
    edges = torch.cat([spaced, quantiles]).sort(dim=0).values
    return edges.T.contiguous()


def _cells(points: Tensor, edges: Tensor) -> Tensor:
    """The number of the cell that contains each point."""
    number = torch.zeros(len(points), dtype=torch.long)
    for values, ends in zip(points.T.contiguous(), edges, strict=True):
        column = torch.searchsorted(ends, values, right=True) - 1
        number = number * _CELLS + column.clamp(0, _CELLS - 1)
    return number


def _chi_square(observed: Tensor, expected: Tensor) -> tuple[float, int]:
    """The statistic and its degrees of freedom; cells that expect fewer than ten samples are merged."""
    rare = expected < _RARE
    merged_expected = expected[rare].sum()[None].clamp(min=1.0)
    merged_observed = observed[rare].sum()[None]
    expected = torch.cat([expected[~rare], merged_expected])
    observed = torch.cat([observed[~rare], merged_observed])
    statistic = ((observed - expected) ** 2 / expected).sum().item()
    freedom = max(1, len(expected) - 1)
    return statistic, freedom
