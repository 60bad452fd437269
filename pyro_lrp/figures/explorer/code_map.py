"""A map of the codes: two dimensions of the latent space, in which real codes are points."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pyro_lrp.latents import PrincipalDirections

__all__ = ["CodeMap", "code_map"]

_MARGIN = 0.06  # of the map's side, beyond the outermost points


class CodeMap(NamedTuple):
    """A plane of the latent space and the codes of training images on it.

    Attributes:
        points: Coordinates of the codes, shape ``(N, 2)``.
        low: The lower left corner, shape ``(2,)``.
        high: The upper right corner, shape ``(2,)``.
        axes: The names of both axes.
        origin: The code at the coordinates 0, 0, shape ``(d,)``.
        steps: The change of a code for each unit of a coordinate, shape ``(2, d)``.
    """

    points: Tensor
    low: Tensor
    high: Tensor
    axes: tuple[str, str]
    origin: Tensor
    steps: Tensor

    def code(self, place: Tensor) -> Tensor:
        """The code at a place of the plane.

        Args:
            place: Coordinates, shape ``(2,)``.
        """
        return self.origin + place.to(self.steps) @ self.steps

    def nearest(self, place: Tensor) -> int:
        """The number of the code whose point is nearest on the map."""
        distance = (self.points - place) / (self.high - self.low)
        return int(distance.square().sum(1).argmin())

    def at(self, right: float, down: float) -> Tensor:
        """Coordinates ``(2,)`` of a place, given in shares of the map's side from its upper left corner."""
        share = torch.tensor([right, 1 - down]).clamp(0, 1)
        return self.low + share * (self.high - self.low)

    def shares(self) -> Tensor:
        """The points in shares of the map's side from its upper left corner, shape ``(N, 2)``."""
        share = (self.points - self.low) / (self.high - self.low)
        return torch.stack([share[:, 0], 1 - share[:, 1]], 1)


def code_map(codes: Tensor, principal: PrincipalDirections) -> CodeMap:
    """The map of codes: of both dimensions if there are two, and of two principal components otherwise.

    Args:
        codes: Codes, shape ``(N, d)`` with ``d`` of at least 2.
        principal: Their principal components.

    >>> from pyro_lrp.latents import principal_directions
    >>> z = torch.tensor([[0.0, 1.0], [2.0, 3.0], [4.0, 1.0]])
    >>> plane = code_map(z, principal_directions(z))
    >>> plane.code(plane.points[1]).tolist(), plane.nearest(torch.tensor([3.5, 1.0]))
    ([2.0, 3.0], 2)
    """
    if codes.shape[1] == 2:
        points = codes
        axes = ("dimension 1", "dimension 2")
        origin = torch.zeros_like(codes[0])
        steps = torch.eye(2).to(codes)
    else:
        points = principal.coefficients(codes)[:, :2]
        axes = (_named(principal, 0), _named(principal, 1))
        origin = principal.mean
        steps = principal.directions[:2] * principal.deviations[:2, None]
    points = points.cpu()
    low = points.amin(0)
    high = points.amax(0)
    margin = _MARGIN * (high - low).clamp_min(1e-6)
    return CodeMap(points, low - margin, high + margin, axes, origin, steps)


def _named(principal: PrincipalDirections, component: int) -> str:
    variances = principal.deviations.square()
    share = variances[component] / variances.sum()
    return f"principal component {component + 1} ({100 * share:.0f} % of the variance)"
