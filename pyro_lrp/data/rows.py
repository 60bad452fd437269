"""Rows of an array of images that is too large to be copied, such as one that is mapped from a file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

__all__ = ["ImageRows", "pick", "read"]

LARGE = 1 << 28  # bytes; of a smaller array rows are copied
_AT_ONCE = 1000  # rows


class ImageRows:
    """Some rows of an array of images; they are read when they are asked for.

    It has what a data set needs of a tensor: shape, type, device, rows by a slice or a tensor, and chunks. Rows
    are tensors if they are few, and again :class:`ImageRows` otherwise.

    Args:
        array: uint8, shape ``(N, C, H, W)``, on the CPU.
        rows: The numbers of the rows, int64 of shape ``(n,)``.

    >>> array = torch.arange(12, dtype=torch.uint8).reshape(4, 1, 1, 3)
    >>> images = ImageRows(array, torch.tensor([3, 0]))
    >>> images.shape, images[torch.tensor([1])].flatten().tolist()
    (torch.Size([2, 1, 1, 3]), [0, 1, 2])
    """

    dtype = torch.uint8
    device = torch.device("cpu")

    def __init__(self, array: Tensor, rows: Tensor) -> None:
        self.array = array
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def shape(self) -> torch.Size:
        """``(n, C, H, W)``."""
        return torch.Size([len(self.rows), *self.array.shape[1:]])

    def dim(self) -> int:
        """Four."""
        return self.array.dim()

    def numel(self) -> int:
        """The number of values, which is that of bytes."""
        return self.shape.numel()

    def __getitem__(self, index: Any) -> Tensor | ImageRows:
        return pick(self.array, self.rows[index])

    def split(self, size: int) -> Iterator[Tensor]:
        """The images in chunks."""
        return (self.array[rows] for rows in self.rows.split(size))

    def to(self, device: torch.device) -> Tensor | ImageRows:
        """The same rows on the CPU, or a tensor of them elsewhere."""
        if device.type == "cpu":
            return self
        moved = torch.empty(self.shape, dtype=self.dtype, device=device)
        start = 0
        for part in self.split(_AT_ONCE):
            moved[start : start + len(part)] = part.to(device)
            start += len(part)
        return moved


def read(images: Tensor | ImageRows) -> Tensor:
    """Images as a tensor."""
    if isinstance(images, ImageRows):
        return images.array[images.rows]
    return images


def pick(array: Tensor | ImageRows, index: Tensor | slice) -> Tensor | ImageRows:
    """Rows of images or of their properties: of images :class:`ImageRows` where a tensor would be a large copy.

    Args:
        array: The images, or a property.
        index: A slice, numbers of rows, or which rows.
    """
    if isinstance(array, ImageRows):
        return array[index]
    if isinstance(index, slice):
        return array[index]
    index = index.to(array.device)
    images = array.dtype == torch.uint8 and array.dim() == 4  # and no labels, contexts or other properties
    if not images or array.device.type != "cpu" or array.numel() <= LARGE:
        return array[index]
    if index.dtype == torch.bool:
        index = index.nonzero().flatten()
    if len(index) * array[0].numel() <= LARGE:
        return array[index]
    return ImageRows(array, index)
