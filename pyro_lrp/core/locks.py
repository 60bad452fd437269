"""One writer at a time: locks that end with their process, so that none is ever stale."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from pyro_lrp.core.errors import UserError, printable
from pyro_lrp.core.files import write_atomically

__all__ = ["one_writer"]


@contextmanager
def one_writer(path: Path, *, what: str, wait: bool = False) -> Iterator[None]:
    """Hold the lock of a file or folder within the block.

    The system releases the lock when its process ends, however it ends. A process may take a lock that it holds
    again. Two hidden files beside the path stay: the lock, and a note on its last holder.

    Args:
        path: The lock file; its folder exists.
        what: What is written under the lock, for messages, such as ``"runs/a"``.
        wait: Wait until the lock is free, after saying so on stderr, instead of refusing.

    Raises:
        UserError: If another process holds the lock and ``wait`` is False; the message names the process.
    """
    path = path.resolve()
    lock = FileLock(path, is_singleton=True)
    note = path.with_name(f"{path.name}.json")
    held = lock.is_locked
    try:
        lock.acquire(timeout=0)
    except Timeout:
        holder = _holder(note)
        if not wait:
            raise UserError(f"{what} is being written by {holder}: wait for it, or end it") from None
        print(printable(f"{what} is being written by {holder}: waiting for it"), file=sys.stderr, flush=True)
        lock.acquire()
    try:
        if not held:
            _write_holder(note)
        yield
    finally:
        lock.release()


def _write_holder(note: Path) -> None:
    holder = {"process": os.getpid(), "host": platform.node(), "command": Path(sys.argv[0]).stem}
    text = json.dumps(holder)
    write_atomically(note, lambda target: target.write_text(text, encoding="utf-8"))


def _holder(note: Path) -> str:
    """The process that holds a lock, in words; the note may be missing for a moment, and is not trusted."""
    try:
        holder: Any = json.loads(note.read_text(encoding="utf-8"))
        return f"process {int(holder['process'])} on {str(holder['host'])[:100]}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
