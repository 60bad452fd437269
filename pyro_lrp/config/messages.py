"""An error as one line: the messages of Hydra and of the operating system, rephrased."""

from __future__ import annotations

import difflib
import re
from pathlib import Path

from hydra.errors import HydraException, OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pyro_lrp.config.folders import conf_dir, groups
from pyro_lrp.core.errors import TRACEBACK, UserError

__all__ = ["described", "one_line", "uncomposed"]

_MISSPELT = 0.8  # how alike an unknown argument and a known one are at least, of 1
_UNKNOWN_CHOICE = re.compile(
    r"Could not find '([^']+)/([^'/]+)'\s+"
    r"Available options in '[^']+':([^:]+?)(?:Config|$)"
)
_EXTRAS = {"joblib": "sweeps", "submitit_local": "slurm", "submitit_slurm": "slurm", "ray": "ray"}
"""The extra of this package that brings a launcher of sweeps."""

_MISSING = re.compile(r"Missing mandatory value: (\w+)")
_PLACE = re.compile(r"^(.*?) full_key: (\S+) object_type=\S+$")  # what OmegaConf adds to its messages
_NO_NODE = re.compile(r"node `([^`]+)` is not a container and thus cannot contain `([^`]+)`")
_AMBIGUOUS = re.compile(r"Ambiguous value for argument '([^=]+)=(.*?)'\s")
_UNKNOWN_KEYS = (
    re.compile(r"is not in struct\s+full_key: (\S+)"),
    re.compile(r"Could not override '([^']+)'"),
    re.compile(r"Key '([^']+)' is not in struct"),
)


_OWN_NAME = "a file of --config-dir builds on a file of its own name: give it another name"


def described(error: Exception, name: str) -> str:
    """An error in one line; one that is a bug, or a mistake that is not anticipated, with its kind.

    Args:
        error: The error.
        name: The name of the command.
    """
    if isinstance(error, (UserError, HydraException, OmegaConfBaseException, OSError, RecursionError)):
        return one_line(error, name)
    kind = type(error).__name__
    text = " ".join(str(error).split())[:300]
    return f"{kind}: {text} ({TRACEBACK}=1 shows where)"


def uncomposed(error: Exception) -> UserError:
    """The error of arguments of which no configuration can be made: whatever it is, they cause it."""
    if isinstance(error, RecursionError):
        return UserError(_OWN_NAME)
    text = " ".join(str(error).split())[:200]
    kind = type(error).__name__
    return UserError(f"no configuration can be made of these arguments ({kind}: {text}); see --help")


def one_line(error: BaseException, name: str) -> str:
    """The message of an error that a user can cause.

    Args:
        error: The error.
        name: The name of the command.
    """
    if isinstance(error, OverrideParseException):
        return _unreadable(error.override)
    if isinstance(error, RecursionError):
        return _OWN_NAME
    text = _message(error)
    unknown_choice = _UNKNOWN_CHOICE.search(text)
    if unknown_choice:
        group, choice, listed = unknown_choice.groups()
        if group == "hydra/launcher" and choice in _EXTRAS:
            return f"hydra/launcher={choice} needs packages: pip install 'pyro_lrp[{_EXTRAS[choice]}]'"
        known = ", ".join(listed.split())
        return f"{group}={choice} is unknown; the known ones are: {known}"
    missing = _MISSING.search(text)
    if missing:
        return f"{missing.group(1)}= is missing: python -m pyro_lrp.{name} needs it; see --help"
    no_node = _NO_NODE.search(text)
    if no_node:
        node, argument = no_node.groups()
        together = f"'{node}={{KEY: VALUE}}'"
        return f"{node} has keys of its own, such as {node}.{argument}=; all together in quotes: {together}"
    ambiguous = _AMBIGUOUS.search(text)
    if ambiguous:
        key, value = ambiguous.groups()
        return f"""{key}={value} is a list as {key}=[{value}], a text as '{key}="{value}"', a sweep with -m"""
    for pattern in _UNKNOWN_KEYS:
        unknown_key = pattern.search(text)
        if unknown_key:
            key = unknown_key.group(1)
            return f"unknown key {key}{_hint(key, name)}; see --help"
    if isinstance(error, OSError) and error.strerror:
        if error.filename is None:
            return f"{error.strerror}"
        return f"{error.strerror}: {error.filename}"
    text = " ".join(text.split())
    return _PLACE.sub(r"\2: \1", text)


def _unreadable(argument: str) -> str:
    """What to do about an argument that Hydra's grammar cannot read."""
    key, equals, value = argument.partition("=")
    if not equals or not re.fullmatch(r"[~+]*[\w.@/]+", key, flags=re.ASCII):
        return f"{argument} is not of the form key=value; see --help"
    quoted = f"""'{key}="TEXT"'"""
    return f"{argument} cannot be read; quote a text with special signs for the shell and within it: {quoted}"


def _message(error: BaseException) -> str:
    """The message of the error, or of the first of its causes that has one."""
    cause: BaseException | None = error
    while cause is not None:
        text = str(cause)
        if text:
            return text
        cause = cause.__cause__
    return type(error).__name__


def _arguments(group: str) -> set[str]:
    """The arguments in all files of a configuration group."""
    arguments: set[str] = set()
    for path in Path(conf_dir(), group).glob("*.yaml"):
        tree = OmegaConf.to_container(OmegaConf.load(path))
        assert isinstance(tree, dict), "a file of the library"
        arguments.update(map(str, tree.get(group, tree)))
    return arguments


def _hint(key: str, name: str) -> str:
    """A hint at the most similar key of a command, or at how to add an argument that its file leaves out."""
    node, dot, argument = key.partition(".")
    if dot and node in groups():
        arguments = _arguments(node)
        close = difflib.get_close_matches(argument, arguments, n=1, cutoff=_MISSPELT)
        if close and argument not in arguments:
            return f" (did you mean {node}.{close[0]}?)"
        return f" (+{key}=... would add it)"
    path = Path(conf_dir(), f"{name}.yaml")
    if not path.is_file():  # a command without a configuration
        return ""
    entries = OmegaConf.load(path)
    known = [*map(str, entries), *groups()]
    close = difflib.get_close_matches(key, known, n=1)
    if not close:
        return ""
    return f" (did you mean {close[0]}?)"
