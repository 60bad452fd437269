"""What whoever watches a training is told."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pyro_lrp.objectives import Game

__all__ = ["Callback", "Report"]


@dataclass(frozen=True)
class Report:
    """What callbacks are given after an evaluation; what they return is added to the row."""

    game: Game
    step: int
    phase: str
    picture_due: bool
    row: Mapping[str, Any]


Callback = Callable[[Report], "Mapping[str, float] | None"]
