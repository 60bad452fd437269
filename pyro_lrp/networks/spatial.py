"""A convolutional network for maps that are flattened to vectors."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

__all__ = ["SpatialPerceptron"]


class SpatialPerceptron(nn.Module):
    """Three convolutions (3x3, 1x1, 3x3) with ReLUs, or a single one, on maps flattened to vectors.

    A vector holds one channel after another, so that concatenating two vectors concatenates their channels.

    Args:
        inputs: Channels of the input.
        width: Channels of the hidden layers; None for a single 3x3 convolution.
        outputs: Channels of the output.
        sides: Height and width of the maps.
        zero_last: Whether the last convolution is initialized to zero.

    >>> import torch
    >>> SpatialPerceptron(2, 8, 3, (4, 4))(torch.zeros(5, 6, 2 * 4 * 4)).shape
    torch.Size([5, 6, 48])
    """

    def __init__(
        self,
        inputs: int,
        width: int | None,
        outputs: int,
        sides: Sequence[int],
        *,
        zero_last: bool = True,
    ) -> None:
        super().__init__()
        self.shape = (inputs, *sides)
        hidden = width
        if hidden is None:
            hidden = inputs
        last = nn.Conv2d(hidden, outputs, 3, padding=1)
        if zero_last:
            for parameter in last.parameters():
                nn.init.zeros_(parameter)
        before: list[nn.Module] = []
        if width is not None:
            before = [
                nn.Conv2d(inputs, width, 3, padding=1),
                nn.ReLU(),
                nn.Conv2d(width, width, 1),
                nn.ReLU(),
            ]
        self.layers = nn.Sequential(*before, last)

    def forward(self, x: Tensor) -> Tensor:
        """Map vectors ``(*batch, inputs * h * w)`` to vectors ``(*batch, outputs * h * w)``."""
        maps = self.layers(x.reshape(-1, *self.shape))
        return maps.reshape(*x.shape[:-1], -1)
