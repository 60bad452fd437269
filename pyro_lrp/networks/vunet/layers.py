"""Layers of the Variational U-Net: weight-normalized convolutions, residual blocks, changes of resolution."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = [
    "Block",
    "Up",
    "WeightNormConv",
    "data_dependent_initialization",
    "depth_to_space",
    "space_to_depth",
]


def space_to_depth(x: Tensor) -> Tensor:
    """Move each 2x2 square of positions to channels, phase by phase: ``(B, C, 2h, 2w) -> (B, 4C, h, w)``.

    >>> space_to_depth(torch.arange(4.0).reshape(1, 1, 2, 2)).flatten().tolist()
    [0.0, 1.0, 2.0, 3.0]
    """
    b, c, h, w = x.shape
    squares = x.reshape(b, c, h // 2, 2, w // 2, 2)
    phases = squares.permute(0, 3, 5, 1, 2, 4)
    return phases.reshape(b, 4 * c, h // 2, w // 2)


def depth_to_space(x: Tensor) -> Tensor:
    """The inverse of :func:`space_to_depth`: ``(B, 4C, h, w) -> (B, C, 2h, 2w)``."""
    b, c, h, w = x.shape
    phases = x.reshape(b, 2, 2, c // 4, h, w)
    squares = phases.permute(0, 3, 4, 1, 5, 2)
    return squares.reshape(b, c // 4, 2 * h, 2 * w)


class WeightNormConv(nn.Module):
    """A convolution with weight normalization: kernels of length 1 times a gain, initialized from data.

    Args:
        inputs: Channels of the input.
        outputs: Channels of the output.
        size: Side of the kernel, odd; padding keeps the size of the image.
        stride: 1 or 2.

    References:
        Salimans and Kingma (2016), Weight Normalization, arXiv:1602.07868, sections 2 and 3.
    """

    initializing: bool = False

    def __init__(self, inputs: int, outputs: int, size: int = 3, stride: int = 1) -> None:
        super().__init__()
        self.stride = stride
        direction = 0.05 * torch.randn(outputs, inputs, size, size)
        self.direction = nn.Parameter(direction)
        self.gain = nn.Parameter(torch.ones(outputs))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        length = self.direction.flatten(1).norm(dim=1)
        kernel = self.direction / length[:, None, None, None]
        padding = kernel.shape[-1] // 2
        y = F.conv2d(x, kernel, stride=self.stride, padding=padding)
        if self.initializing:
            self._initialize(y.detach())
        gain = self.gain[:, None, None]
        bias = self.bias[:, None, None]
        return y * gain + bias

    @torch.no_grad()
    def _initialize(self, y: Tensor) -> None:
        mean = y.mean((0, 2, 3))
        deviation = y.std((0, 2, 3)).clamp_min(1e-6)
        self.gain.copy_(1 / deviation)
        self.bias.copy_(-mean / deviation)


@contextmanager
def data_dependent_initialization(*modules: nn.Module) -> Iterator[None]:
    """Within the block each convolution sets gain and bias so that its output has mean 0 and deviation 1."""
    convolutions = []
    for module in modules:
        for part in module.modules():
            if isinstance(part, WeightNormConv):
                convolutions.append(part)
    for convolution in convolutions:
        convolution.initializing = True
    try:
        yield
    finally:
        for convolution in convolutions:
            convolution.initializing = False


class Block(nn.Module):
    """A residual block with one convolution and, optionally, a second input.

    Args:
        channels: Channels of input and output.
        beside: Channels of the second input; 0 for none.
        dropout: Dropout rate.
    """

    def __init__(self, channels: int, beside: int = 0, dropout: float = 0.1) -> None:
        super().__init__()
        self.beside = None
        inputs = channels
        if beside:
            self.beside = WeightNormConv(beside, channels, 1)
            inputs = 2 * channels
        self.dropout = nn.Dropout(dropout)
        self.convolution = WeightNormConv(inputs, channels)

    def forward(self, x: Tensor, a: Tensor | None = None) -> Tensor:
        h = x
        if self.beside is not None:
            assert a is not None, "this block has a second input"
            second = self.beside(F.elu(a))
            h = torch.cat([x, second], 1)
        h = self.dropout(F.elu(h))
        return x + self.convolution(h)


class Up(nn.Module):
    """Upsampling by a factor of 2: channels become positions."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.convolution = WeightNormConv(inputs, 4 * outputs)

    def forward(self, x: Tensor) -> Tensor:
        return depth_to_space(self.convolution(x))
