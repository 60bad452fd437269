"""The terminal: streams of any encoding, and whether a progress bar can be seen."""

from __future__ import annotations

import codecs
import os
import sys
from typing import TextIO

__all__ = ["shows_bars", "tolerate_any_encoding"]

_LEAST_WIDTH = 40  # columns; a narrower progress bar is cut off before its numbers
_HANDLER = "pyro_lrp"
_ASCII = {
    "±": "+-",
    "×": "x",
    "–": "-",
    "—": "-",
    "…": "...",
    "α": "alpha",
    "β": "beta",
    "γ": "gamma",
    "σ": "sigma",
    "↓": "v",
    "↑": "^",
    "−": "-",
    "²": "^2",
    "‘": "'",
    "’": "'",
    "“": '"',
    "”": '"',
}


def tolerate_any_encoding() -> None:
    r"""Let the standard streams write what their encoding lacks in ASCII, instead of raising.

    Signs that the library prints have a name, such as ``+-`` for ``±``; other letters become ``\xe9`` and the
    like. For commands only: it changes ``sys.stdout`` and ``sys.stderr``.
    """
    codecs.register_error(_HANDLER, _in_ascii)
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:  # a notebook's stream has none
            reconfigure(errors=_HANDLER)


def _in_ascii(error: UnicodeError) -> tuple[str | bytes, int]:
    """Replace the first letter that cannot be written."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    letter = error.object[error.start]
    following = error.start + 1
    if "\udc80" <= letter <= "\udcff":  # a byte of a file's name that is no text: written as it is
        return letter.encode("ascii", "surrogateescape"), following
    if letter in _ASCII:
        return _ASCII[letter], following
    return letter.encode("ascii", "backslashreplace").decode("ascii"), following


def shows_bars(stream: TextIO | None = None) -> bool:
    """Whether a progress bar on a stream can be seen: it is a terminal, and wide enough.

    Some terminals (``docker exec -t``, ``expect``, a serial line) say that they are 0 columns wide.

    Args:
        stream: The stream; ``sys.stderr`` by default.
    """
    stream = stream or sys.stderr
    if not stream.isatty():
        return False
    try:
        return os.get_terminal_size(stream.fileno()).columns >= _LEAST_WIDTH
    except (OSError, ValueError):
        return False
