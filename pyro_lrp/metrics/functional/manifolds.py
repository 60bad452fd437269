"""Precision and recall, density and coverage: fidelity and variety as separate numbers."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from pyro_lrp.metrics.functional.blocks import distance_blocks
from pyro_lrp.metrics.functional.checks import check_pair

__all__ = ["density_and_coverage", "precision_and_recall"]

_BATCH = 500  # rows of a distance matrix that are held at once


def precision_and_recall(real: Tensor, generated: Tensor, k: int = 3) -> tuple[float, float]:
    """The share of generated images among the real ones, and of real images among the generated ones.

    An image is among others if it is no farther from one of them than that one's ``k``-th neighbour is.
    Collapsed samples keep their precision and lose recall.

    Args:
        real: Features, shape ``(n, d)``, with ``n > k``.
        generated: Features, shape ``(m, d)``, with ``m > k``.
        k: The neighbour that sets the radius.

    Raises:
        ValueError: If there are too few images, features are not finite, or k is below 1.

    References:
        Kynkäänniemi et al. (2019), Improved Precision and Recall Metric, arXiv:1904.06991.
    """
    check_pair(real, generated, "features")
    precision = _share_inside(generated, real, k)
    recall = _share_inside(real, generated, k)
    return precision, recall


def density_and_coverage(real: Tensor, generated: Tensor, k: int = 5) -> tuple[float, float]:
    """The density of generated images around the real ones, and the share of real images with one nearby.

    The density may exceed 1.

    Args:
        real: Features, shape ``(n, d)``, with ``n > k``.
        generated: Features, shape ``(m, d)``.
        k: The neighbour of a real image that bounds what is near.

    Raises:
        ValueError: If there are too few images, features are not finite, or k is below 1.

    References:
        Naeem et al. (2020), Reliable Fidelity and Diversity Metrics, arXiv:2002.09797.
    """
    check_pair(real, generated, "features")
    count = 0
    covered = torch.zeros(len(real), dtype=torch.bool)
    for inside in _inside(generated, real, _radii(real, k)):
        count += int(inside.sum())
        covered |= inside.any(0)
    density = count / (k * len(generated))
    return density, covered.double().mean().item()


def _share_inside(points: Tensor, centres: Tensor, k: int) -> float:
    """The share of points that are in at least one ball around the centres."""
    blocks = _inside(points, centres, _radii(centres, k))
    inside = torch.cat([block.any(1) for block in blocks])
    return inside.double().mean().item()


def _radii(points: Tensor, k: int) -> Tensor:
    """The distance of each point to its ``k``-th neighbour, not counting itself."""
    if k < 1:
        raise ValueError(f"expected k to be at least 1, got {k}")
    if len(points) <= k:
        raise ValueError(f"expected more than k = {k} images, got {len(points)}")
    blocks = distance_blocks(points, points, _BATCH)
    return torch.cat([block.kthvalue(k + 1, dim=1).values for block in blocks])


def _inside(points: Tensor, centres: Tensor, radii: Tensor) -> Iterator[Tensor]:
    """Whether each point is in each ball, in blocks of points."""
    for block in distance_blocks(points, centres, _BATCH):
        yield block <= radii
