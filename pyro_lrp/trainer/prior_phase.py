"""What a prior-only phase sees, and may do besides descending its loss: off by default, the paper has none."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pyro_lrp.core.errors import UserError

__all__ = ["Averages", "EarlyStop", "PriorPhase", "assign", "held_out_score"]


@dataclass(frozen=True)
class PriorPhase:
    """Options of a prior-only phase.

    Attributes:
        code_noise: Noise on the codes, in units of each dimension's own standard deviation over the training
            codes; encoder and decoder are untouched.
        ema: Decay of an exponential moving average of the prior's parameters, which is scored, drawn from and,
            at the end, kept; 0 for none.
        patience: Scorings of the held-out codes without a better one after which the phase stops; the best
            parameters are kept. None never stops.

    Raises:
        UserError: Names the option that is out of its range.
    """

    code_noise: float = 0.0
    ema: float = 0.0
    patience: int | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.code_noise) and self.code_noise >= 0):
            raise UserError(f"prior_code_noise must be a number of at least 0, got {self.code_noise}")
        if not 0 <= self.ema < 1:
            raise UserError(f"prior_ema must be at least 0 and below 1, got {self.ema}")
        if self.patience is not None and self.patience < 1:
            raise UserError(f"prior_patience must be at least 1, or null, got {self.patience}")


def held_out_score(row: Mapping[str, Any]) -> float:
    """Of the held-out codes, the higher the better: log p(z), or minus the loss that a prior has of its own."""
    score = row.get("validation/log_prior")
    return -row["validation/fit_loss"] if score is None else score


class Averages:
    """Exponential moving averages of a module's parameters.

    Torch's ``AveragedModel`` copies the module, which a stock transform that was used once refuses.

    >>> module = nn.Linear(1, 1)
    >>> averages = Averages(module, decay=0.5)
    >>> before = module.bias.item()
    >>> _ = module.bias.data.add_(1.0)
    >>> averages.update()
    >>> with averages.applied():
    ...     round(module.bias.item() - before, 3)
    0.5
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.parameters: list[Tensor] = [*module.parameters()]
        self.decay = decay
        self.values = [p.detach().clone() for p in self.parameters]

    @torch.no_grad()
    def update(self) -> None:
        """Take the present parameters in."""
        torch._foreach_lerp_(self.values, self.parameters, 1.0 - self.decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within the block the module has the averages for its parameters."""
        present = [p.detach().clone() for p in self.parameters]
        assign(self.parameters, self.values)
        try:
            yield
        finally:
            assign(self.parameters, present)


class EarlyStop:
    """Keeps the parameters that scored best, and says when ``patience`` scorings in a row were no better."""

    def __init__(self, module: nn.Module, patience: int) -> None:
        self.parameters, self.patience = [*module.parameters()], patience
        self.best, self.since = -math.inf, 0
        self.kept = [p.detach().clone() for p in self.parameters]

    def observe(self, score: float) -> bool:
        """Take in a score, the higher the better, of the present parameters; True if it is time to stop."""
        if score > self.best:
            self.best, self.since = score, 0
            self.kept = [p.detach().clone() for p in self.parameters]
        else:
            self.since += 1
        return self.since >= self.patience

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"best": self.best, "since": self.since, "kept": self.kept}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint's state."""
        self.best, self.since = state["best"], state["since"]
        assign(self.kept, state["kept"])

    def restore(self) -> None:
        """Give the module the parameters that scored best."""
        assign(self.parameters, self.kept)


@torch.no_grad()
def assign(targets: list[Any], values: list[Tensor]) -> None:
    """Copy values into tensors of the same shapes, in place."""
    for target, value in zip(targets, values, strict=True):
        target.copy_(value)
