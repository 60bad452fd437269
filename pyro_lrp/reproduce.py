"""``python -m pyro_lrp.reproduce``: an experiment of the paper, from its runs to its figure and its verdicts.

It is ``train -m``, ``figure`` and ``report`` one after another, each as it could be typed.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pyro_lrp.config.command import run_plain
from pyro_lrp.core.errors import UserError, printable
from pyro_lrp.report import report

if TYPE_CHECKING:  # torch is imported when an experiment begins: --help does not wait for it
    from pyro_lrp.reports import Lead, ReportedRun
    from pyro_lrp.reports.experiments import Experiment

HELP = """\
Run an experiment of the paper: train its models, evaluate them, draw its figure or table, judge its claims.

  python -m pyro_lrp.reproduce figure=1|2|3|4|5|6|7|8|9 [scale=small] [key=value ...]
  python -m pyro_lrp.reproduce table=1|2 [scale=small] [key=value ...]
  python -m pyro_lrp.reproduce controls [scale=small] [key=value ...]

  figure=3          the distance of samples against beta, in three models: the main experiment
  table=1           separability, path lengths and distances of five models of faces
  controls          what the paper does not compare: N(0, I) at beta = 0, the order of training, kinds of prior,
                    over-fitting over beta, latent size

  scale=paper       the paper's networks, data sets, epochs and five seeds: days on a GPU
  scale=small       (default) real images with small networks, on a core: minutes for a run
  scale=smoke       seconds; the results mean nothing
  --dry-run         print the command of every member, and an estimate of the time, and do nothing
  from=FOLDER       train nothing: figure, table and verdicts of a report that was recorded there

  Any other key=value goes to each training: data.root=DIR device=cuda hydra/launcher=joblib

