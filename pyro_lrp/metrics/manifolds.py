"""Precision and recall, density and coverage: fidelity and variety as two numbers rather than one."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from pyro_lrp.metrics.extractors import EXTRACTORS
from pyro_lrp.metrics.metric import Metric, labels_or_attributes, result
from pyro_lrp.metrics.subject import Results, Subject

__all__ = ["METRICS", "density_and_coverage", "precision_and_recall"]

_BLOCK = 500  # rows of a distance matrix held at once


def precision_and_recall(real: Tensor, made: Tensor, k: int = 3) -> tuple[float, float]:
    """Shares of generated images among the real ones, and of real images among the generated.

    An image is among others if it is no farther from one of them than that one's ``k``-th neighbour is.
    Collapsed samples keep their precision and lose recall.

    Args:
        real: Features, shape ``(n, d)``, with ``n > k``.
        made: Features, shape ``(m, d)``, with ``m > k``.
        k: Which neighbour.

    References:
        Kynkäänniemi et al. (2019), Improved Precision and Recall Metric, arXiv:1904.06991.
    """
    precision = torch.cat([inside.any(1) for inside in _inside(made, real, _radii(real, k))])
    recall = torch.cat([inside.any(1) for inside in _inside(real, made, _radii(made, k))])
    return precision.double().mean().item(), recall.double().mean().item()


def density_and_coverage(real: Tensor, made: Tensor, k: int = 5) -> tuple[float, float]:
    """How densely generated images lie about the real ones (may pass 1), and the share of these with one near.

    Args:
        real: Features, shape ``(n, d)``, with ``n > k``.
        made: Features, shape ``(m, d)``.
        k: Which neighbour of a real image bounds what is near.

    References:
        Naeem et al. (2020), Reliable Fidelity and Diversity Metrics, arXiv:2002.09797.
    """
    counts, covered = 0, torch.zeros(len(real), dtype=torch.bool)
    for inside in _inside(made, real, _radii(real, k)):
        counts += int(inside.sum())
        covered |= inside.any(0)
    return counts / (k * len(made)), covered.double().mean().item()


def _radii(points: Tensor, k: int) -> Tensor:
    """Distance of each point to its ``k``-th neighbour, itself not counted."""
    if len(points) <= k:
        raise ValueError(f"expected more than k = {k} images, got {len(points)}")
    parts = [_distances(part, points).kthvalue(k + 1, dim=1).values for part in points.split(_BLOCK)]
    return torch.cat(parts)


def _inside(points: Tensor, centres: Tensor, radii: Tensor) -> Iterator[Tensor]:
    """Whether each point is in each ball, block by block of the points."""
    return (_distances(part, centres) <= radii for part in points.split(_BLOCK))


def _distances(a: Tensor, b: Tensor) -> Tensor:
    return torch.cdist(a.double(), b.double())  # in float32 near neighbours would drown in rounding


def _manifolds(subject: Subject, suffix: str, network: str) -> Results:
    """All four, of prior samples against test images."""
    extractor, n = EXTRACTORS[network](subject), subject.count(10_000, quick=5_000)
    real, made = subject.rows(extractor, "test", n), subject.rows(extractor, "samples", n)
    precision, recall = precision_and_recall(real, made, 3)
    density, coverage = density_and_coverage(real, made, 5)
    values = {
        "precision": (precision, 3), "recall": (recall, 3), "density": (density, 5), "coverage": (coverage, 5)
    }  # fmt: skip
    images = {"images": "clipped to [0, 1], rounded to uint8", "reference": f"{len(real)} test images"}
    return {
        f"{name}{suffix}": result(subject, value, len(made), {**extractor.record, **images, "neighbour": k})
        for name, (value, k) in values.items()
    }


METRICS = {
    "precision_recall": Metric(
        partial(_manifolds, suffix="", network="inception"), network="inception", hours=True
    ),
    "precision_recall_classifier": Metric(
        partial(_manifolds, suffix="_classifier", network="classifier"), needs=(labels_or_attributes,)
    ),
}
