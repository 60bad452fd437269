"""A convolutional network of maps that come as vectors."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

__all__ = ["SpatialPerceptron"]


class SpatialPerceptron(nn.Module):
    """Three convolutions (3x3, 1x1, 3x3) with ReLUs, or one, of maps flattened to vectors and back.

    Channels lie one after another in a vector, so that joining two vectors joins their channels.

    Args:
        inputs: Channels of the input.
        width: Channels between; None for a single 3x3 convolution.
        outputs: Channels of the output.
        sides: Height and width of the maps.
        zero_last: Whether the last convolution starts at zero.

    >>> import torch
    >>> SpatialPerceptron(2, 8, 3, (4, 4))(torch.zeros(5, 6, 2 * 4 * 4)).shape
    torch.Size([5, 6, 48])
    """

    def __init__(
        self, inputs: int, width: int | None, outputs: int, sides: Sequence[int], *, zero_last: bool = True
    ) -> None:
        super().__init__()
        self.shape = (inputs, *sides)
        last = nn.Conv2d(inputs if width is None else width, outputs, 3, padding=1)
        if zero_last:
            for parameter in last.parameters():
                nn.init.zeros_(parameter)
        before: list[nn.Module] = []
        if width is not None:
            before = [nn.Conv2d(inputs, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 1), nn.ReLU()]
        self.layers = nn.Sequential(*before, last)

    def forward(self, x: Tensor) -> Tensor:
        """Vectors ``(*batch, inputs * h * w)`` to vectors ``(*batch, outputs * h * w)``."""
        maps = self.layers(x.reshape(-1, *self.shape))
        return maps.reshape(*x.shape[:-1], -1)
