"""Is there a network at all? Asked before a download, so that a machine without one says so within seconds."""

from __future__ import annotations

import contextlib
import threading
import urllib.request

__all__ = ["online"]

OFFLINE_AFTER = 15.0  # seconds


def online(url: str) -> bool:
    """Whether the address answers in time; a thread, since a name lookup alone can hang for a minute."""
    answered = threading.Event()

    def ask() -> None:
        with contextlib.suppress(OSError, ValueError):
            urllib.request.urlopen(url, timeout=OFFLINE_AFTER).close()
            answered.set()

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(OFFLINE_AFTER)
    return answered.is_set()
