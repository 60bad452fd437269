"""The layout of images and kernels in memory: by channel, or by pixel, as tensor cores prefer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pyro_lrp.core.errors import UserError

__all__ = ["like", "match_moments", "memory_format", "set_layout"]

_FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def memory_format(name: str) -> torch.memory_format:
    """The layout that ``"contiguous"`` or ``"channels_last"`` stands for.

    Raises:
        UserError: If it is unknown.
    """
    if name not in _FORMATS:
        raise UserError(f"memory_format must be contiguous or channels_last, got {name!r}")
    return _FORMATS[name]


def set_layout(module: nn.Module, layout: torch.memory_format) -> None:
    """Lay the kernels of convolutions out; images take the layout of the kernels that they meet.

    >>> network = nn.Conv2d(2, 3, 3)
    >>> set_layout(network, torch.channels_last)
    >>> network(torch.zeros(1, 2, 8, 8)).is_contiguous(memory_format=torch.channels_last)
    True
    """
    module.to(memory_format=layout)


def match_moments(optimizer: torch.optim.Optimizer) -> None:
    """Lay the moments out as their parameters, which the kernels of optimizers require."""
    for parameter, state in optimizer.state.items():
        for name, moment in state.items():
            if isinstance(moment, Tensor) and moment.shape == parameter.shape:
                state[name] = like(parameter, moment)


def like(parameter: Tensor, values: Tensor) -> Tensor:
    """Values in the layout of a parameter.

    Args:
        parameter: Any shape.
        values: Of the same shape.
    """
    if values.stride() == parameter.stride():
        return values
    return torch.empty_like(parameter, dtype=values.dtype).copy_(values)
