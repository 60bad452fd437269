"""The command line: Hydra behind it, one plain line and exit code 1 for a user's mistake."""

from __future__ import annotations

import difflib
import io
import os
import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from pathlib import Path

import hydra
from hydra._internal.utils import get_args_parser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pyro_lrp.core.errors import UserError, printable

__all__ = ["command", "conf_dir"]

FLAGS_WITH_VALUES = ("--config-dir", "-cd", "--config-path", "-cp", "--config-name", "-cn", "--cfg", "-c")
PATH_KEYS = (
    "run", "runs", "out", "images", "data.root", "data.path", "data.images", "data.attributes", "data.index",
)  # fmt: skip


def conf_dir() -> str:
    """The configuration directory: inside an installed wheel, else beside the package in a checkout."""
    package = Path(__file__).resolve().parents[1]
    installed, checkout = package / "conf", package.parent / "conf"
    return str(installed if installed.is_dir() else checkout)


def command(name: str) -> Callable[[Callable[[DictConfig], None]], Callable[[], None]]:
    """Make a command of a function of a composed configuration: mistakes become one line and exit code 1."""

    def decorate(function: Callable[[DictConfig], None]) -> Callable[[], None]:
        def job(cfg: DictConfig) -> None:
            with _one_line_errors(name):  # before Hydra sees them: it would add lines of its own
                function(cfg)

        run = hydra.main(version_base="1.3", config_path=conf_dir(), config_name=name)(job)

        def main() -> None:
            sys.argv[1:] = _ordered([_quoted(argument) for argument in sys.argv[1:]])
            with _one_line_errors(name):
                _refuse_unknown_flags(sys.argv[1:])
                _refuse_no_choice(sys.argv[1:])
                os.environ["HYDRA_FULL_ERROR"] = "1"  # so that Hydra raises, and we say it in one line
                with _folded() if {"--help", "-h"} & set(sys.argv[1:]) else nullcontext():
                    run()

        return main

    return decorate


@contextmanager
def _folded(width: int = 108) -> Iterator[None]:
    """Fold long lines of what is printed: Hydra lists all choices of a group in one."""
    text = io.StringIO()
    try:
        with redirect_stdout(text):
            yield
    finally:
        for line in text.getvalue().splitlines():
            print(line if len(line) <= width else textwrap.fill(line, width, subsequent_indent="  "))


@contextmanager
def _one_line_errors(name: str) -> Iterator[None]:
    try:
        yield
    except (UserError, HydraException, OmegaConfBaseException, OSError) as error:
        if os.environ.get("PYRO_LRP_TRACEBACK"):
            raise
        sys.exit(printable(f"error: {_one_line(error, name)}"))
    except KeyboardInterrupt:
        sys.exit("interrupted: the same command goes on from the last checkpoint")
    except Exception as error:  # a bug, or a mistake that nobody foresaw
        if os.environ.get("PYRO_LRP_TRACEBACK"):
            raise
        text = " ".join(str(error).split())[:300]
        sys.exit(printable(f"error: {type(error).__name__}: {text} (PYRO_LRP_TRACEBACK=1 shows where)"))


def _refuse_unknown_flags(arguments: list[str]) -> None:
    known = {flag for action in get_args_parser()._actions for flag in action.option_strings}
    for argument in arguments:
        if argument.startswith("="):
            raise UserError(f"{argument} has no key; see --help")
        if argument.startswith("-") and argument.partition("=")[0] not in known:
            raise UserError(f"unknown flag {argument}; see --help")


def _refuse_no_choice(arguments: list[str]) -> None:
    """Hydra's own message for ``prior=null`` names neither the group nor what it may be."""
    for folder in sorted(Path(conf_dir()).iterdir()):
        none = {f"{folder.name}=null", f"{folder.name}="} & set(arguments)
        if none and folder.is_dir() and folder.name != "experiment":
            known = ", ".join(sorted(file.stem for file in folder.iterdir()))
            raise UserError(f"{none.pop()} names nothing; the known ones are: {known}")


def _ordered(arguments: list[str]) -> list[str]:
    """``key=value`` first, flags after them: argparse refuses keys on both sides of a flag with a value."""
    keys: list[str] = []
    flags: list[str] = []
    for previous, argument in zip(["", *arguments], arguments, strict=False):
        is_key = "=" in argument and not argument.startswith("-") and previous not in FLAGS_WITH_VALUES
        (keys if is_key else flags).append(argument)
    return keys + flags


def _quoted(argument: str) -> str:
    """Quote the value of a path key for Hydra's grammar, so that any path can be typed as it is."""
    key, equals, value = argument.partition("=")
    plain = key.lstrip("+")
    is_path = plain in PATH_KEYS or plain.startswith("weights.")
    listed = plain in ("images", "runs") and value[:1] == "[" and value[-1:] == "]"
    if not equals or not is_path or not value or value[0] in "'\"" or value == "null" or listed:
        return argument
    # within quotes Hydra reads only \' and a run of \ before the closing quote; ${ would interpolate
    escaped = re.sub(r"(\\*)'", r"\1\1\'", value)
    escaped = re.sub(r"(\\+)$", r"\1\1", escaped).replace("${", "\\${")
    return f"{key}='{escaped}'"


def _one_line(error: BaseException, name: str) -> str:
    cause: BaseException | None = error
    while cause is not None and not str(cause):
        cause = cause.__cause__
    text = str(cause or type(error).__name__)
    unknown_group = re.search(
        r"Could not find '([^']+)/([^'/]+)'\s+Available options in '[^']+':([\w\s]+?)(?:Config|$)", text
    )
    if unknown_group:
        group, choice, known = unknown_group.groups()
        return f"{group}={choice} is unknown; the known ones are: {', '.join(known.split())}"
    unknown_key = re.search(r"Could not override '([^']+)'", text) or re.search(
        r"Key '([^']+)' is not in struct", text
    )
    if unknown_key:
        return f"unknown key {unknown_key.group(1)}{_similar(unknown_key.group(1), name)}; see --help"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}"
    return " ".join(text.split())


def _similar(key: str, name: str) -> str:
    keys = [str(k) for k in OmegaConf.load(Path(conf_dir()) / f"{name}.yaml")]
    groups = [folder.name for folder in Path(conf_dir()).iterdir() if folder.is_dir()]
    close = difflib.get_close_matches(key, keys + groups, n=1)
    return f" (did you mean {close[0]}?)" if close else ""
