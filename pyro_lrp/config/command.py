"""The command line, based on Hydra: a user's mistake is reported in one line with exit code 1."""

from __future__ import annotations

import difflib
import io
import os
import re
import shlex
import signal
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import hydra
from hydra._internal.utils import get_args_parser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pyro_lrp.core.errors import UserError, printable

__all__ = ["command", "conf_dir"]

FLAGS_WITH_VALUES = (
    "--config-dir",
    "-cd",
    "--config-path",
    "-cp",
    "--config-name",
    "-cn",
    "--cfg",
    "-c",
)
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
)
LIST_KEYS = ("images", "runs")  # path keys that also take a list
UNKNOWN_CHOICE = re.compile(
    r"Could not find '([^']+)/([^'/]+)'\s+"
    r"Available options in '[^']+':([\w\s]+?)(?:Config|$)"
)
UNKNOWN_KEYS = (
    re.compile(r"Could not override '([^']+)'"),
    re.compile(r"Key '([^']+)' is not in struct"),
)
TRACEBACK = "PYRO_LRP_TRACEBACK"  # environment variable that shows tracebacks
WIDTH = 108  # of the lines of --help

Job = Callable[[DictConfig], None]
_typed: list[str] = []  # the arguments of the command, as they were typed


def conf_dir() -> str:
    """The configuration directory: inside an installed wheel, or beside the package in a checkout."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "conf"
    if installed.is_dir():
        return str(installed)
    return str(package.parent / "conf")


def command(name: str) -> Callable[[Job], Callable[[], None]]:
    """Turn a function of a composed configuration into a command.

    Errors that a user can cause are printed in one line, with exit code 1.

    Args:
        name: The name of the command and of its configuration file.
    """

    def decorate(function: Job) -> Callable[[], None]:
        def job(cfg: DictConfig) -> None:
            with _one_line_errors(name):  # inside Hydra, which would print further lines
                function(cfg)

        compose = hydra.main(version_base="1.3", config_path=conf_dir(), config_name=name)
        run = compose(job)

        def main() -> None:
            _typed[:] = sys.argv[1:]
            quoted = [_quoted(argument) for argument in sys.argv[1:]]
            sys.argv[1:] = _ordered(quoted)
            with _one_line_errors(name):
                _refuse_unknown_flags(sys.argv[1:])
                _refuse_no_choice(sys.argv[1:])
                os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises instead of printing the error
                with _folded_help(sys.argv[1:]):
                    run()

        return main

    return decorate


@contextmanager
def _folded_help(arguments: list[str]) -> Iterator[None]:
    """Fold long lines of ``--help``: Hydra prints all choices of a group in one line."""
    if not {"--help", "-h"} & set(arguments):
        yield
        return
    text = io.StringIO()
    try:
        with redirect_stdout(text):
            yield
    finally:
        for line in text.getvalue().splitlines():
            if len(line) > WIDTH:
                line = textwrap.fill(line, WIDTH, subsequent_indent="  ")
            print(line)


@contextmanager
def _one_line_errors(name: str) -> Iterator[None]:
    try:
        yield
    except (UserError, HydraException, OmegaConfBaseException, OSError) as error:
        if os.environ.get(TRACEBACK):
            raise
        message = _one_line(error, name)
        sys.exit(printable(f"error: {message}"))
    except KeyboardInterrupt as stop:
        number = getattr(stop, "signal", signal.SIGINT)
        print(printable(_interrupted(stop, name)), file=sys.stderr)
        sys.exit(128 + number)
    except Exception as error:  # a bug, or a mistake that is not anticipated
        if os.environ.get(TRACEBACK):
            raise
        kind = type(error).__name__
        text = " ".join(str(error).split())[:300]
        sys.exit(printable(f"error: {kind}: {text} ({TRACEBACK}=1 shows where)"))


def _interrupted(stop: KeyboardInterrupt, name: str) -> str:
    """What a signal left, and how to go on."""
    if not str(stop):
        return "interrupted"
    same = shlex.join(["python", "-m", f"pyro_lrp.{name}", *_typed])
    return f"{stop}; the same command goes on:\n  {same}"


def _refuse_unknown_flags(arguments: list[str]) -> None:
    known: set[str] = set()
    for action in get_args_parser()._actions:
        known.update(action.option_strings)
    for argument in arguments:
        if argument.startswith("="):
            raise UserError(f"{argument} has no key; see --help")
        flag = argument.partition("=")[0]
        if flag.startswith("-") and flag not in known:
            raise UserError(f"unknown flag {argument}; see --help")


def _refuse_no_choice(arguments: list[str]) -> None:
    """Refuse ``prior=null`` and the like; Hydra's message names neither the group nor its choices."""
    for folder in sorted(Path(conf_dir()).iterdir()):
        if not folder.is_dir() or folder.name == "experiment":
            continue
        for empty in (f"{folder.name}=null", f"{folder.name}="):
            if empty in arguments:
                known = ", ".join(sorted(file.stem for file in folder.iterdir()))
                raise UserError(f"{empty} names nothing; the known ones are: {known}")


