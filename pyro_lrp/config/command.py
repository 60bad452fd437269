"""The command line, based on Hydra: a user's mistake is reported in one line with exit code 1."""

from __future__ import annotations

import io
import os
import shlex
import signal
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from pyro_lrp.config.arguments import Typed
from pyro_lrp.config.folders import conf_dir, note_replaced
from pyro_lrp.config.messages import one_line
from pyro_lrp.core.errors import UserError, printable
from pyro_lrp.core.terminal import tolerate_any_encoding

__all__ = ["TRACEBACK", "WIDTH", "command", "conf_dir", "one_line_errors"]

TRACEBACK = "PYRO_LRP_TRACEBACK"  # environment variable that shows tracebacks
WIDTH = 108  # of the lines of --help

Job = Callable[[DictConfig], None]
_typed: list[str] = []  # the arguments of the command, as they were typed


def command(name: str) -> Callable[[Job], Callable[[], None]]:
    """Turn a function of a composed configuration into a command.

    Errors that a user can cause are printed in one line, with exit code 1. A sweep (``--multirun``) goes on
    past a member that fails, and names it at the end.

    A module of a command imports at its top nothing that needs torch: ``--help`` must not wait for it.

    Args:
        name: The name of the command and of its configuration file.
    """

    def decorate(function: Job) -> Callable[[], None]:
        def main() -> None:
            tolerate_any_encoding()
            _typed[:] = sys.argv[1:]
            with one_line_errors(name):
                typed = Typed(sys.argv[1:])
                sys.argv[1:] = typed.for_hydra()
                os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises instead of printing the error
                with _folded_help(shown=typed.help):
                    _run(name, function, typed)

        return main

    return decorate


def _run(name: str, function: Job, typed: Typed) -> None:
    """Compose the configuration and call the function, or do so for each member of a sweep."""
    members = _Members(name)

    def job(cfg: DictConfig) -> None:
        note_replaced(typed.own_folder, HydraConfig.get().runtime.choices)
        if typed.sweep:
            members.call(function, cfg)
        else:
            with one_line_errors(name):  # inside Hydra, which would print further lines
                function(cfg)

    decorate = hydra.main(version_base="1.3", config_path=conf_dir(), config_name=name)
    run = decorate(job)
    run()
    members.report()


class _Members:
    """The members of a sweep: each is called, whether or not those before it failed.

    Args:
        name: The name of the command.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.process = os.getpid()
        self.count = 0
        self.failed: list[str] = []

    def call(self, function: Job, cfg: DictConfig) -> None:
        """Call the function for one member; its error is printed and noted."""
        self.count += 1
        overrides = HydraConfig.get().overrides.task
        member = " ".join(overrides)
        try:
            function(cfg)
        except Exception as error:
            if os.environ.get(TRACEBACK):
                sys.excepthook(type(error), error, error.__traceback__)
            message = printable(f"{member}: {_described(error, self.name)}")
            self.failed.append(message)
            print(f"error: {message}", file=sys.stderr)
            if os.getpid() != self.process:  # of a parallel launcher: there Hydra carries the error back
                raise

    def report(self) -> None:
        """Exit with code 1 and the members that failed, if there are any."""
        if not self.failed:
            return
        names = "\n".join(f"  {message}" for message in self.failed)
        sys.exit(f"error: {len(self.failed)} of {self.count} members of the sweep failed:\n{names}")


@contextmanager
def _folded_help(*, shown: bool) -> Iterator[None]:
    """Fold long lines of ``--help``: Hydra prints all choices of a group in one line."""
    if not shown:
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
def one_line_errors(name: str) -> Iterator[None]:
    """Within the block, an error that a user can cause ends the process with one line and exit code 1.

    Args:
        name: The name of the command.
    """
    try:
        yield
    except KeyboardInterrupt as stop:
        number = getattr(stop, "signal", signal.SIGINT)
        print(printable(_interrupted(stop, name)), file=sys.stderr)
        sys.exit(128 + number)
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        if os.environ.get(TRACEBACK):
            raise
        sys.exit(printable(f"error: {_described(error, name)}"))


def _interrupted(stop: KeyboardInterrupt, name: str) -> str:
    """What a signal left, and how to go on."""
    if not str(stop):
        return "interrupted"
    same = shlex.join(["python", "-m", f"pyro_lrp.{name}", *_typed])
    return f"{stop}; the same command goes on:\n  {same}"


def _described(error: Exception, name: str) -> str:
    """An error in one line; one that is a bug, or a mistake that is not anticipated, with its kind."""
    if isinstance(error, (UserError, HydraException, OmegaConfBaseException, OSError, RecursionError)):
        return one_line(error, name)
    kind = type(error).__name__
    text = " ".join(str(error).split())[:300]
    return f"{kind}: {text} ({TRACEBACK}=1 shows where)"
