"""When a checkpoint is due, and how it is written and found again."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from pyro_lrp.core import checkpoint
from pyro_lrp.core.errors import TrainingDiverged
from pyro_lrp.core.locks import one_writer

__all__ = ["Saver"]

FIRST = 30.0  # seconds: a run that was begun is worth keeping soon


class Saver:
    """Writes the checkpoints of a run.

    Args:
        directory: The run's directory; nothing is written if None.
        minutes: Time between checkpoints; the first is due after :data:`FIRST` seconds at the latest. With 0
            every report is saved.

    Attributes:
        saved_step: The step of the last checkpoint that was written here, or None.
        identity: A digest of the configuration, if there is one; it is part of checkpoints.
    """

    def __init__(self, directory: Path | None, minutes: float) -> None:
        self.directory = directory
        self.minutes = minutes
        self._last = time.monotonic()
        self._seconds = 0.0  # of the last save
        self._begun = self.latest() is not None
        self.saved_step: int | None = None
        self.identity: str | None = None

    @property
    def folder(self) -> Path | None:
        if self.directory is None:
            return None
        return self.directory / "checkpoints"

    @contextmanager
    def one_writer(self) -> Iterator[None]:
        """The lock of the directory, to be held while training; what a killed save left is put in order."""
        if self.directory is None or self.folder is None:
            yield
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        with one_writer(self.directory / ".lock", what=str(self.directory)):
            checkpoint.finish_rotation(self.folder)
            yield

    def due(self) -> bool:
        """Whether a report that begins now comes with a checkpoint."""
        return time.monotonic() - self._last > self._interval()

    def overdue(self) -> bool:
        """Whether steps are too slow to wait for a report.

        Saving takes a tenth of the time at most.
        """
        if self.directory is None or self.minutes == 0:
            return False
        patience = max(self._interval(), 10 * self._seconds)
        return time.monotonic() - self._last > patience

    def _interval(self) -> float:
        """Seconds from the last checkpoint to the next."""
        seconds = 60 * self.minutes
        if self._begun:
            return seconds
        return min(seconds, FIRST)

    def save(self, state: dict[str, Any]) -> None:
        """Write a checkpoint; the one before stays beside it.

        Raises:
            TrainingDiverged: If a parameter is not finite; nothing is written.
        """
        begun = time.monotonic()
        if self.folder is not None:
            _refuse_non_finite(state)
            if self.identity is not None:
                state = {**state, "identity": self.identity}
            checkpoint.rotate_and_save(self.folder, state)
            self.saved_step = state["step"]
            self._begun = True
        self._last = time.monotonic()
        self._seconds = self._last - begun

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
