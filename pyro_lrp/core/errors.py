"""The errors a user can cause, each with a message of one sentence that names the key or file."""

from __future__ import annotations


class UserError(ValueError):
    """A mistake that the user can mend; commands print its message as one line and exit with code 1."""


def printable(text: str) -> str:
    r"""The text without control characters, which could come from a stranger's file and steer a terminal.

    >>> printable("a\x1b[2Jb\n")
    'a?[2Jb\n'
    """
    return "".join(letter if letter.isprintable() or letter in "\n\t" else "?" for letter in text)


class TrainingDiverged(UserError):
    """A term of the loss, or a parameter, is no longer finite; the last good checkpoint is kept."""
