"""A quick check for a network connection before a download, so that an offline machine fails in seconds."""

from __future__ import annotations

import contextlib
import threading
import urllib.request

__all__ = ["online"]

OFFLINE_AFTER = 15.0  # seconds


def online(url: str) -> bool:
    """Whether the address answers within :data:`OFFLINE_AFTER` seconds."""
    answered = threading.Event()

    def request() -> None:
        with contextlib.suppress(OSError, ValueError):
            urllib.request.urlopen(url, timeout=OFFLINE_AFTER).close()
            answered.set()

    # a thread, because resolving the host name alone can block for a minute and takes no timeout
    thread = threading.Thread(target=request, daemon=True)
    thread.start()
    thread.join(OFFLINE_AFTER)
    return answered.is_set()
