"""Perceptual path lengths: how fast an image changes on a path between two codes."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from pyro_lrp.latents import slerp

__all__ = ["EPSILON", "path_length", "path_length_error", "path_lengths"]

Path = Callable[[Tensor, Tensor, Tensor], Tensor]
EPSILON = 1e-4  # the step in t


def path_lengths(
    generate: Callable[[Tensor], Tensor],
    a: Tensor,
    b: Tensor,
    t: Tensor,
    distance: Callable[[Tensor, Tensor], Tensor],
    *,
    path: Path = slerp,
    epsilon: float = EPSILON,
) -> Tensor:
    r"""Squared speeds on paths, :math:`d(G(path(a, b; t)), G(path(a, b; t + \epsilon))) / \epsilon^2`.

    With a distance that grows as the square of a difference, such as LPIPS, they do not depend on the step.
    Such small differences need float64.

    Args:
        generate: Maps codes to images. It is called once, with the points at ``t`` followed by those at
            ``t + epsilon``: a solver that chooses its own steps then takes the same ones for both.
        a: Codes where paths begin, shape ``(B, d)``.
        b: Codes where they end.
        t: Times on the path, from 0 to 1, shape ``(B,)``.
        distance: Maps two batches of images to distances ``(B,)``, or to columns of several distances.
        path: :func:`~pyro_lrp.latents.slerp` or :func:`~pyro_lrp.latents.lerp`.
        epsilon: The step in ``t``.

    Returns:
        Shape ``(B,)``, or that of the distances.

    References:
        Karras et al. (2019), A Style-Based Generator Architecture for GANs, section 4.1, arXiv:1812.04948.

    >>> from pyro_lrp.latents import lerp
    >>> a, b = torch.zeros(1, 3).double(), torch.ones(1, 3).double()
    >>> lengths = path_lengths(
    ...     lambda z: z, a, b, torch.zeros(1).double(), lambda x, y: (x - y).square().sum(1), path=lerp)
    >>> round(lengths.item(), 6)
    3.0
    """
    points = torch.cat([path(a, b, t), path(a, b, t + epsilon)])
    before, after = generate(points).chunk(2)
    return distance(before, after) / epsilon**2


def path_length(values: Tensor) -> float:
    """The mean of path lengths without those below the 1st or above the 99th percentile.

    Args:
        values: Shape ``(n,)``.

    Returns:
        The mean; NaN without values.

    References:
        Karras et al. (2019), whose code takes the next lower and the next higher value as percentiles.

    >>> path_length(torch.arange(200.0))  # 0 and 199 are dropped
    99.5
    """
    if not len(values):
        return math.nan
    values = values.double()
    low, high = _percentiles(values)
    kept = (values >= low) & (values <= high)
    return values[kept].mean().item()


def path_length_error(values: Tensor) -> float:
    """Standard error of :func:`path_length`, a trimmed mean, by the winsorized variance (Tukey, 1963).

    Args:
        values: Shape ``(n,)``, float64.

    Returns:
        The error; NaN for fewer than two values.
    """
    if len(values) < 2:
        return math.nan
    low, high = _percentiles(values)
    deviation = values.clamp(low, high).std().item()
    return deviation / (0.98 * math.sqrt(len(values)))


def _percentiles(values: Tensor) -> tuple[Tensor, Tensor]:
    """The 1st and 99th percentiles. Needs float64: in float32, 0.99 can round to the wrong rank."""
    low = values.quantile(0.01, interpolation="lower")
    high = values.quantile(0.99, interpolation="higher")
    return low, high
