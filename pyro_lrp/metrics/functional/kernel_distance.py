"""Kernel distance: a maximum mean discrepancy of features, unbiased for any number of samples."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_lrp.metrics.functional.checks import check_pair

__all__ = ["kernel_distance", "polynomial_mmd"]


def polynomial_mmd(x: Tensor, y: Tensor) -> float:
    r"""Unbiased squared MMD under the kernel :math:`(x \cdot y / d + 1)^3`; it may be below 0.

    Args:
        x: Features, shape ``(n, d)``, of at least two images.
        y: Features, shape ``(m, d)``, of at least two images.

    Raises:
        ValueError: If there are fewer, or features are not finite.

    References:
        Bińkowski et al. (2018), Demystifying MMD GANs, arXiv:1801.01401, section 4 and appendix D.
    """
    check_pair(x, y, "features", least=2)
    x = x.double()
    y = y.double()
    between = _kernel(x, y).mean()
    return (_within(x) + _within(y) - 2 * between).item()


def kernel_distance(
    x: Tensor,
    y: Tensor,
    subsets: int = 100,
    subset_size: int = 1000,
) -> tuple[float, float]:
    """Mean and standard deviation of :func:`polynomial_mmd` over random subsets of both sets.

    Args:
        x: Features, shape ``(n, d)``.
        y: Features, shape ``(m, d)``.
        subsets: How many subsets.
        subset_size: Images of each set in a subset; all if there are fewer.

    Raises:
        ValueError: If either set has fewer than two images, features are not finite, or there are no subsets.
    """
    check_pair(x, y, "features", least=2)
    if min(subsets, subset_size - 1) < 1:
        raise ValueError(f"expected at least 1 subset of 2 images, got {subsets} of {subset_size}")
    size = min(subset_size, len(x), len(y))
    distances = []
    for _ in range(subsets):
        some_x = x[torch.randperm(len(x))[:size]]
        some_y = y[torch.randperm(len(y))[:size]]
        distances.append(polynomial_mmd(some_x, some_y))
    values = torch.tensor(distances, dtype=torch.float64)
    return values.mean().item(), values.std(correction=0).item()


def _within(x: Tensor) -> Tensor:
    """The mean of the kernel over pairs of different rows."""
    kernel = _kernel(x, x)
    off_diagonal = kernel.sum() - kernel.diagonal().sum()
    return off_diagonal / (len(x) * (len(x) - 1))


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    kernel = a @ b.T
    return kernel.div_(a.shape[1]).add_(1).pow_(3)  # in place: a matrix of n x m is large
