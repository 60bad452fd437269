"""What a user types after a command, made ready for Hydra: order, flags, and quotes of its grammar."""

from __future__ import annotations

import argparse
import re
from collections.abc import Collection
from pathlib import Path
from typing import NoReturn

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from pyro_lrp.config.folders import conf_dir, groups, refuse_own_command
from pyro_lrp.core.arguments import LIST_KEYS, is_path_key, needs_quotes, quote
from pyro_lrp.core.errors import UserError

__all__ = ["Typed", "for_hydra", "refuse_no_choice"]

FLAGS_WITH_VALUES = (
    "--config-dir",
    "-cd",
    "--config-path",
    "-cp",
    "--config-name",
    "-cn",
    "--cfg",
    "-c",
    "--package",
    "-p",
    "--experimental-rerun",
)
OPEN_NODES = ("trainer.optimizers", "trainer.schedules", "data.epochs")
"""Nodes to which a user adds keys; elsewhere Hydra refuses an unknown key unless it is typed with a plus."""

_SWEEP = re.compile(r"(choice|glob|interval|range|shuffle|sort|tag)\(.*\)")
_BETWEEN = {"[": r"([\[\]{},])", "{": r"([\[\]{},:])"}  # what separates texts in a list, in a mapping
_NO_NAME = re.compile(r"|null|true|false|[+-]?\.?\d[\d.e+-]*|[\[{].*", flags=re.IGNORECASE)


class Typed:
    """The arguments of a command.

    Args:
        arguments: What the user typed.

    Attributes:
        arguments: What the user typed.
        keys: Arguments ``key=value``, quoted for Hydra, and ``~key``.
        flags: Flags with their values.
        own_folder: The folder of ``--config-dir``, or None.

    Raises:
        UserError: If a flag is unknown, a key is missing, or a group is set to nothing.
    """

    def __init__(self, arguments: list[str]) -> None:
        self.arguments = list(arguments)
        self.keys: list[str] = []
        self.flags: list[str] = []
        self._divide(arguments)
        self.sweep = bool({"-m", "--multirun"} & {*self.flags})
        self._refuse_unknown_flags()
        self.own_folder = self._own_folder()
        refuse_no_choice(self.keys, self.own_folder)
        self.keys = [for_hydra(argument, sweep=self.sweep) for argument in self.keys]

    @property
    def help(self) -> bool:
        """Whether only the help is asked for."""
        return bool({"-h", "--help"} & {*self.flags})

    @property
    def prints(self) -> bool:
        """Whether Hydra prints something, such as the configuration, instead of calling the command."""
        parsed = self.parsed()
        return bool(parsed.help or parsed.hydra_help or parsed.cfg or parsed.info or parsed.shell_completion)

    @property
    def plain(self) -> bool:
        """Whether the command is called once, for a configuration that is composed of the arguments."""
        return not self.sweep and not self.prints and self.parsed().experimental_rerun is None

    def parsed(self) -> argparse.Namespace:
        """What Hydra makes of all arguments."""
        return _parser().parse_args(self.for_hydra())

    def for_hydra(self) -> list[str]:
        """All arguments; argparse refuses keys on both sides of a flag that has a value.

        A folder of the user's own comes before the library's: Hydra would look there last, and so pass over a
        file that has a known name.
        """
        if self.own_folder is None:
            return [*self.keys, *self.flags]
        places = ["--config-path", self.own_folder, "--config-dir", conf_dir()]
        return [*self.keys, *self.flags, *places]

    def _divide(self, arguments: list[str]) -> None:
        previous = ""
        for argument in arguments:
            is_value = previous in FLAGS_WITH_VALUES
            if previous == "--info":  # its value may be left out
                is_value = "=" not in argument
            if argument.startswith("-") or is_value:
                self.flags.append(argument)
            else:
                self.keys.append(argument)
            previous = argument

    def _refuse_unknown_flags(self) -> None:
        known: set[str] = set()
        for action in _parser()._actions:
            known.update(action.option_strings)
        for argument in self.flags:
            flag = argument.partition("=")[0]
            if flag.startswith("-") and flag not in known:
                raise UserError(f"unknown flag {argument}; see --help")
        for argument in self.keys:
            if argument.startswith("="):
                raise UserError(f"{argument} has no key; see --help")

    def _own_folder(self) -> str | None:
        parsed = _parser().parse_args(self.flags)
        if parsed.config_dir is None or parsed.config_path is not None:
            return None
        own = Path(parsed.config_dir).expanduser().absolute()
        refuse_own_command(own)
        return str(own)


