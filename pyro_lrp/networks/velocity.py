"""The velocity field of a flow matching prior."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["velocity"]


def velocity(dim: int, width: int = 512, layers: int = 4, frequencies: int = 8) -> nn.Module:
    r"""A residual perceptron v(t, x), initialized to zero everywhere.

    Each layer is :math:`h \leftarrow h + A\,\mathrm{silu}(h + B\,e(t))`, with the embedding
    :math:`e(t) = (\sin k \pi t, \cos k \pi t)`, k = 1, ..., ``frequencies``.

    Args:
        dim: Length of a code.
        width: Width of the hidden layers.
        layers: Number of residual layers.
        frequencies: Number of frequencies of the time embedding. A field that changes quickly with t needs more
            steps of a solver.

    Returns:
        A module of the time, 0-dim or ``(*, 1)``, and codes ``(*, dim)``; it returns ``(*, dim)``.

    >>> field = velocity(3, width=8)
    >>> field(torch.tensor(0.5), torch.randn(2, 3)).shape, field(torch.rand(2, 1), torch.randn(2, 3)).shape
    (torch.Size([2, 3]), torch.Size([2, 3]))
    """
    if min(dim, width, layers, frequencies) < 1:
        raise ValueError(
            "expected dim, width, layers and frequencies to be at least 1, "
            f"got {dim}, {width}, {layers} and {frequencies}"
        )
    return _Velocity(dim, width, layers, frequencies)


class _Velocity(nn.Module):
    frequencies: Tensor

    def __init__(self, dim: int, width: int, layers: int, frequencies: int) -> None:
        super().__init__()
        multiples = torch.arange(1.0, frequencies + 1.0)
        self.register_buffer("frequencies", multiples, persistent=False)
        self.input = nn.Linear(dim, width)
        self.output = nn.Linear(width, dim)
        self.layers = nn.ModuleList()
        for _ in range(layers):
            self.layers.append(nn.Linear(width, width))
        self.times = nn.ModuleList()
        for _ in range(layers):
            self.times.append(nn.Linear(2 * frequencies, width, bias=False))
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        phase = math.pi * t * self.frequencies
        embedding = torch.cat([phase.sin(), phase.cos()], -1)
        h = self.input(x)
        for layer, time in zip(self.layers, self.times, strict=True):
            activated = functional.silu(h + time(embedding))
            h = h + layer(activated)
        return self.output(h)