The same command goes on after an interruption, and trains nothing twice. Runs lie where their own commands
put them; the figure or table, the verdicts and a report are written to runs/reproduce/NAME_SCALE.
"""

_TO_FIGURE = (
    "data.",
    "weights.",
    "device",
    "threads",
    "allow_targets",
)  # keys that the command figure knows too


class Typed(NamedTuple):
    """The arguments of the command.

    Attributes:
        names: Of the experiments.
        scale: Their scale.
        dry_run: Whether to print commands alone.
        recorded: The folder of a report whose runs are taken; None to train them.
        further: Arguments of each training.
    """

    names: list[str]
    scale: str
    dry_run: bool
    recorded: str | None
    further: list[str]


def main() -> None:
    """The command."""
    run_plain("reproduce", HELP, _reproduce)


def _reproduce(arguments: list[str]) -> None:
    """Run the experiments that were typed, print their commands, or draw them again."""
    from pyro_lrp.reports import experiments

    typed = parse(arguments)
    wanted = [experiments.load(name, typed.scale) for name in typed.names]
    if typed.dry_run:
        for experiment in wanted:
            print(printable(plan_of(experiment, typed.further)))
        return
    if typed.recorded is not None:
        for experiment in wanted:
            _redraw(experiment, typed.recorded)
        return
    failed = [experiment.name for experiment in wanted if not reproduce(experiment, typed.further)]
    if failed:
        raise UserError(
            f"{', '.join(failed)}: a training, a figure or the report failed; the lines above say why"
        )


def parse(arguments: Sequence[str]) -> Typed:
    """The arguments of the command, sorted.

    Raises:
        UserError: If no experiment is named, or one that there is not.
    """
    from pyro_lrp.reports import experiments

    names = []
    scale = "small"
    recorded = None
    further = []
    for argument in arguments:
        key, _, value = argument.partition("=")
        if key in ("figure", "table"):
            names.append(f"{key}_{value}")
        elif argument == "controls":
            names += [name for name in experiments.names() if name.startswith("control_")]
        elif key == "scale":
            scale = value
        elif key == "from":
            recorded = value
        elif argument != "--dry-run":
            further.append(argument)
    if not names:
        raise UserError("say which experiment: figure=1 to figure=9, table=1, table=2 or controls; see --help")
    bad = [argument for argument in further if argument.startswith("-") or "=" not in argument]
    if bad:
        raise UserError(f"{bad[0]} is no argument: expected key=value; see --help")
    return Typed(names, scale, "--dry-run" in arguments, recorded, further)


def plan_of(experiment: Experiment, further: Sequence[str]) -> str:
    """The command of every member, and what they take together."""
    members = experiment.members
    command = ["python", "-m", "pyro_lrp.train"]
    text = [shlex.join([*command, *member, *_evaluated(experiment), *further]) for member in members]
    if experiment.minutes is None:
        estimate = "nobody has measured how long one takes"
    else:
        hours = len(members) * experiment.minutes / 60
        estimate = f"about {hours:.1f} hours of a core, {experiment.minutes:g} minutes each"
    text.append(f"# {experiment.name}, scale={experiment.scale}: {len(members)} members; {estimate}")
    return "\n".join(text)


def _evaluated(experiment: Experiment) -> list[str]:
    if not experiment.metrics:
        return []
    return [f"evaluate_with=[{','.join(experiment.metrics)}]"]


def reproduce(experiment: Experiment, further: Sequence[str]) -> bool:
    """Train, evaluate, draw and judge; returns whether all members succeeded.

    Raises:
        SystemExit: If a training was interrupted; the code is its own.
    """
    from pyro_lrp.config import compose_train

    complete = True
    for sweep in experiment.sweeps:
        code = _run("train", "-m", *sweep, *_evaluated(experiment), *further)
        if code > 128 or code < 0:
            sys.exit(code)
        complete = complete and code == 0
    directories = [compose_train(*member, *further).directory for member in experiment.members]
    trained = list(dict.fromkeys(directory for directory in directories if directory.exists()))
    if not trained:
        return False
    return _conclude(experiment, trained, further) and complete


def _run(command: str, *arguments: str) -> int:
    """Run a command of this library as it would be typed; returns its exit code."""
    print(printable("> " + shlex.join(["python", "-m", f"pyro_lrp.{command}", *arguments])), flush=True)
    return subprocess.call([sys.executable, "-m", f"pyro_lrp.{command}", *arguments])


def _conclude(experiment: Experiment, directories: Sequence[Path], further: Sequence[str]) -> bool:
    """Write the figure or table, the verdicts and the report; returns whether all succeeded."""
    from pyro_lrp.reports import collect

    runs = collect(directories).runs
    lead = _write(experiment, runs)
    drawn = "figure" not in experiment.show or _draw(experiment, runs, further)
    if not drawn:
        lead = lead._replace(picture=None)  # one that lies there is of other runs
    print(printable(f"> {shlex.join(['python', '-m', 'pyro_lrp.report', *map(str, directories)])}"), flush=True)
    report([*map(str, directories)], str(experiment.directory), lead=lead)
    return drawn


def _redraw(experiment: Experiment, folder: str) -> None:
    """Write what can be drawn again from a recorded report."""
    from pyro_lrp.reports import read

    _write(experiment, read(folder).runs)


def _write(experiment: Experiment, runs: Sequence[ReportedRun]) -> Lead:
    """Write and print the verdicts, with the table or beside the lines; returns what a page begins with."""
    from pyro_lrp.figures import save_figure
    from pyro_lrp.reports import Lead, results

    out = experiment.directory
    out.mkdir(parents=True, exist_ok=True)
    lead = Lead(
        experiment.title,
        f"scale={experiment.scale}, {len(runs)} runs",
        [str(verdict) for verdict in results.verdicts(experiment, runs)],
        picture=out / f"{experiment.name}.png",
    )
    text = [f"# {lead.title}", lead.remarks]
    if "lines" in experiment.show:
        save_figure(results.lines(experiment, runs), out / f"{experiment.name}.png")
    if "table" in experiment.show:
        header, rows = results.table(experiment, runs)
        text.append(results.markdown(header, rows))
        lead = lead._replace(header=header, rows=rows)
    text += [f"- {verdict}" for verdict in lead.verdicts]
    (out / f"{experiment.name}.md").write_text("\n\n".join(text) + "\n", encoding="utf-8")
    print(printable("\n\n".join(text)))
    return lead


def _draw(experiment: Experiment, runs: Sequence[ReportedRun], further: Sequence[str]) -> bool:
    """The figure that the command of that name draws of some of the runs; returns whether it was drawn."""
    from pyro_lrp.reports import results

    show = experiment.show["figure"]
    directories = []
    for settings in show["runs"]:
        found = results.chosen(runs, settings)
        if not found:
            print(printable(f"no figure: there is no run with {settings}"))
            return False
        directories.append(str(found[0].directory))
    known = [argument for argument in further if argument.startswith(_TO_FIGURE)]
    out = experiment.directory / f"{experiment.name}.png"
    runs_of = f"runs=[{','.join(directories)}]"
    code = _run("figure", f"number={show['number']}", runs_of, *show.get("options", []), f"out={out}", *known)
    return code == 0


if __name__ == "__main__":
    main()
