"""Sweeps (``--multirun``): every member is planned before one runs, then a launcher of Hydra runs them.

A member is what its plain command would be, in the same directory. Hydra's own sweeper only expands the lists:
it would plan nothing, launch what is complete, and write a file to the current folder.
"""

from __future__ import annotations

import copy
import os
import shlex
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hydra._internal.callbacks import Callbacks
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, open_dict

from pyro_lrp.config.arguments import Typed
from pyro_lrp.config.engine import Engine, engine
from pyro_lrp.config.folders import groups, note_replaced
from pyro_lrp.config.members import Job, Outcome, attempt, concluded
from pyro_lrp.core.arguments import quote
from pyro_lrp.core.errors import UserError, printable
from pyro_lrp.core.stopping import Stop, Stopped

if TYPE_CHECKING:
    from pyro_lrp.config.command import Command

__all__ = ["sweep"]

SWEEPS = Path("runs", ".sweeps")  # what launchers leave
_HERE = "basic"  # the launcher that runs members one after another in this process
_ON_THIS_MACHINE = ("joblib", "submitit_local")  # launchers of processes that share its cores
_DIRECT = "joblib"  # whose processes are children of this one; where one is killed, it ends the others


@dataclass(frozen=True)
class _Member:
    """A member of a sweep.

    Attributes:
        overrides: What its plain command would have typed.
        label: The overrides that tell it from the others.
        title: The line that announces it.
        cfg: Its configuration.
        hydra: The configuration of Hydra for it.
        directory: Where it writes; None if it has no directory.
    """

    overrides: list[str]
    label: str
    title: str
    cfg: DictConfig
    hydra: DictConfig
    directory: Path | None


def sweep(command: Command, typed: Typed) -> None:
    """Run all members of a sweep, and say at the end which failed.

    Args:
        command: The command.
        typed: Its arguments.

    Raises:
        UserError: Before the first member runs, if one is impossible, or two would share a directory.
        Stopped: After Ctrl-C or SIGTERM; what ran is saved.
        SystemExit: With code 1, if a member failed.
    """
    try:
        with engine(command.name, typed) as hydra:
            _Sweep(command, typed, hydra).run()
    except Stopped:
        raise
    except KeyboardInterrupt as stop:
        raise Stopped(str(stop) or "interrupted", signal.SIGINT) from stop


