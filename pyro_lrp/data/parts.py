"""Random choices of images: parts of a data set, and some images of it, with each class in proportion.

The choices have a seed of their own, which no run changes: all runs train and test on the same images.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_lrp.core.errors import UserError
from pyro_lrp.core.randomness import derive_seed

__all__ = ["Parts", "as_slice", "choose", "counts_of", "divide", "tenth"]

Parts = tuple[Tensor, Tensor | None, Tensor]
"""Training, validation (or None) and test rows, int64, each in ascending order."""


def divide(split: Sequence[float], images: int, labels: Tensor | None = None) -> Parts:
    """Divide images at random into training, validation (or None) and test images.

    Each class is divided in the same proportion, up to an image. The choice is random with a fixed seed.

    Args:
        split: ``[train, test]`` or ``[train, validation, test]``: numbers of images, or shares of them.
        images: Number of images.
        labels: Their classes, int64 of shape ``(images,)``, if they have any.

    Raises:
        UserError: If ``split`` has another form or exceeds the number of images.

    >>> train, validation, test = divide([6, 2, 2], 10, torch.arange(10) % 2)
    >>> [rows.tolist() for rows in (train, validation, test)]
    [[1, 2, 4, 5, 7, 8], [3, 6], [0, 9]]
    """
    counts = counts_of(split, images)
    order = _mixed(images, labels, "split")
    parts = []
    start = 0
    for count in counts:
        chosen = order[start : start + count]
        parts.append(chosen.sort().values)
        start += count
    if len(parts) == 2:
        return parts[0], None, parts[1]
    return parts[0], parts[1], parts[2]


def tenth(images: int, labels: Tensor | None = None) -> Parts:
    """As :func:`divide`, with a tenth of the images for tests, and at least one."""
    held = max(1, images // 10)
    return divide([images - held, held], images, labels)


def choose(count: int, images: int, labels: Tensor | None = None) -> Tensor:
    """``count`` of so many images at random, with each class in proportion; the choice has a fixed seed.

    A smaller choice is part of each larger one.

    Args:
        count: How many to choose, at most ``images``.
        images: Number of images.
        labels: Their classes, int64 of shape ``(images,)``, if they have any.

    Returns:
        Rows in ascending order, int64 of shape ``(count,)``.

    >>> choose(4, 100, torch.arange(100) // 50)
    tensor([28, 47, 50, 55])
    """
    order = _mixed(images, labels, "limit")
    return order[:count].sort().values


def as_slice(rows: Tensor) -> slice | Tensor:
    """Consecutive rows as a slice, since slices of a mapped array remain mapped.

    >>> as_slice(torch.tensor([3, 4, 5]))
    slice(3, 6, None)
    """
    if not len(rows):
        return slice(0, 0)
    first = int(rows[0])
    stop = first + len(rows)
    if torch.equal(rows, torch.arange(first, stop)):
        return slice(first, stop)
    return rows


def counts_of(split: Sequence[float], images: int) -> list[int]:
    """The number of images in each part of :func:`divide`.

    Raises:
        UserError: As :func:`divide` does.
    """
    counts = _counts(split, images)
    if counts is None:
        raise UserError(
            "data.split must be [TRAIN,TEST] or [TRAIN,VALIDATION,TEST], as numbers of images or as "
            f"shares, of the {images} images there are, got {split!r}"
        )
    return counts


def _counts(split: Sequence[float], images: int) -> list[int] | None:
    """The number of images in each part, or None if ``split`` is invalid."""
    if not isinstance(split, (list, tuple)) or len(split) not in (2, 3):
        return None
    if not all(_is_positive_number(part) for part in split):
        return None
    counts = list(split)
    if all(part < 1 for part in split):
        counts = [round(share * images) for share in split]
    if any(int(count) != count or count < 1 for count in counts):
        return None
    if sum(counts) > images:
        return None
    return [int(count) for count in counts]


def _is_positive_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return value > 0


def _mixed(images: int, labels: Tensor | None, purpose: str) -> Tensor:
    """A random order of all rows in which every class is spread evenly: any piece has its share of each.

    The r-th image of a class of n stands at (r + u) / n, where u in [0, 1) is a random number of the class.
    """
    classes = np.zeros(images, np.int64)
    if labels is not None:
        _, classes = np.unique(labels.cpu().numpy(), return_inverse=True)
    rng = np.random.default_rng(derive_seed(0, "data", purpose))
    shuffled = np.lexsort((rng.random(images), classes))  # by class, at random within
    sizes = np.bincount(classes)
    starts = np.cumsum(sizes) - sizes
    ordered = classes[shuffled]
    rank = np.arange(images) - starts[ordered]
    place = (rank + rng.random(len(sizes))[ordered]) / sizes[ordered]
    order = shuffled[np.lexsort((rng.random(images), place))]
    return torch.from_numpy(order)
