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
        self.in_tensor = False
        if schedule:
            self.keep_in_tensor()
            self.advance(Progress(0, 0.0))

    def keep_in_tensor(self) -> None:
        """Read the value from a tensor from now on, though it may be constant.

        Several models that are computed as one may then have different values. A constant of 0.0 leaves no
        term out any more.
        """
        if self.in_tensor or isinstance(self.value, Tensor):
            return
        self.in_tensor = True
        # not saved: it is a function of the step
        value = torch.tensor(float(self.value))
        self.register_buffer("scheduled", value, persistent=False)

    def advance(self, progress: Progress) -> None:
        """Set the value of a scheduled weight."""
        if self.schedule is not None:
            factor = self.schedule(progress)
            self.scheduled.fill_(float(self.value) * factor)

    def forward(self) -> float | Tensor:
        if self.in_tensor:
            return self.scheduled
        return self.value

    def terms(self, name: str) -> dict[str, Tensor]:
        """The weight for the log, under ``name``; empty if it is constant."""
        if self.schedule is None:
            return {}
        return {name: self.scheduled.clone()}
