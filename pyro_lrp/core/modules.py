"""Modes of modules: training and evaluation, for a block and part by part; what learns."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

__all__ = ["eval_mode", "learns"]


@contextmanager
def eval_mode(module: nn.Module) -> Iterator[None]:
    """Within the block the module and all its parts are in eval mode; afterwards each is as it was.

    >>> network = nn.Sequential(nn.Dropout().eval(), nn.Dropout())
    >>> with eval_mode(network):
    ...     network[1].training
    False
    >>> [part.training for part in network]
    [False, True]
    """
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, training in modes.items():
            part.training = training


def learns(*modules: nn.Module) -> bool:
    """Whether a module has a parameter that takes gradients.

    >>> learns(nn.Linear(1, 1)), learns(nn.Linear(1, 1).requires_grad_(False)), learns(nn.ReLU())
    (True, False, False)
    """
    parameters = (p for module in modules for p in module.parameters())
    return any(p.requires_grad for p in parameters)
