"""The training images nearest to an image, pixel by pixel."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pyro_lrp.data import Split
from pyro_lrp.data.rows import read
from pyro_lrp.figures.requests import some

__all__ = ["Neighbours", "nearest"]

_VALUES = 50_000_000  # in all images that are searched: a fraction of a second
_AT_ONCE = 5_000_000  # of these, how many are compared at once


class Neighbours(NamedTuple):
    """The training images nearest to an image.

    Attributes:
        images: In [0, 1], the nearest first, shape ``(k, C, H, W)``.
        distances: Root mean square differences of pixel values in [0, 1], shape ``(k,)``.
        searched: The number of training images that were compared.
        total: The number of training images.
    """

    images: Tensor
    distances: Tensor
    searched: int
    total: int


@torch.no_grad()
def nearest(image: Tensor, train: Split, k: int = 8) -> Neighbours:
    """The ``k`` training images nearest to an image; of very many, some at random are searched.

    Args:
        image: In [0, 1], shape ``(C, H, W)``.
        train: The training images.
        k: How many.

    >>> images = torch.arange(0, 250, 50, dtype=torch.uint8).reshape(5, 1, 1, 1)
    >>> found = nearest(torch.full((1, 1, 1), 0.4), Split(images), k=2)
    >>> (found.images.flatten() * 255).round().tolist(), found.searched
    ([100.0, 150.0], 5)
    """
    values = image.numel()
    searched = some(train, max(k, _VALUES // values), "neighbours").images
    target = image.cpu().flatten()
    errors = []
    for part in searched.split(max(1, _AT_ONCE // values)):
        pixels = read(part).cpu().flatten(1).float().div_(255)
        errors.append(pixels.sub_(target).square_().mean(1))
    error, index = torch.cat(errors).topk(min(k, len(searched)), largest=False)
    images = read(searched[index.to(searched.device)]).cpu().float() / 255
    return Neighbours(images, error.sqrt(), len(searched), len(train))
