"""The velocity field of a flow matching prior."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["velocity"]


def velocity(dim: int, width: int = 512, layers: int = 4, frequencies: int = 8) -> nn.Module:
    r"""A residual perceptron v(t, x) that is zero everywhere until it is trained.

    Each layer is :math:`h \leftarrow h + A\,\mathrm{silu}(h + B\,e(t))`, with the embedding
    :math:`e(t) = (\sin k \pi t, \cos k \pi t)`, k = 1, ..., ``frequencies``.

    Args:
        dim: Length of a code.
        width: Of a hidden layer.
        layers: Residual layers.
        frequencies: Of the time embedding. A field that changes quickly with t takes a solver more steps.

    Returns:
        A module of the time, 0-dim or ``(*, 1)``, and codes ``(*, dim)``; it returns ``(*, dim)``.

    >>> field = velocity(3, width=8)
    >>> field(torch.tensor(0.5), torch.randn(2, 3)).shape, field(torch.rand(2, 1), torch.randn(2, 3)).shape
    (torch.Size([2, 3]), torch.Size([2, 3]))
    """
    if min(dim, width, layers, frequencies) < 1:
        sizes = f"{dim}, {width}, {layers} and {frequencies}"
        raise ValueError(f"expected dim, width, layers and frequencies to be at least 1, got {sizes}")
    return _Velocity(dim, width, layers, frequencies)


class _Velocity(nn.Module):
    frequencies: Tensor

    def __init__(self, dim: int, width: int, layers: int, frequencies: int) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.arange(1.0, frequencies + 1.0), persistent=False)
        self.input, self.output = nn.Linear(dim, width), nn.Linear(width, dim)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(layers))
        self.times = nn.ModuleList(nn.Linear(2 * frequencies, width, bias=False) for _ in range(layers))
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        phase = math.pi * t * self.frequencies
        embedding = torch.cat([phase.sin(), phase.cos()], -1)
        h = self.input(x)
        for layer, time in zip(self.layers, self.times, strict=True):
            h = h + layer(functional.silu(h + time(embedding)))
        return self.output(h)