def _ordered(arguments: list[str]) -> list[str]:
    """Move ``key=value`` before flags: argparse refuses keys on both sides of a flag with a value."""
    keys: list[str] = []
    rest: list[str] = []
    previous = ""
    for argument in arguments:
        is_value = previous in FLAGS_WITH_VALUES
        is_flag = argument.startswith("-")
        if "=" in argument and not is_flag and not is_value:
            keys.append(argument)
        else:
            rest.append(argument)
        previous = argument
    return keys + rest


def _quoted(argument: str) -> str:
    """Quote the value of a path key for Hydra's grammar, so that any path can be typed without quotes."""
    key, _, value = argument.partition("=")
    if not _needs_quotes(key.lstrip("+"), value):
        return argument
    # within quotes, Hydra unescapes only \' and backslashes before the closing quote; ${ would interpolate
    escaped = re.sub(r"(\\*)'", r"\1\1\'", value)
    escaped = re.sub(r"(\\+)$", r"\1\1", escaped)
    escaped = escaped.replace("${", "\\${")
    return f"{key}='{escaped}'"


def _needs_quotes(key: str, value: str) -> bool:
    if key not in PATH_KEYS and not key.startswith("weights."):
        return False
    if not value or value == "null":
        return False
    is_quoted = value[0] in ("'", '"')
    is_list = key in LIST_KEYS and value.startswith("[") and value.endswith("]")
    return not is_quoted and not is_list


def _one_line(error: BaseException, name: str) -> str:
    """The message of an error in one line, with Hydra's messages rephrased."""
    text = _message(error)
    unknown_choice = UNKNOWN_CHOICE.search(text)
    if unknown_choice:
        group, choice, listed = unknown_choice.groups()
        known = ", ".join(listed.split())
        return f"{group}={choice} is unknown; the known ones are: {known}"
    for pattern in UNKNOWN_KEYS:
        unknown_key = pattern.search(text)
        if unknown_key:
            key = unknown_key.group(1)
            return f"unknown key {key}{_similar(key, name)}; see --help"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}"
    return " ".join(text.split())


def _message(error: BaseException) -> str:
    """The message of the error, or of the first of its causes that has one."""
    cause: BaseException | None = error
    while cause is not None:
        text = str(cause)
        if text:
            return text
        cause = cause.__cause__
    return type(error).__name__


def _similar(key: str, name: str) -> str:
    """A hint at the most similar key of a command, if there is one."""
    folder = Path(conf_dir())
    known = [str(key) for key in OmegaConf.load(folder / f"{name}.yaml")]
    for path in folder.iterdir():
        if path.is_dir():
            known.append(path.name)
    close = difflib.get_close_matches(key, known, n=1)
    if not close:
        return ""
    return f" (did you mean {close[0]}?)"
