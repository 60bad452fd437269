"""The summary of a report: a row per group of runs that differ in their seed alone, mean ± sd over seeds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from pyro_lrp.core.errors import UserError
from pyro_lrp.metrics.meanings import better
from pyro_lrp.reports.collect import Collection, ReportedRun
from pyro_lrp.reports.differences import IMAGES, columns, grouped, labelled, letter, shown
from pyro_lrp.reports.scores import FINAL_TERMS, Score, number

__all__ = ["MOST_METRICS", "Cell", "Note", "Row", "Table", "summarize"]

MOST_METRICS = 12
"""Metrics in a table, unless they are chosen; the CSV file has all."""

_FIRST = ("fid*", "fd_*", "kid*", "kd_*", *FINAL_TERMS)  # the metrics that a table begins with
_DATA = {"data set": "data", "images of the data set": IMAGES}  # columns that say what was evaluated on
_LONGEST_TERM = 60  # letters of a protocol's entry in a note
_TERMS_QUOTED = 2  # entries that a note quotes; the others it names


@dataclass(frozen=True)
class Cell:
    """A metric of a group.

    Attributes:
        values: The values of the seeds that have the metric, in their order; None for one that is not finite.
        mean: Their mean; None if they were not computed under one protocol with one n, or one is not finite.
        deviation: Their sample standard deviation; None without a mean, or of fewer than two.
        mark: A letter where the column holds values that must not be compared: cells of one letter may be.
            Empty where all may be.
        best: Whether the mean is the best of its column. No cell is where values must not be compared, or
            where it is not known which values are better.
    """

    values: tuple[float | None, ...]
    mean: float | None
    deviation: float | None
    mark: str = ""
    best: bool = False


@dataclass(frozen=True)
class Row:
    """A group of runs that differ in their seed alone.

    Attributes:
        group: Its number, from 1.
        keys: The values of the table's columns; a key that the runs lack is left out.
        runs: All its runs, by seed.
        counted: The runs whose values are averaged: finished ones, one per seed.
        cells: A cell for each metric that one of the counted runs has.
    """

    group: int
    keys: Mapping[str, Any]
    runs: tuple[ReportedRun, ...]
    counted: tuple[ReportedRun, ...]
    cells: Mapping[str, Cell]

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds that are averaged."""
        return tuple(run.seed for run in self.counted)


@dataclass(frozen=True)
class Note:
    """What a reader has to know about the values of some metrics.

    Attributes:
        metrics: Their names.
        text: The note.
    """

    metrics: tuple[str, ...]
    text: str

    def about(self, metrics: Iterable[str]) -> str:
        """The note in one line, with the names of its metrics that are among some; empty if none is."""
        names = [name for name in metrics if name in self.metrics]
        if not names:
            return ""
        return f"{', '.join(names)}: {self.text}"


@dataclass(frozen=True)
class Table:
    """The summary of a collection.

    Attributes:
        columns: The keys that differ between runs.
        metrics: The metrics that are shown, in order.
        available: All metrics of the runs, in order.
        rows: A row for each group, in the order of the values in the columns.
        notes: What a reader has to know about the cells: which entries of their protocols differ, or their n.
        repeats: Runs that are not counted, since another has the same configuration and seed, by the name of
            that one.
    """

    columns: tuple[str, ...]
    metrics: tuple[str, ...]
    available: tuple[str, ...]
    rows: tuple[Row, ...]
    notes: tuple[Note, ...]
    repeats: Mapping[str, str]

    @property
    def further(self) -> tuple[str, ...]:
        """The metrics that only the CSV file shows."""
        return tuple(metric for metric in self.available if metric not in self.metrics)


def summarize(collection: Collection, metrics: Iterable[str] | None = None) -> Table:
    """The summary of a collection of runs.

    Args:
        collection: The runs.
        metrics: Names of metrics, or patterns such as ``fid*``; by default the first :data:`MOST_METRICS`,
            Fréchet distances and the terms of the ELBO before the others.

    Raises:
        UserError: If no run has a metric of some name.

    Example::

        table = reports.summarize(reports.collect(["runs/sweep"]), metrics=["fid"])
        for row in table.rows:
            print(row.keys, row.seeds, row.cells["fid"].mean)
    """
    keys = labelled(collection.runs)
    names = columns(keys)
    rows = []
    repeats: dict[str, str] = {}
    for group, indices in enumerate(grouped(keys, names), start=1):
        own = {name: keys[indices[0]].get(name) for name in names}
        runs = sorted((collection.runs[index] for index in indices), key=lambda run: (run.seed, run.name))
        counted, repeated = _counted(runs)
        repeats |= repeated
        rows.append(Row(group, own, tuple(runs), tuple(counted), {}))
    available = _ordered(collection.runs)
    chosen = _chosen(available, metrics)
    cells: list[dict[str, Cell]] = [{} for _ in rows]
    differing: dict[str, str] = {}
    for metric in available:
        column = _Column(metric, rows)
        differing[metric] = column.differing
        for own_cells, cell in zip(cells, column.cells(), strict=True):
            if cell is not None:
                own_cells[metric] = cell
    return Table(
        columns=tuple(names),
        metrics=tuple(chosen),
        available=tuple(available),
        rows=tuple(replace(row, cells=own_cells) for row, own_cells in zip(rows, cells, strict=True)),
        notes=tuple(_notes(chosen, rows, differing)),
        repeats=repeats,
    )


