"""Stopping work without losing it: signals are taken note of, and obeyed where the work can be saved."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["Stop", "Stopped"]

_SIGNALS = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}


class Stopped(KeyboardInterrupt):
    """Work was stopped by a signal, after it was saved.

    Attributes:
        signal: The number of the signal.
    """

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.signal = number


class Stop:
    """A request to stop, made by a signal.

    Args:
        log: Receives one line of text when a signal arrives.
        answer: What happens then, for that line.

    Attributes:
        signal: The number of the signal that arrived, or None.
    """

    def __init__(self, log: Callable[[str], None], answer: str) -> None:
        self.log = log
        self.answer = answer
        self.signal: int | None = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Within the block SIGINT and SIGTERM are taken note of; a second one acts as it did before.

        Outside the main thread, where Python allows no handlers, nothing changes.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in _SIGNALS}

        def note(number: int, frame: FrameType | None) -> None:
            self.signal = number
            signal.signal(number, before[signal.Signals(number)])
            self.log(f"{_SIGNALS[signal.Signals(number)]}: {self.answer} (once more: at once)")

        try:
            for number, handler in before.items():
                if handler is not signal.SIG_IGN and handler is not None:
                    signal.signal(number, note)
            yield
        finally:
            for number, handler in before.items():
                if handler is not None:
                    signal.signal(number, handler)
