"""The command line, based on Hydra: a user's mistake is reported in one line with exit code 1."""

from __future__ import annotations

import io
import os
import shlex
import signal
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from pyro_lrp.config.arguments import Typed
from pyro_lrp.config.engine import VERSION, engine
from pyro_lrp.config.folders import EXPERIMENTS, conf_dir, note_replaced
from pyro_lrp.config.messages import described, uncomposed
from pyro_lrp.core.allocator import keep_freed_memory
from pyro_lrp.core.errors import MISTAKES, TRACEBACK, UserError, printable
from pyro_lrp.core.terminal import tolerate_any_encoding

__all__ = ["WIDTH", "Command", "command", "conf_dir", "one_line_errors", "run_plain"]

WIDTH = 108  # of the lines of --help
_RESUMED = ("train", "evaluate")  # commands that keep what is done

Job = Callable[[DictConfig], None]


class Command:
    """A command: what is typed is composed to a configuration, of which the command is a function.

    Errors that a user can cause are printed in one line, with exit code 1. With ``--multirun`` the function is
    called for each member of a sweep.

    A module of a command has it as ``main``, and imports at its top nothing that needs torch: ``--help`` must
    not wait for it.

    Args:
        name: The name of the command, of its module and of its configuration file.
        function: The function.
    """

    def __init__(self, name: str, function: Job) -> None:
        self.name = name
        self.function = function
        self.__doc__ = function.__doc__

    def __call__(self) -> None:
        """Run the command for the arguments in ``sys.argv``."""
        tolerate_any_encoding()
        keep_freed_memory()
        arguments = sys.argv[1:]
        with one_line_errors(self.name, arguments):
            typed = Typed(arguments)
            sys.argv[1:] = typed.for_hydra()
            os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises instead of printing the error
            if typed.sweep and not typed.prints:
                self._sweep(typed)
                return
            with _folded_help(shown=typed.help):
                self._compose(typed)

    def _sweep(self, typed: Typed) -> None:
        from pyro_lrp.config.sweeps import sweep  # which few commands need

        sweep(self, typed)

    def _compose(self, typed: Typed) -> None:
        """Compose the configuration, and call the function or print what is asked for."""

        def job(cfg: DictConfig) -> None:
            note_replaced(typed.own_folder, HydraConfig.get().runtime.choices)
            with one_line_errors(self.name, typed.arguments):  # inside Hydra, which would print further lines
                self.function(cfg)

        if typed.plain:
            with engine(self.name, typed) as composer, _composing():
                composer.run(job)
            return
        decorate = hydra.main(version_base=VERSION, config_path=conf_dir(), config_name=self.name)
        decorate(job)()

    # ----------------------------------------------------------------- sweeps

    def member(self, cfg: DictConfig, *, parallel: bool) -> str:
        """Run a member of a sweep.

        Args:
            cfg: Its configuration.
            parallel: Whether others run meanwhile: little is printed then.

        Returns:
            How it went, in a few words, unless the command printed that.
        """
        self.function(cfg)
        return ""

    def joint_plan(self, cfg: DictConfig) -> Any:
        """The plan of a member that may be computed as one with others; None if it may not."""
        return None

    def together(self, plans: Mapping[str, Any]) -> Iterator[tuple[str, Exception | None]]:
        """Compute members as one where that is possible; yields each of them with what went wrong.

        Args:
            plans: What :meth:`joint_plan` returned, by the label of the member.
        """
        yield from ()

    def directory(self, cfg: DictConfig) -> Path | None:
        """The directory of a member, which no other member may have; None if members write no directories."""
        return None

    def seems_complete(self, cfg: DictConfig) -> bool:
        """Whether a look at the files of a member finds nothing left to do: it needs no launcher then."""
        return False

    def finish(self, directories: list[Path]) -> None:
        """Say what came out of a sweep.

        Args:
            directories: The directories of its members that are complete.
        """


def command(name: str) -> Callable[[Job], Command]:
    """Turn a function of a composed configuration into a :class:`Command`.

    Args:
        name: The name of the command.
    """

    def decorate(function: Job) -> Command:
        return Command(name, function)

    return decorate


@contextmanager
def _composing() -> Iterator[None]:
    """Errors within the block come from arguments, of which Hydra can make no configuration."""
    try:
        yield
    except (UserError, HydraException, OmegaConfBaseException):
        raise
    except MISTAKES as error:
        raise uncomposed(error) from error


@contextmanager
def _folded_help(*, shown: bool) -> Iterator[None]:
    """Fold long lines of ``--help``: Hydra prints a group in one line. A folder that is none is left out."""
    if not shown:
        yield
        return
    text = io.StringIO()
    try:
        with redirect_stdout(text):
            yield
    finally:
        for line in text.getvalue().splitlines():
            if line.startswith(f"{EXPERIMENTS}: "):
                continue
            if len(line) > WIDTH:
                line = textwrap.fill(line, WIDTH, subsequent_indent="  ")
            print(line)


def run_plain(name: str, text: str, run: Callable[[list[str]], None]) -> None:
    """Run a command without a configuration: it prints its help, or is a function of what was typed.

    Args:
        name: The name of the command.
        text: Its help.
        run: Receives the arguments; errors that a user can cause are printed in one line.
    """
    tolerate_any_encoding()
    keep_freed_memory()
    arguments = sys.argv[1:]
    if {"--help", "-h"} & set(arguments):
        print(text, end="")
        return
    with one_line_errors(name):
        run(arguments)


@contextmanager
def one_line_errors(name: str, arguments: Sequence[str] = ()) -> Iterator[None]:
    """Within the block, an error that a user can cause ends the process with one line and exit code 1.

    Args:
        name: The name of the command.
        arguments: What was typed after it, of a command that keeps what is done when it is interrupted.
    """
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", "Image size .* exceeds limit"
            )  # Pillow's; such images are refused
            yield
    except KeyboardInterrupt as stop:
        number = getattr(stop, "signal", signal.SIGINT)
        print(printable(_interrupted(stop, name, arguments)), file=sys.stderr)
        sys.exit(128 + number)
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        if os.environ.get(TRACEBACK):
            raise
        text = described(error, name)
        sys.exit(printable(f"error: {' '.join(text.splitlines())}"))  # what was typed may have several


def _interrupted(stop: KeyboardInterrupt, name: str, arguments: Sequence[str]) -> str:
    """What a signal left, and how to go on."""
    what = str(stop) or "interrupted"
    if name not in _RESUMED:
        return what
    same = shlex.join(["python", "-m", f"pyro_lrp.{name}", *arguments])
    return f"{what}; the same command goes on:\n  {same}"