class _Sweep:
    """A sweep whose members are planned.

    Args:
        command: The command.
        typed: Its arguments.
        engine: Hydra.
    """

    def __init__(self, command: Command, typed: Typed, engine: Engine) -> None:
        self.command = command
        self.engine = engine
        self.cfg = engine.compose()
        self.launcher = str(self.cfg.hydra.runtime.choices["hydra/launcher"])
        self.folder: Path | None = None
        if self.launcher != _HERE:
            self._use_folder()
        self.context = HydraContext(engine.loader, Callbacks(self.cfg))
        self.members = self._planned()
        self._note_replaced(typed.own_folder)
        self._refuse_shared_directories()

    def _use_folder(self) -> None:
        """Name a folder for this sweep alone, which the launcher uses too unless another one was typed."""
        stamp = time.strftime("%Y-%m-%d_%H-%M-%S")
        self.folder = (SWEEPS / f"{stamp}_{os.getpid()}").absolute()
        typed = [override.partition("=")[0].lstrip("+") for override in self.engine.overrides]
        if "hydra.sweep.dir" not in typed:
            self.cfg = self.engine.compose(f"hydra.sweep.dir={quote(str(self.folder))}")

    # ----------------------------------------------------------------- planning

    def _planned(self) -> list[_Member]:
        expanded = self._expanded()
        columns = list(zip(*expanded, strict=True))
        varied = [place for place, column in enumerate(columns) if len(set(column)) > 1]
        members = []
        for number, overrides in enumerate(expanded, start=1):
            label = " ".join(overrides[place] for place in varied or range(len(overrides)))
            title = f"[{number}/{len(expanded)}] {label}"
            members.append(self._plan(overrides, label, title))
        return members

    def _expanded(self) -> list[list[str]]:
        """The overrides of each member."""
        sweeper = self.cfg.hydra.sweeper
        if not str(sweeper.get("_target_")).endswith(f".{BasicSweeper.__name__}"):
            name = self.cfg.hydra.runtime.choices["hydra/sweeper"]
            raise UserError(f"hydra/sweeper={name} is not supported: type lists of values, such as beta=0,1")
        params = [f"{key}={value}" for key, value in (sweeper.params or {}).items()]
        typed = OmegaConf.to_container(self.cfg.hydra.overrides.task, resolve=False)
        assert isinstance(typed, list), "a list of texts"
        parser = OverridesParser.create(config_loader=self.engine.loader)
        overrides = parser.parse_overrides([*params, *map(str, typed)])
        (expanded,) = BasicSweeper.split_arguments(overrides, None)
        return expanded

    def _plan(self, overrides: list[str], label: str, title: str) -> _Member:
        hydra = self.engine.loader.load_sweep_config(self.cfg, list(overrides))
        cfg = copy.deepcopy(hydra)
        with open_dict(cfg):
            del cfg["hydra"]
        with _chosen(hydra):
            try:
                directory = self.command.directory(cfg)
            except UserError as error:
                raise UserError(f"{label}: {error}") from error
        return _Member(overrides, label, title, cfg, hydra, directory)

    def _note_replaced(self, own_folder: str | None) -> None:
        """Say once which of the library's files are replaced by the user's."""
        said: set[tuple[str, str]] = set()
        for member in self.members:
            new = dict(set(member.hydra.hydra.runtime.choices.items()) - said)
            note_replaced(own_folder, new)
            said |= set(new.items())

    def _refuse_shared_directories(self) -> None:
        first: dict[Path, _Member] = {}
        for member in self.members:
            if member.directory is None:
                continue
            other = first.setdefault(member.directory, member)
            if other is member:
                continue
            if other.overrides == member.overrides:
                raise UserError(f"{member.label} stands twice in the sweep")
            raise UserError(
                f"{other.label} and {member.label} would share the run directory {member.directory}: put what "
                f"differs into its name, such as {shlex.quote(self._telling_name())}"
            )

    def _telling_name(self) -> str:
        """An argument ``name=...`` that tells all members from each other."""
        name = "sweep"
        varied = []
        for column in zip(*(member.overrides for member in self.members), strict=True):
            key, _, value = column[0].partition("=")
            key = key.lstrip("+")
            if len(set(column)) == 1 and key == "name":
                name = value.strip("'\"")
            elif len(set(column)) > 1 and key not in ("seed", "name"):
                varied.append(key)
        choices = groups()
        for key in varied:
            variable = f"hydra:runtime.choices.{key}" if key in choices else key
            name += f"-{key}_${{{variable}}}"
        return f"name={name}"

    # ----------------------------------------------------------------- running

    def run(self) -> None:
        """Run the members that are not complete, and say how all ended."""
        self.context.callbacks.on_multirun_start(config=self.cfg, config_name=self.engine.config_name)
        outcomes = {}
        rest = []
        for member in self.members:
            with _chosen(member.hydra):
                if not self.command.seems_complete(member.cfg):
                    rest.append(member)
                    continue
                print(printable(member.title), end=": ", flush=True)
                outcomes[member.label] = attempt(self.command.name, member.cfg, member.label, parallel=True)
        outcomes |= self._at_once(rest)
        rest = [member for member in rest if member.label not in outcomes]
        if rest:
            outcomes |= self._launched(rest)
        self.context.callbacks.on_multirun_end(config=self.cfg, config_name=self.engine.config_name)
        self._report([outcomes[member.label] for member in self.members])

    def _at_once(self, members: list[_Member]) -> dict[str, Outcome]:
        """The outcomes of members that are computed as one in this process, by label."""
        plans = {}
        for member in members:
            with _chosen(member.hydra):
                plan = self.command.joint_plan(member.cfg)
            if plan is not None:
                plans[member.label] = plan
        outcomes = {}
        for label, error in self.command.together(plans):
            outcomes[label] = concluded(self.command.name, label, error)
        return outcomes

    def _launched(self, members: list[_Member]) -> dict[str, Outcome]:
        """The outcomes of members that a launcher runs, by label."""
        job = Job(
            self.command.name,
            tuple(member.label for member in members),
            tuple(member.title for member in members),
            self.folder,
            Path.cwd(),
            one_thread=self.launcher in _ON_THIS_MACHINE,
            parent=os.getpid() if self.launcher == _DIRECT else None,
        )
        if self.folder is None:
            outcomes = self._in_batches(job, members)
            return {outcome.label: outcome for outcome in outcomes}
        self.folder.mkdir(parents=True)
        print(f"{len(members)} members by {self.launcher}; what it leaves: {self.folder}", flush=True)

        def ask(line: str) -> None:
            job.ask_to_stop()
            print(line, file=sys.stderr, flush=True)

        stop = Stop(ask, "members that run are saved, no other begins")
        try:
            with stop.listening():
                outcomes = self._in_batches(job, members)
        except KeyboardInterrupt:
            if self.launcher == _DIRECT:
                job.clean()  # its processes are gone; others are still to find that they must stop
            raise
        job.clean()
        if stop.signal is not None:
            complete = len([outcome for outcome in outcomes if outcome.error is None])
            words = f"stopped: {complete} of these {len(members)} members are complete, the others are saved"
            raise Stopped(words, stop.signal)
        return {outcome.label: outcome for outcome in outcomes}

    def _in_batches(self, job: Job, members: Sequence[_Member]) -> list[Outcome]:
        """Launch as many members at once as Hydra's sweeper would: all, unless it has another limit."""
        size = self.cfg.hydra.sweeper.max_batch_size or len(members)
        outcomes = []
        for first in range(0, len(members), size):
            outcomes += self._launch(job, members[first : first + size], first)
        return outcomes

    def _launch(self, job: Job, members: Sequence[_Member], first: int = 0) -> list[Outcome]:
        """Have the launcher run members; where it gives up, because a process was killed, say which it lost."""
        launcher = Plugins.instance().instantiate_launcher(self.context, job, self.cfg)
        overrides = [member.overrides for member in members]
        try:
            returns = launcher.launch(overrides, initial_job_idx=first)
            return [result.return_value for result in returns]
        except Exception as error:
            if len(members) > 1 and self.launcher == _DIRECT and not job.should_stop:
                return self._one_by_one(job, members, first)
            return [self._without_result(member, error) for member in members]

    def _one_by_one(self, job: Job, members: Sequence[_Member], first: int) -> list[Outcome]:
        """Launch each member alone, so that one whose process is killed ends no other."""
        outcomes = []
        for number, member in enumerate(members, start=first):
            outcomes += self._launch(job, [member], number)
        return outcomes

    def _without_result(self, member: _Member, error: Exception) -> Outcome:
        """The outcome of a member whose process told none."""
        with _chosen(member.hydra):
            if self.command.seems_complete(member.cfg):
                return Outcome(member.label)
        kind = type(error).__name__
        text, *_ = " ".join(str(error).split()).split(". ")
        message = f"{member.label}: its process ended without a result ({kind}: {text[:300]})"
        return Outcome(member.label, printable(message))

    def _report(self, outcomes: list[Outcome]) -> None:
        """Say what came out, and exit with code 1 if a member failed."""
        complete = []
        for member, outcome in zip(self.members, outcomes, strict=True):
            if outcome.error is None and member.directory is not None:
                complete.append(member.directory)
        self.command.finish(complete)
        failed = [outcome.error for outcome in outcomes if outcome.error is not None]
        if not failed:
            return
        names = "\n".join(f"  {error}" for error in failed)
        sys.exit(f"error: {len(failed)} of {len(outcomes)} members of the sweep failed:\n{names}")


@contextmanager
def _chosen(hydra: DictConfig) -> Iterator[None]:
    """Within the block Hydra's own configuration is that of a member."""
    before = HydraConfig.instance().cfg
    HydraConfig.instance().set_config(hydra)
    try:
        yield
    finally:
        HydraConfig.instance().cfg = before
