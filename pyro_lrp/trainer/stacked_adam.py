"""One optimizer of the parameters of several models, where their own ones do the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["StackedAdam"]

_OF_EACH = ("params", "lr", "base_lr")  # the entries of a group that are compared by themselves, or not at all


class StackedAdam:
    """An Adam of stacked parameters. The optimizers of the models share its moments, as slices.

    While it exists, their states are those of each model, and they must not be stepped; after :meth:`release`
    each goes on by itself.

    Args:
        optimizers: The optimizer of each model, for which :meth:`suits` holds.
        wholes: The stacked parameters, by the ``id`` of the first model's.
    """

    def __init__(self, optimizers: Sequence[torch.optim.Optimizer], wholes: Mapping[int, Tensor]) -> None:
        self.optimizers = list(optimizers)
        first = self.optimizers[0]
        kind: Any = type(first)
        groups = []
        for group in first.param_groups:
            params = [wholes[id(parameter)] for parameter in group["params"]]
            groups.append({**group, "params": params})  # and so the tensor of the rate is the first model's
        self.adam: torch.optim.Optimizer = kind(groups)
        for number, group in enumerate(self.adam.param_groups):
            for place, whole in enumerate(group["params"]):
                slices = [one.param_groups[number]["params"][place] for one in self.optimizers]
                self._join(whole, slices)

    @classmethod
    def suits(cls, optimizers: Sequence[torch.optim.Optimizer], wholes: Mapping[int, Tensor]) -> bool:
        """Whether optimizers do the same: options, rates and steps so far, of parameters that are stacked."""
        first = optimizers[0]
        known = all(id(p) in wholes for group in first.param_groups for p in group["params"])
        return known and all(_habits(one) == _habits(first) for one in optimizers)

    def step(self) -> None:
        """Move the parameters of all models."""
        self.adam.step()

    def release(self) -> None:
        """Give each model's optimizer a count of steps of its own."""
        for optimizer in self.optimizers:
            for state in optimizer.state.values():
                state["step"] = state["step"].clone()

    def _join(self, whole: Tensor, slices: Sequence[Tensor]) -> None:
        """Stack the states of a parameter, and give each model its slice."""
        states = [one.state[parameter] for one, parameter in zip(self.optimizers, slices, strict=True)]
        if not states[0]:
            for state in states:
                state.update(_fresh(slices[0]))
        joined = {"step": states[0]["step"].clone()}
        for name in ("exp_avg", "exp_avg_sq"):
            joined[name] = torch.stack([state[name] for state in states])
        self.adam.state[whole] = joined
        for number, state in enumerate(states):
            state["step"] = joined["step"]
            state["exp_avg"] = joined["exp_avg"][number]
            state["exp_avg_sq"] = joined["exp_avg_sq"][number]


def _fresh(parameter: Tensor) -> dict[str, Tensor]:
    """The state before the first step."""
    return {
        "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
        "exp_avg": torch.zeros_like(parameter),
        "exp_avg_sq": torch.zeros_like(parameter),
    }


def _habits(optimizer: torch.optim.Optimizer) -> list[Any]:
    """What must be equal of optimizers that are joined."""
    habits: list[Any] = [type(optimizer)]
    for group in optimizer.param_groups:
        options = {name: value for name, value in group.items() if name not in _OF_EACH}
        steps = [_steps(optimizer, parameter) for parameter in group["params"]]
        habits.append((options, group.get("base_lr"), steps))
    return habits


def _steps(optimizer: torch.optim.Optimizer, parameter: Tensor) -> float | None:
    """The steps that a parameter has taken; None before its first."""
    state = optimizer.state.get(parameter)
    if not state:
        return None
    return state["step"].item()
