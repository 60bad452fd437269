"""A member of a sweep where it runs: in the process of the sweep, or in one that a launcher started."""

from __future__ import annotations

import importlib
import io
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from pyro_lrp.config.messages import described
from pyro_lrp.core.allocator import keep_freed_memory
from pyro_lrp.core.errors import TRACEBACK, printable
from pyro_lrp.core.terminal import tolerate_any_encoding

__all__ = ["Job", "Outcome", "attempt", "concluded"]

_SECONDS_BETWEEN_LOOKS = 0.2
_STOP = "stop"


@dataclass(frozen=True)
class Outcome:
    """How a member ended; sent between processes.

    Attributes:
        label: What tells the member from the others, such as ``beta=0 seed=1``.
        error: Why it is not complete, in one line that begins with the label; None if it is.
    """

    label: str
    error: str | None = None


@dataclass(frozen=True)
class Job:
    """What a launcher calls for each member; sent between processes, and so names the command.

    Attributes:
        command: The name of the command.
        labels: What tells each member from the others.
        titles: The lines that announce them where they run one after another.
        folder: The folder of a sweep in several processes; None where all run in this one.
        working: The current folder, in which the member runs.
        one_thread: Whether a member is to compute with one thread, beside others on the same machine.
        parent: The process that started those of the members, if it is always the sweep's; else None.
    """

    command: str
    labels: tuple[str, ...]
    titles: tuple[str, ...]
    folder: Path | None
    working: Path
    one_thread: bool
    parent: int | None

    def __call__(self, cfg: DictConfig) -> Outcome:
        """Run the member of a configuration; only what ends a process raises."""
        number = HydraConfig.get().job.num
        label = self.labels[number]
        if self.folder is None or os.getpid() == self.parent:  # joblib starts no process for one at a time
            print(printable(self.titles[number]), flush=True)
            return attempt(self.command, cfg, label, parallel=False)
        os.chdir(self.working)
        tolerate_any_encoding()
        keep_freed_memory()
        if self.should_stop:
            return Outcome(label, f"{label}: not begun")
        try:
            with _labelled(label), self._obeying():
                if self.one_thread:
                    _use_one_thread()
                return attempt(self.command, cfg, label, parallel=True)
        except KeyboardInterrupt as stop:
            if self._is_orphan:
                os._exit(1)  # nobody waits for the outcome, nor ends this process
            words = str(stop) or "interrupted"
            return Outcome(label, f"{label}: {words}")

    def ask_to_stop(self) -> None:
        """Let members stop, in whatever process they are; those that are not begun do not begin."""
        assert self.folder is not None, "members of this process get its signals"
        (self.folder / _STOP).touch()

    @property
    def should_stop(self) -> bool:
        """Whether members are to stop."""
        return self.folder is not None and (self.folder / _STOP).exists()

    @property
    def _is_orphan(self) -> bool:
        return self.parent is not None and os.getppid() != self.parent

    def clean(self) -> None:
        """Remove the folder unless a launcher left something in it, after all members ended."""
        if self.folder is None:
            return
        (self.folder / _STOP).unlink(missing_ok=True)
        for folder in (self.folder, self.folder.parent):
            if any(folder.iterdir()):
                return
            folder.rmdir()

    @contextmanager
    def _obeying(self) -> Iterator[None]:
        """Within the block SIGTERM interrupts; it comes when members are to stop or the sweep's process ended.

        Ctrl-C reaches every process of a terminal: that of the sweep decides what it means.
        """
        if threading.current_thread() is not threading.main_thread():  # where Python allows no handlers
            yield
            return
        before = {
            signal.SIGINT: signal.signal(signal.SIGINT, signal.SIG_IGN),
            signal.SIGTERM: signal.signal(signal.SIGTERM, signal.default_int_handler),
        }
        ended = threading.Event()

        def watch() -> None:
            while not ended.wait(_SECONDS_BETWEEN_LOOKS):
                if self.should_stop or self._is_orphan:
                    os.kill(os.getpid(), signal.SIGTERM)
                    return

        watching = threading.Thread(target=watch, daemon=True)
        watching.start()
        try:
            yield
        finally:
            ended.set()
            watching.join()
            for number, handler in before.items():
                signal.signal(number, handler or signal.SIG_DFL)


def attempt(name: str, cfg: DictConfig, label: str, *, parallel: bool) -> Outcome:
    """Run a member, and print how it went; an error is printed and noted.

    Args:
        name: The name of the command.
        cfg: The configuration of the member.
        label: What tells the member from the others.
        parallel: Whether others run meanwhile.
    """
    command = importlib.import_module(f"pyro_lrp.{name}").main
    try:
        words = command.member(cfg, parallel=parallel)
    except Exception as error:
        if os.environ.get(TRACEBACK):
            sys.excepthook(type(error), error, error.__traceback__)
        what = described(error, name)
        message = printable(f"{label}: {what}")
        shown = what if parallel else message
        print(printable(f"error: {shown}"), file=sys.stderr, flush=True)
        return Outcome(label, message)
    if words:
        print(printable(words), flush=True)
    return Outcome(label)


def concluded(name: str, label: str, error: Exception | None) -> Outcome:
    """The outcome of a member that was computed with others, after it is printed.

    Args:
        name: The name of the command.
        label: What tells the member from the others.
        error: What went wrong.
    """
    if error is None:
        print(printable(f"{label} is complete"), flush=True)
        return Outcome(label)
    message = printable(f"{label}: {described(error, name)}")
    print(f"error: {message}", file=sys.stderr, flush=True)
    return Outcome(label, message)


def _use_one_thread() -> None:
    import torch

    torch.set_num_threads(1)


class _Labelled(io.TextIOBase):
    """Writes whole lines, each after a label: lines of several processes may mingle, parts of lines may not."""

    def __init__(self, stream: TextIO, label: str) -> None:
        self.stream = stream
        self.label = label
        self._line = ""

    def write(self, text: str) -> int:
        """Write the lines that the text completes."""
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            self._write(line)
        return len(text)

    def finish(self) -> None:
        """Write a line that is not complete."""
        if self._line:
            self._write(self._line)
        self._line = ""

    def _write(self, line: str) -> None:
        self.stream.write(f"{self.label} | {line}\n")
        self.stream.flush()


@contextmanager
def _labelled(label: str) -> Iterator[None]:
    """Within the block every line that is printed begins with a label."""
    out = _Labelled(sys.stdout, label)
    err = _Labelled(sys.stderr, label)
    try:
        with redirect_stdout(out), redirect_stderr(err):
            yield
    finally:
        out.finish()
        err.finish()
