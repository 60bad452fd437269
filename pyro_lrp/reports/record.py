"""``report.csv`` and ``report.json``: what a report is drawn from, written, and read to draw it again."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pyro_lrp.core.errors import UserError
from pyro_lrp.core.files import read_json
from pyro_lrp.reports.collect import Collection, ReportedRun
from pyro_lrp.reports.scores import Score, number, whole
from pyro_lrp.reports.table import Table

__all__ = ["csv_text", "read", "rest"]

_FIXED = ("group", "run", "seed", "state", "step", "evaluated")
_PARTS = ("n", "seed", "protocol")  # columns beside that of a metric: NAME:n, NAME:seed, NAME:protocol
_FORMULA = tuple("=+-@\t\r")  # a text that begins so is a formula to spreadsheets
_NOT_FINITE = "not finite"


def csv_text(table: Table) -> str:
    """The content of ``report.csv``: a row per run, with the keys that differ and every metric.

    The columns are group, run, seed, state, step and evaluated; the keys; and for each metric its value and, as
    ``NAME:n``, ``NAME:seed`` and ``NAME:protocol``, its number of images, the seed of the evaluation and the id
    of its protocol. Values are JSON; texts stand without quotes where they can be mistaken for nothing else.
    """
    header = [*_FIXED, *table.columns]
    for metric in table.available:
        header += [metric, *(f"{metric}:{part}" for part in _PARTS)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    for row in table.rows:
        keys = [_cell(row.keys[name]) for name in table.columns]
        for run in row.runs:
            state = "finished" if run.finished else "unfinished"
            fixed = [row.group, _cell(run.name), run.seed, state, run.step, _cell(run.evaluated)]
            parts = [part for metric in table.available for part in _parts(run.scores.get(metric))]
            writer.writerow([*fixed, *keys, *parts])
    return text.getvalue()


def _parts(score: Score | None) -> list[str]:
    """The cells of a metric: value, n, seed, protocol."""
    if score is None:
        return [""] * (1 + len(_PARTS))
    value = _NOT_FINITE
    if score.value is not None:
        value = repr(score.value)
    return [value, _cell(score.n), _cell(score.seed), score.protocol_id]


def _cell(value: Any) -> str:
    """A value as a cell; nothing for None.

    >>> _cell(0.1), _cell("flow"), _cell("0.1"), _cell("=1+1"), _cell(None)
    ('0.1', 'flow', '"0.1"', '"=1+1"', '')
    """
    if value is None:
        return ""
    if isinstance(value, str) and value and not value.startswith(_FORMULA) and _value(value) == value:
        return value
    return json.dumps(value, ensure_ascii=False)


def _value(cell: str) -> Any:
    """The value of a cell."""
    if not cell:
        return None
    try:
        return json.loads(cell)
    except ValueError:
        return cell


def rest(collection: Collection) -> dict[str, Any]:
    """The content of ``report.json``: protocols by id, curves by run, and what was left out."""
    protocols: dict[str, dict[str, str]] = {}
    for run in collection.runs:
        for score in run.scores.values():
            protocols[score.protocol_id] = score.terms
    curves = {}
    for run in sorted(collection.runs, key=lambda run: run.name):
        curves[run.name] = {term: [list(point) for point in curve] for term, curve in run.curves.items()}
    return {
        "common": _common(collection.runs),
        "protocols": dict(sorted(protocols.items())),
        "curves": curves,
        "left_out": list(collection.broken),
    }


def _common(runs: Sequence[ReportedRun]) -> dict[str, Any]:
    """The keys that all runs have with one value, which are no columns."""
    first, *others = runs
    common = dict(first.keys)
    for run in others:
        common = {key: value for key, value in common.items() if run.keys.get(key) == value}
    return common


def read(folder: str | Path) -> Collection:
    """The runs of a report, from its ``report.csv`` and ``report.json``, to draw the report again.

    The tables and curves are those of the original; sample pictures are not among what is read. Of a run's
    identity only the columns and the keys that all runs share are known.

    Raises:
        UserError: If a file is missing or is not that of a report.

    Example::

        runs = reports.read("runs/recorded/priors")
        reports.write(runs, "again")    # report.csv and report.md with the same bytes
    """
    path = Path(folder) / "report.csv"
    try:
        text = path.read_text(encoding="utf-8")
        more = read_json(path.with_suffix(".json"))
        rows = list(csv.DictReader(io.StringIO(text)))
        runs = sorted((_run(row, more) for row in rows), key=lambda run: run.name)
        return Collection(tuple(runs), tuple(more["left_out"]))
    except FileNotFoundError as error:
        raise UserError(
            f"{error.filename} is missing: a report is read from report.csv and report.json"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError, csv.Error) as error:
        raise UserError(f"{path} and report.json beside it are not those of one report ({error})") from error


def _run(row: Mapping[str, str], more: Mapping[str, Any]) -> ReportedRun:
    """The run of a row."""
    metrics = [name.removesuffix(":protocol") for name in row if name.endswith(":protocol")]
    of_metrics = {f"{metric}:{part}" for metric in metrics for part in _PARTS}
    keys = dict(more.get("common", {}))
    for name, cell in row.items():
        if name not in _FIXED and name not in of_metrics and name not in metrics and cell:
            keys[name] = _value(cell)
    scores = {}
    for metric in metrics:
        if row[metric]:
            scores[metric] = _score(metric, row, more["protocols"])
    name = str(_value(row["run"]))
    curves = {}
    for term, points in more["curves"][name].items():
        curves[term] = tuple((int(step), float(value)) for step, value in points)
    return ReportedRun(
        name=name,
        seed=int(row["seed"]),
        keys=keys,
        scores=scores,
        step=int(row["step"]),
        finished=row["state"] == "finished",
        evaluated=row["evaluated"] == "true",
        curves=curves,
    )


def _score(metric: str, row: Mapping[str, str], protocols: Mapping[str, Any]) -> Score:
    return Score(
        value=number(_value(row[metric])),
        n=whole(_value(row[f"{metric}:n"])),
        seed=whole(_value(row[f"{metric}:seed"])),
        protocol=protocols[row[f"{metric}:protocol"]],
    )
