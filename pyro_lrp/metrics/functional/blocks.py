"""Distances of all rows of one tensor to all rows of another, some rows at a time."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

__all__ = ["distance_blocks"]


def distance_blocks(
    x: Tensor,
    y: Tensor,
    batch_size: int,
    *,
    centred: bool = False,
) -> Iterator[Tensor]:
    """Euclidean distances in float64, so that those of near neighbours are not lost in rounding.

    Args:
        x: Shape ``(n, d)``.
        y: Shape ``(m, d)``.
        batch_size: Rows of ``x`` at once.
        centred: Subtract the mean of ``y`` from both first. ``cdist`` expands squares, which cancel far from
            the origin.

    Yields:
        Shape ``(batch_size, m)``; the last block may have fewer rows.
    """
    y = y.double()
    if centred:
        centre = y.mean(0)
    else:
        centre = torch.zeros_like(y[:1])
    for rows in x.double().split(batch_size):
        yield torch.cdist(rows - centre, y - centre)
