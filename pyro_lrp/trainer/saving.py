"""When a checkpoint is due, and how it is written and found again."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch

from pyro_lrp.core import checkpoint
from pyro_lrp.core.errors import TrainingDiverged

__all__ = ["Saver"]


class Saver:
    """Writes the checkpoints of a run.

    Args:
        directory: The run's directory; nothing is written if None.
        minutes: Time between checkpoints. With 0 every report is saved.
    """

    def __init__(self, directory: Path | None, minutes: float) -> None:
        self.directory = directory
        self.minutes = minutes
        self._last = time.monotonic()
        self._begun = self._last
        self._seconds = 0.0

    @property
    def folder(self) -> Path | None:
        if self.directory is None:
            return None
        return self.directory / "checkpoints"

    def due(self) -> bool:
        """Whether a report that begins now comes with a checkpoint."""
        self._begun = time.monotonic()
        return self._begun - self._last > 60 * self.minutes

    def overdue(self) -> bool:
        """Whether steps are too slow to wait for a report.

        Reports that score and save take a tenth of the time at most.
        """
        if self.directory is None or self.minutes == 0:
            return False
        patience = max(60 * self.minutes, 10 * self._seconds)
        return time.monotonic() - self._last > patience

    def save(self, state: dict[str, Any]) -> None:
        """Write a checkpoint; the one before stays beside it.

        Raises:
            TrainingDiverged: If a parameter is not finite; nothing is written.
        """
        if self.folder is not None:
            _refuse_non_finite(state)
            checkpoint.rotate_and_save(self.folder, state)
        self._last = time.monotonic()

    def reported(self) -> None:
        """Note how long a report with its scoring and saving took."""
        self._seconds = time.monotonic() - self._begun

    def latest(self) -> Path | None:
        """The last checkpoint, if there is one."""
        if self.folder is None:
            return None
        return checkpoint.latest(self.folder)

    def advice(self) -> str:
        """What is left of a training that diverged, and what to try."""
        kept = "the last good checkpoint is kept"
        if self.latest() is None:
            kept = "no checkpoint was written yet"
        return f"training stops, {kept} (a smaller lr, or another seed, may help)"


def _refuse_non_finite(state: dict[str, Any]) -> None:
    for name, tensor in state["game"].items():
        if not torch.isfinite(tensor).all():
            raise TrainingDiverged(f"{name} is not finite after step {state['step']}")