def refuse_no_choice(keys: list[str], own_folder: str | Path | None) -> None:
    """Refuse ``prior=null``, ``data=3`` and the like; Hydra's message names neither the group nor its choices.

    Args:
        keys: Arguments ``key=value``.
        own_folder: The user's folder of configuration files, if there is one.

    Raises:
        UserError: If a group is set to what is no name; ``experiment`` may be set to nothing, or to several.
    """
    choices = groups(own_folder)
    for argument in keys:
        group, equals, value = argument.partition("=")
        if not equals or group not in choices or not _NO_NAME.fullmatch(value):
            continue
        if group == "experiment" and _is_experiment(value, choices[group]):
            continue
        known = ", ".join(choices[group])
        raise UserError(f"{argument} names nothing; the known ones are: {known}")


def _is_experiment(value: str, known: Collection[str]) -> bool:
    """Whether a value that is not a name is nothing, or a list of names."""
    if value in ("", "null"):
        return True
    names = value.strip("[]").split(",")
    return all(name.strip() in known for name in names)


class _Parser(argparse.ArgumentParser):
    """Raises where argparse would print the usage and exit."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see --help")


def _parser() -> argparse.ArgumentParser:
    parser = get_args_parser()
    parser.__class__ = _Parser
    return parser


def for_hydra(argument: str, *, sweep: bool = False) -> str:
    """An argument ``key=value`` with the quotes that Hydra's grammar needs, and which users need not type.

    A path is taken as it stands. Other values are quoted only where Hydra could not read them, such as letters
    that are not ASCII, in a list or a mapping each text by itself.

    Args:
        argument: The argument.
        sweep: Whether a comma separates the members of a sweep.
    """
    key, equals, value = argument.partition("=")
    name = key.lstrip("+")
    if not equals or key.startswith("~"):
        return argument
    if key == name and _is_open(name):
        key = f"++{name}"
    if is_path_key(name):
        return f"{key}={_path(name, value, sweep=sweep)}"
    if _reads(f"{key}={value}"):
        return f"{key}={value}"
    mended = f"{key}={_mended(value, sweep=sweep)}"
    if _reads(mended):
        return mended
    return argument  # Hydra's error names it


def _is_open(key: str) -> bool:
    return any(key == node or key.startswith(f"{node}.") for node in OPEN_NODES)


def _path(key: str, value: str, *, sweep: bool) -> str:
    """The value of a path key."""
    if key in LIST_KEYS and value.startswith("[") and value.endswith("]"):
        inner = value[1:-1]
        if inner.startswith(("'", '"')) and _reads(f"{key}={value}"):
            return value
        items = [_path_element(item) for item in _split(inner, ",")]
        return f"[{','.join(items)}]"
    if not needs_quotes(key, value):
        return value
    if sweep and _SWEEP.fullmatch(value):
        return value
    if sweep:
        return ",".join(_path_element(item) for item in _split(value, ","))
    return quote(value)


def _mended(value: str, *, sweep: bool) -> str:
    between = _BETWEEN.get(value[:1])
    if between is not None:
        parts = re.split(between, value)
        parts[::2] = [_element(part) for part in parts[::2]]  # those between the separators
        return "".join(parts)
    if sweep:
        return ",".join(_element(part) for part in _split(value, ","))
    return _element(value)


def _element(text: str) -> str:
    """A text between separators, quoted if Hydra could not read it."""
    bare = text.strip()
    if not bare or bare[0] in "'\"" or _reads(f"key={bare}"):
        return text
    return quote(bare, interpolates=True)


def _path_element(text: str) -> str:
    """A path between separators, quoted."""
    bare = text.strip()
    if not bare or bare[0] in "'\"":
        return text
    return quote(bare)


def _split(text: str, separator: str) -> list[str]:
    """The parts of a text between separators that are not within quotes."""
    parts = [""]
    within = ""
    for letter in text:
        if letter == within:
            within = ""
        elif not within and letter in "'\"" and not parts[-1].strip():
            within = letter
        if letter == separator and not within:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def _reads(argument: str) -> bool:
    """Whether Hydra's grammar can read an argument."""
    try:
        OverridesParser.create().parse_override(argument)
    except HydraException:
        return False
    return True
