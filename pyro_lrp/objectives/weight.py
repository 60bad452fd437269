"""A weight of an objective that may follow a schedule."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pyro_lrp.schedules import Constant, Progress, Schedule

__all__ = ["Weight"]


class Weight(nn.Module):
    """A number that may follow a schedule.

    A constant stays a Python float, so that a weight of 0.0 can leave a term out. A scheduled one is a 0-dim
    tensor on the game's device, written by the host before each step: no kernel of a step receives it as a
    number, so a captured step can be replayed.

    Args:
        value: The constant, or what the schedule's factors multiply.
        schedule: Factor over the progress of training; None or ``Constant`` for none.

    Raises:
        ValueError: If a tensor is given together with a schedule.

    >>> from pyro_lrp.schedules import Linear
    >>> beta = Weight(4.0, Linear(start=0.0, stop=0.5))
    >>> beta.advance(Progress(0, 0.25))
    >>> beta()
    tensor(2.)
    """

    scheduled: Tensor

    def __init__(
        self,
        value: float | Tensor,
        schedule: Schedule | None = None,
    ) -> None:
        super().__init__()
        if isinstance(schedule, Constant):
            schedule = None
        if schedule and isinstance(value, Tensor):
            raise ValueError("expected beta to be a number where there is a beta_schedule, got a tensor")
        self.value = value
        self.schedule = schedule
        if schedule:
            # not saved: it is a function of the step
            zero = torch.zeros(())
            self.register_buffer("scheduled", zero, persistent=False)
            self.advance(Progress(0, 0.0))

    def advance(self, progress: Progress) -> None:
        """Set the value of a scheduled weight."""
        if self.schedule is not None:
            factor = self.schedule(progress)
            self.scheduled.fill_(float(self.value) * factor)

    def forward(self) -> float | Tensor:
        if self.schedule is None:
            return self.value
        return self.scheduled

    def terms(self, name: str) -> dict[str, Tensor]:
        """The weight for the log, under ``name``; empty if it is constant."""
        if self.schedule is None:
            return {}
        return {name: self.scheduled.clone()}