def _counted(runs: Sequence[ReportedRun]) -> tuple[list[ReportedRun], dict[str, str]]:
    """The finished runs of a group, one per seed, and the names of repeated ones with that of the first."""
    first: dict[int, ReportedRun] = {}
    repeats = {}
    for run in runs:
        if not run.finished:
            continue
        if run.seed in first:
            repeats[run.name] = first[run.seed].name
        else:
            first[run.seed] = run
    return list(first.values()), repeats


class _Column:
    """A metric in all groups, with the letters of values that must not be compared.

    Args:
        metric: Its name.
        rows: The groups.
    """

    def __init__(self, metric: str, rows: Sequence[Row]) -> None:
        self.metric = metric
        self.scores: list[list[Score]] = []
        self.marks: list[list[str]] = []
        self.variants: dict[str, dict[str, str]] = {}  # what a value depends on besides the model, by letter
        known: dict[Any, str] = {}
        for row in rows:
            scores = [run.scores[metric] for run in row.counted if metric in run.scores]
            marks = []
            for score in scores:
                terms = _terms(score, row.keys)
                mark = known.setdefault(tuple(terms.items()), letter(len(known)).lower())
                self.variants[mark] = terms
                marks.append(mark)
            self.scores.append(scores)
            self.marks.append(marks)

    @property
    def differing(self) -> str:
        """In what the protocols, n and data sets of the column differ; empty if they do not."""
        keys: dict[str, None] = {}
        for terms in self.variants.values():
            keys.update(dict.fromkeys(terms))
        differing = []
        for key in keys:
            values = {mark: terms.get(key, "none") for mark, terms in self.variants.items()}
            if len({*values.values()}) > 1:
                differing.append((key, values))
        quoted = []
        for key, values in differing[:_TERMS_QUOTED]:
            text = "; ".join(f"{mark}: {_cut(value)}" for mark, value in values.items())
            quoted.append(f"{key} ({text})")
        quoted += [key for key, _ in differing[_TERMS_QUOTED:]]
        return ", ".join(quoted)

    def cells(self) -> list[Cell | None]:
        """The cell of each group; None for one without the metric."""
        cells = [self._cell(*one) for one in zip(self.scores, self.marks, strict=True)]
        direction = better(self.metric)
        means = [cell.mean for cell in cells if cell is not None and cell.mean is not None]
        if direction is None or len(self.variants) > 1 or len(means) < 2:
            return cells
        best = max(means)
        if direction == "smaller":
            best = min(means)
        marked: list[Cell | None] = []
        for cell in cells:
            if cell is not None and cell.mean == best:
                cell = replace(cell, best=True)
            marked.append(cell)
        return marked

    def _cell(self, scores: Sequence[Score], marks: Sequence[str]) -> Cell | None:
        if not scores:
            return None
        values = tuple(score.value for score in scores)
        mark = ""
        if len(self.variants) > 1:
            mark = ",".join(dict.fromkeys(marks))
        if len({*marks}) > 1:
            return Cell(values, None, None, mark)
        return Cell(values, *_mean(values), mark)


def _mean(values: Sequence[float | None]) -> tuple[float | None, float | None]:
    """Mean and sample standard deviation; None where they are not finite, or of too few values."""
    finite = [value for value in values if value is not None]
    if len(finite) < len(values):
        return None, None
    with np.errstate(all="ignore"):
        mean = float(np.mean(finite))
        deviation = float(np.std(finite, ddof=1)) if len(finite) > 1 else math.nan
    return number(mean), number(deviation)


def _terms(score: Score, keys: Mapping[str, Any]) -> dict[str, str]:
    """What a value depends on besides the model: data set, protocol and n."""
    terms = {}
    for name, key in _DATA.items():
        if key in keys:
            terms[name] = shown(keys[key])
    terms |= score.terms
    if score.n is not None:
        terms["n"] = str(score.n)
    return terms


def _ordered(runs: Iterable[ReportedRun]) -> list[str]:
    """The metrics of all runs: :data:`_FIRST`, then those of which it is known which values are better."""
    names = {name for run in runs for name in run.scores}

    def place(name: str) -> tuple[int, str]:
        fitting = [index for index, pattern in enumerate(_FIRST) if fnmatchcase(name, pattern)]
        if fitting:
            return fitting[0], name
        return len(_FIRST) + (better(name) is None), name

    return sorted(names, key=place)


def _chosen(available: Sequence[str], metrics: Iterable[str] | None) -> list[str]:
    """The metrics of a table: those that are named, or the first of those that there are."""
    if metrics is None:
        return list(available[:MOST_METRICS])
    chosen: dict[str, None] = {}
    for name in metrics:
        fitting = [metric for metric in available if fnmatchcase(metric, name)]
        if not fitting:
            known = ", ".join(available) or "none: evaluate the runs first"
            raise UserError(f"metrics: no run has {name}; there are: {known}")
        chosen.update(dict.fromkeys(fitting))
    return list(chosen)


def _notes(metrics: Sequence[str], rows: Sequence[Row], differing: Mapping[str, str]) -> list[Note]:
    """In what the values of metrics differ besides their models, and the number of images of the others."""
    about: dict[str, list[str]] = {}
    for metric in metrics:
        if differing[metric]:
            text = f"values with different letters must not be compared; they differ in {differing[metric]}"
            about.setdefault(text, []).append(metric)
    for metric in metrics:
        counts = {run.scores[metric].n for row in rows for run in row.counted if metric in run.scores}
        if not differing[metric] and len(counts) == 1 and None not in counts:
            about.setdefault(f"n = {counts.pop():,}", []).append(metric)
    return [Note(tuple(names), text) for text, names in about.items()]


def _cut(text: str) -> str:
    text = " ".join(text.split())
    if len(text) > _LONGEST_TERM:
        return f"{text[: _LONGEST_TERM - 1]}…"
    return text
