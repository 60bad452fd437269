"""The results of an experiment: its figure or table from the runs that are there, and its verdicts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

from pyro_lrp.metrics.meanings import title
from pyro_lrp.reports.claims import Observation, Verdict
from pyro_lrp.reports.collect import ReportedRun
from pyro_lrp.reports.experiments import Experiment

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["chosen", "lines", "markdown", "observations", "table", "verdicts"]


def observations(runs: Sequence[ReportedRun]) -> list[Observation]:
    """Runs as claims see them; one that is not finished is no evidence."""
    found = []
    for run in runs:
        if not run.finished:
            continue
        metrics = {name: score.value for name, score in run.scores.items() if score.value is not None}
        protocols = {name: score.protocol_id for name, score in run.scores.items()}
        found.append(Observation(run.keys, run.seed, metrics, protocols))
    return found


def verdicts(experiment: Experiment, runs: Sequence[ReportedRun]) -> list[Verdict]:
    """What came out of the claims of an experiment."""
    seen = observations(runs)
    return [claim.judge(seen) for claim in experiment.claims]


def chosen(runs: Sequence[ReportedRun], settings: Mapping[str, Any]) -> list[ReportedRun]:
    """The runs with some settings, ``seed`` among them, in the order of their seeds."""
    found = []
    for run in runs:
        keys = {**run.keys, "seed": run.seed}
        if all(keys.get(key) == value for key, value in settings.items()):
            found.append(run)
    return sorted(found, key=lambda run: run.seed)


def lines(experiment: Experiment, runs: Sequence[ReportedRun]) -> Figure:
    """The figure of a result against a setting: a panel and a line for the values of two others."""
    from pyro_lrp.figures.lines import lines_against
    from pyro_lrp.figures.words import preset

    show = experiment.show["lines"]
    panels: dict[str, dict[str, dict[Any, list[float]]]] = {}
    for run in observations(runs):
        value = run.metrics.get(show["result"])
        if value is None:
            continue
        panel = panels.setdefault(_named(run, show["panel"]), {})
        line = panel.setdefault(_named(run, show["line"]), {})
        line.setdefault(run.settings.get(show["along"], 0), []).append(value)
    return lines_against(panels, preset(show["along"]), title(show["result"]), log=show.get("log", True))


def table(experiment: Experiment, runs: Sequence[ReportedRun]) -> tuple[list[str], list[list[str]]]:
    """The names of the columns, and the rows: ours (mean ± sd over seeds), each beside the paper's value."""
    show = experiment.show["table"]
    columns = show["columns"]
    header = [""]
    for column in columns:
        header += [column, "paper"]
    rows = []
    for row in show["rows"]:
        own = observations(chosen(runs, row["of"]))
        cells = [row["name"]]
        for column, published in zip(columns, row["paper"], strict=True):
            cells += [_cell(own, column, row.get("space")), f"{published:g}"]
        rows.append([*cells, str(len(own))])
    return [*header, "seeds"], rows


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table as Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(runs: Sequence[Observation], column: str, space: str | None) -> str:
    """The results of a column, in a space if they depend on one; those of different protocols have no mean."""
    in_space = f"{column}_{space}"
    if any(in_space in run.metrics for run in runs):
        column = in_space
    having = [run for run in runs if column in run.metrics]
    if len({run.protocols.get(column) for run in having}) > 1:
        return "different protocols"
    return _spread([run.metrics[column] for run in having])


def _named(run: Observation, key: str) -> str:
    """The value of a key, with the key where the value alone says little."""
    from pyro_lrp.figures.words import preset

    value = run.settings.get(key)
    if value is None or isinstance(value, str):
        return preset(value)
    return f"{preset(key)} = {value:g}"


def _spread(values: Sequence[float]) -> str:
    """Mean ± standard deviation."""
    if not values:
        return "–"
    if len(values) == 1:
        return f"{values[0]:.4g}"
    deviation = stdev(values)
    digits = 2
    if deviation > 0:
        digits = max(0, 1 - math.floor(math.log10(deviation)))
    return f"{mean(values):.{digits}f} ± {deviation:.{digits}f}"
