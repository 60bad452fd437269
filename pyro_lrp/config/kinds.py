"""The kinds of folders that commands read, told apart by a look; torch is not needed."""

from __future__ import annotations

from pathlib import Path

__all__ = ["PRIOR_FILE", "holds_prior"]

PRIOR_FILE = "prior.safetensors"
"""The file of a prior that was fitted to codes, in a folder of its own."""


def holds_prior(directory: str | Path) -> bool:
    """Whether a folder is one of ``fit``, or the file in it: a prior of codes, without networks."""
    path = Path(directory).expanduser()
    return path.name == PRIOR_FILE or (path / PRIOR_FILE).is_file()
