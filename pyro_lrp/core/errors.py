"""Errors that a user can cause; the message is one sentence that names the key or the file."""

from __future__ import annotations

TRACEBACK = "PYRO_LRP_TRACEBACK"
"""The environment variable that shows tracebacks."""


MISTAKES = (
    TypeError,
    ValueError,
    AttributeError,
    LookupError,
    ArithmeticError,
    AssertionError,
    RuntimeError,
    MemoryError,
)
"""The errors of constructors that get values of another kind than they expect."""


class UserError(ValueError):
    r"""A mistake that the user can correct; commands print the message and exit with code 1.

    Args:
        message: One sentence. Names that it quotes from a file may have line breaks, which become spaces.

    >>> str(UserError("there is no class cat\ndog"))
    'there is no class cat dog'
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(" ".join(str(message).splitlines()))


def printable(text: str) -> str:
    r"""Replace control characters, which an untrusted file could use to control the terminal.

    >>> printable("a\x1b[2Jb\n")
    'a?[2Jb\n'
    """
    letters = []
    for letter in text:
        harmless = letter.isprintable() or letter in "\n\t"
        letters.append(letter if harmless else "?")
    return "".join(letters)


class TrainingDiverged(UserError):
    """A term of the loss or a parameter is no longer finite; the last valid checkpoint is kept."""
