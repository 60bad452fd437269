"""The rows of ``metrics.jsonl``: one JSON object per report, and after a resume no step twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pyro_lrp.core.files import plain, write_atomically

__all__ = ["History", "read_rows"]


class History:
    """Rows in memory and, with a path, on disk; rows past ``step`` are dropped, since they will come again."""

    def __init__(self, path: Path | None, step: int = 0) -> None:
        self.path = path
        rows = read_rows(path)
        self.rows = [row for row in rows if row["step"] <= step]
        if path is not None:
            lines = [_line(row) for row in self.rows]
            text = "".join(lines)
            write_atomically(path, lambda target: target.write_text(text, encoding="utf-8"))

    @property
    def seconds(self) -> float:
        """Training time so far, through all resumes."""
        if not self.rows:
            return 0.0
        return self.rows[-1]["seconds"]

    def append(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        if self.path is not None:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(_line(row))


def read_rows(path: Path | None) -> list[dict[str, Any]]:
    """The rows of a file; a last line that a kill cut short is left out."""
    rows: list[dict[str, Any]] = []
    if path is None or not path.is_file():
        return rows
    text = path.read_text(encoding="utf-8")
    for line in text.splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def _line(row: dict[str, Any]) -> str:
    return json.dumps(plain(row), allow_nan=False) + "\n"
