"""Where things are kept that would take long to make again."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["cache_dir"]


def cache_dir(name: str) -> Path:
    """A folder of the user's cache, ``$PYRO_LRP_CACHE`` or ``~/.cache/pyro_lrp``; made if it is missing."""
    folder = Path(os.environ.get("PYRO_LRP_CACHE") or "~/.cache/pyro_lrp").expanduser() / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder
