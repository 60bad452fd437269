"""Arguments of commands as text: quoted for Hydra's grammar, and whole commands to paste into a shell."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from typing import Any

__all__ = ["LIST_KEYS", "command_line", "is_path_key", "listed", "needs_quotes", "quote", "typed"]

PATH_KEYS = (
    "run",
    "runs",
    "out",
    "images",
    "data.root",
    "data.path",
    "data.images",
    "data.attributes",
    "data.index",
    "codes",
    "held_out",
    "style",
)
LIST_KEYS = ("images", "runs", "style")  # path keys that also take a list
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]*")
_RESERVED = ("null", "true", "false", "nan", "inf")  # Hydra reads them as values that are no text


def is_path_key(key: str) -> bool:
    """Whether the value of a key is a path, which commands take without quotes for Hydra."""
    return key in PATH_KEYS or key.startswith("weights.")


def quote(text: str, *, interpolates: bool = False) -> str:
    r"""Quote a text for Hydra's grammar.

    Args:
        text: The text.
        interpolates: Whether ``${key}`` stands for the value of a key, and not for itself.

    >>> print(quote("it's"))
    'it\'s'
    """
    # within quotes, Hydra unescapes only \' and backslashes before the closing quote
    escaped = re.sub(r"(\\*)'", r"\1\1\'", text)
    escaped = re.sub(r"(\\+)$", r"\1\1", escaped)
    if not interpolates:
        escaped = escaped.replace("${", "\\${")
    return f"'{escaped}'"


def listed(text: str) -> list[str]:
    """The names of a list as it is typed, with brackets or without.

    >>> listed("[fid, 'kid']"), listed("fid"), listed("[]")
    (['fid', 'kid'], ['fid'], [])
    """
    names = [name.strip(" '\"") for name in text.strip("[]").split(",")]
    return [name for name in names if name]


def needs_quotes(key: str, value: str) -> bool:
    """Whether the typed value of a path key is a path that is not quoted yet: no list, no null."""
    if not value or value == "null":
        return False
    is_quoted = value[0] in ("'", '"')
    is_list = key in LIST_KEYS and value.startswith("[") and value.endswith("]")
    return not is_quoted and not is_list


def command_line(command: str, options: Mapping[str, Any]) -> str:
    """A command to paste into a shell; options that are None are left out.

    Args:
        command: The name of the command, such as ``sample``.
        options: Values by key: texts, paths, numbers, truth values, or lists of such.

    >>> print(command_line("sample", {"run": "runs/my run", "n": 9, "context": [0, 1], "out": None}))
    python -m pyro_lrp.sample 'run=runs/my run' n=9 'context=[0,1]'
    """
    return shlex.join(["python", "-m", f"pyro_lrp.{command}", *typed(options)])


def typed(options: Mapping[str, Any]) -> list[str]:
    """Options as a user types them, but for the quotes that a shell needs; those that are None are left out.

    >>> typed({"context": ["Smiling"], "n": 9, "pose": None})
    ['context=[Smiling]', 'n=9']
    """
    return [f"{key}={_value(key, value)}" for key, value in options.items() if value is not None]


def _value(key: str, value: Any) -> str:
    if isinstance(value, (list, tuple)):
        items = [_value("", item) for item in value]
        return f"[{','.join(items)}]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return str(value)
    text = str(value)
    if is_path_key(key) and needs_quotes(key, text):
        return text  # the command quotes it
    if _PLAIN.fullmatch(text) and text.lower() not in _RESERVED:
        return text
    return quote(text)
