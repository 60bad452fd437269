"""The rows of ``metrics.jsonl``: one JSON object per report, and after a resume no step twice."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from pyro_lrp.core.errors import UserError
from pyro_lrp.core.files import plain, write_atomically
from pyro_lrp.core.seals import CHECKSUM, is_intact, sealed

__all__ = ["DAMAGED", "History", "Rows", "read_rows"]

DAMAGED = "metrics.damaged.jsonl"
"""The file that keeps what was there before damaged lines were left out."""

_LARGEST = 2**28  # bytes


class History:
    """Rows in memory and, with a path, on disk; rows past ``step`` are dropped, since they will come again.

    A line that is no row, such as one that a failing disk changed, is left out; the file as it was is kept
    under the name :data:`DAMAGED`.

    Args:
        path: The file, or None.
        step: The last step that counts.
        log: Receives a line if others are left out.
    """

    def __init__(
        self, path: Path | None, step: int = 0, log: Callable[[str], None] = lambda line: None
    ) -> None:
        self.path = path
        self.rows: list[dict[str, Any]] = []
        if path is None:
            return
        found = read_rows(path)
        if found.damaged:
            shutil.copyfile(path, path.with_name(DAMAGED))
            log(f"{path}: lines {_list(found.damaged)} cannot be read and are left out; {DAMAGED} keeps them")
        self.rows = [row for row in found.rows if row["step"] <= step]
        lines = [_line(row) for row in self.rows]
        text = "".join(lines)
        write_atomically(path, lambda target: target.write_text(text, encoding="utf-8"))

    @property
    def seconds(self) -> float:
        """Training time so far, through all resumes."""
        if not self.rows:
            return 0.0
        seconds = self.rows[-1].get("seconds")
        return seconds if isinstance(seconds, (int, float)) else 0.0

    def append(self, row: dict[str, Any]) -> None:
        """Add a row, which is on the disk before a checkpoint that follows it."""
        self.rows.append(row)
        if self.path is not None:
            try:
                with open(self.path, "a", encoding="utf-8") as file:
                    file.write(_line(row))
                    file.flush()
                    os.fsync(file.fileno())
            except OSError as error:
                error.filename = str(self.path)
                raise


class Rows(NamedTuple):
    """What a file holds.

    Attributes:
        rows: JSON objects with a ``step``, a whole number, that match their checksum if they have one.
        damaged: The numbers of the other lines, from 1; without the last line if a kill cut it short.
    """

    rows: list[dict[str, Any]]
    damaged: list[int]


def read_rows(path: Path) -> Rows:
    """The rows of a file; none if there is no such file.

    Raises:
        UserError: If it is larger than 256 MB.
    """
    if not path.is_file():
        return Rows([], [])
    size = path.stat().st_size
    if size > _LARGEST:
        raise UserError(f"{path} has {size:,} bytes, more than the limit of {_LARGEST:,}")
    content = path.read_bytes()
    lines = content.split(b"\n")
    rows: list[dict[str, Any]] = []
    damaged = []
    for number, line in enumerate(lines, start=1):
        row = _row(line)
        if row is not None:
            rows.append(row)
        elif line.strip() and number < len(lines):
            damaged.append(number)
    return Rows(rows, damaged)


def _row(line: bytes) -> dict[str, Any] | None:
    """The row of a line, or None."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict) or not is_intact(row):
        return None
    row.pop(CHECKSUM, None)
    step = row.get("step")
    if not isinstance(step, int) or isinstance(step, bool):
        return None
    return row


def _list(numbers: list[int]) -> str:
    """Numbers in words, the first few of many."""
    words = ", ".join(map(str, numbers[:5]))
    if len(numbers) > 5:
        words += f" and {len(numbers) - 5} more"
    return words


def _line(row: dict[str, Any]) -> str:
    return json.dumps(sealed(plain(row)), allow_nan=False) + "\n"
