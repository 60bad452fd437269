"""Kernel (Inception) distance: a maximum mean discrepancy of features, unbiased at any number of samples."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from pyro_lrp.core.randomness import seeded
from pyro_lrp.metrics.extractors import EXTRACTORS
from pyro_lrp.metrics.metric import Metric, labels_or_attributes, result
from pyro_lrp.metrics.subject import Results, Subject

__all__ = ["METRICS", "kernel_distance", "polynomial_mmd"]


def polynomial_mmd(x: Tensor, y: Tensor) -> float:
    r"""Unbiased squared MMD under the kernel :math:`(x \cdot y / d + 1)^3`; it may be below 0.

    Args:
        x: Features, shape ``(n, d)``, of at least two images.
        y: Features, shape ``(m, d)``, of at least two images.

    References:
        Bińkowski et al. (2018), Demystifying MMD GANs, arXiv:1801.01401, section 4 and appendix D.
    """
    x, y = x.double(), y.double()

    def within(a: Tensor) -> Tensor:
        kernel = _kernel(a, a)
        return (kernel.sum() - kernel.diagonal().sum()) / (len(a) * (len(a) - 1))

    return (within(x) + within(y) - 2 * _kernel(x, y).mean()).item()


def kernel_distance(x: Tensor, y: Tensor, subsets: int = 100, subset_size: int = 1000) -> tuple[float, float]:
    """Mean and standard deviation of :func:`polynomial_mmd` over random subsets of both.

    Args:
        x: Features, shape ``(n, d)``.
        y: Features, shape ``(m, d)``.
        subsets: How many.
        subset_size: Images of each, of either side; all if there are fewer.
    """
    size = min(subset_size, len(x), len(y))
    if size < 2:
        raise ValueError(f"expected 2 images at least on both sides, got {len(x)} and {len(y)}")
    values = [
        polynomial_mmd(x[torch.randperm(len(x))[:size]], y[torch.randperm(len(y))[:size]])
        for _ in range(subsets)
    ]
    found = torch.tensor(values, dtype=torch.float64)
    return found.mean().item(), found.std(correction=0).item()


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    return (a @ b.T / a.shape[1] + 1) ** 3


def _distance(subject: Subject, name: str, network: str) -> Results:
    """Of prior samples to test images, beside that of training images."""
    extractor, n, subsets, size = EXTRACTORS[network](subject), subject.count(10_000), 100, 1000
    test = subject.rows(extractor, "test", n)
    results = {}
    for key, of in ((name, "samples"), (f"{name}_training", "training")):
        rows = subject.rows(extractor, of, n)
        with seeded(subject.seed, "evaluate", key):
            mean, deviation = kernel_distance(rows, test, subsets, size)
        protocol = {
            **extractor.record,
            "images": "clipped to [0, 1], rounded to uint8",
            "kernel": "(x.y/d + 1)^3",
            "subsets": f"{subsets} of {min(size, len(rows), len(test))}",
        }
        results[key] = result(subject, mean, len(rows), protocol, standard_deviation=deviation)
    return results


METRICS = {
    "kid": Metric(partial(_distance, name="kid", network="inception"), network="inception", hours=True),
    "kd_classifier": Metric(
        partial(_distance, name="kd_classifier", network="classifier"), needs=(labels_or_attributes,)
    ),
}
