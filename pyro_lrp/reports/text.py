"""The tables of a report as text: cells, the terminal's table, Markdown."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from pyro_lrp.core.errors import printable
from pyro_lrp.reports.collect import Collection, ReportedRun
from pyro_lrp.reports.differences import shown
from pyro_lrp.reports.table import Cell, Row, Table

__all__ = [
    "Sheet", "closing", "counted", "cut", "legend", "markdown", "runs_sheet", "summary_sheet", "terminal"
]  # fmt: skip

_LONGEST_VALUE = 24  # letters of a key's value on the terminal
_LONGEST_IN_PAGE = 80  # and in Markdown and on the page
_GAP = "  "
_MOST_DECIMALS = 8
_LARGEST_FIXED = 1e7
_SHARE_OF_METRICS = 0.4  # of a line that keys leave to metrics


@dataclass(frozen=True)
class Sheet:
    """A table of text.

    Attributes:
        header: The names of its columns.
        rows: The text of each cell.
        keys: Number of columns before those of metrics.
        best: The cells, as row and column, that hold the best mean of their column.
        groups: The number of the group of each row.
    """

    header: list[str]
    rows: list[list[str]]
    keys: int
    best: set[tuple[int, int]]
    groups: list[int]


def summary_sheet(table: Table) -> Sheet:
    """The summary: a row per group, its keys, seeds and metrics."""
    header = ["group", *table.columns, "seeds", *table.metrics]
    keys = len(table.columns) + 2
    rows: list[list[str]] = []
    best: set[tuple[int, int]] = set()
    for row in table.rows:
        values = [shown(row.keys[name]) for name in table.columns]
        cells = [row.cells.get(metric) for metric in table.metrics]
        texts = [_cell(cell, len(row.counted)) for cell in cells]
        best |= {(len(rows), keys + place) for place, cell in enumerate(cells) if cell and cell.best}
        rows.append([str(row.group), *values, _seeds(row), *texts])
    return Sheet(header, rows, keys, best, [row.group for row in table.rows])


def runs_sheet(table: Table) -> Sheet:
    """A row per run: its group, name, seed, state and metrics."""
    header = ["group", "run", "seed", "state", *table.metrics]
    rows = []
    groups = []
    for row in table.rows:
        for run in row.runs:
            state = "finished" if run.finished else f"unfinished, step {run.step}"
            if run.name in table.repeats:
                state = f"repeats {table.repeats[run.name]}"
            texts = [_score(run, metric) for metric in table.metrics]
            rows.append([str(row.group), run.name, str(run.seed), state, *texts])
            groups.append(row.group)
    return Sheet(header, rows, 4, set(), groups)


def _seeds(row: Row) -> str:
    """The number of seeds that are averaged, and of runs that are not finished."""
    unfinished = sum(not run.finished for run in row.runs)
    text = str(len(row.counted))
    if unfinished:
        text += f" (+{unfinished} unfinished)"
    return text


def _score(run: ReportedRun, metric: str) -> str:
    score = run.scores.get(metric)
    if score is None:
        return ""
    if score.value is None:
        return "not finite"
    return number(score.value)


def _cell(cell: Cell | None, seeds: int) -> str:
    """Mean ± sd, the number of seeds if it is not that of the row, and the letter of the protocol."""
    if cell is None:
        return ""
    text = "several protocols"
    if cell.mean is not None:
        text = spread(cell.mean, cell.deviation)
    elif "," not in cell.mark:
        text = "not finite"
    if len(cell.values) != seeds:
        text += f" (of {len(cell.values)})"
    if cell.mark:
        text += f" [{cell.mark}]"
    return text


def number(value: float) -> str:
    """A number of four significant digits.

    >>> number(739.2167), number(0.012345), number(1e9), number(0)
    ('739.2', '0.01235', '1.000e+09', '0')
    """
    if value == 0:
        return "0"
    magnitude = math.floor(math.log10(abs(value)))
    decimals = max(0, 3 - magnitude)
    if decimals > _MOST_DECIMALS or abs(value) >= _LARGEST_FIXED:
        return f"{value:.3e}"
    return f"{value:.{decimals}f}"


def spread(mean: float, deviation: float | None) -> str:
    """Mean ± standard deviation, which has two significant digits.

    >>> spread(11.42, 0.2512), spread(1052.3, 12.7), spread(3.0, None), spread(2.5, 0.0), spread(0.0068, 5.2e-5)
    ('11.42 ± 0.25', '1052 ± 13', '3.000', '2.500 ± 0', '0.006800 ± 0.000052')
    """
    if deviation is None:
        return number(mean)
    if deviation == 0:
        return f"{number(mean)} ± 0"
    decimals = max(0, 1 - math.floor(math.log10(deviation)))
    if decimals > _MOST_DECIMALS or max(abs(mean), deviation) >= _LARGEST_FIXED:
        return f"{number(mean)} ± {deviation:.1e}"
    return f"{mean:.{decimals}f} ± {deviation:.{decimals}f}"


def terminal(table: Table, width: int) -> str:
    """The summary in lines of at most some letters, with as many metrics as fit.

    Args:
        table: The summary.
        width: Letters of a line.
    """
    sheet = summary_sheet(table)
    shown_columns = _fitting(sheet, width)
    lines = _lines(sheet, shown_columns, width)
    if any(column in shown_columns for _, column in sheet.best):
        lines.append("*: the best mean of its column")
    keys = sum(column < sheet.keys for column in shown_columns)
    hidden_keys = sheet.keys - 1 - keys
    hidden = len(table.available) - (len(shown_columns) - keys)
    if hidden_keys:
        text = f"{counted(hidden_keys, 'column')} more in report.csv, for which this terminal is too narrow"
        lines += _folded(text, width)
    if hidden:
        text = f"{counted(hidden, 'metric')} more in report.csv; metrics=[NAME,...] chooses"
        lines += _folded(text, width)
    metrics = [sheet.header[column] for column in shown_columns if column >= sheet.keys]
    for note in table.notes:
        lines += _folded(note.about(metrics), width)
    return printable("\n".join(lines))


def _fitting(sheet: Sheet, width: int) -> list[int]:
    """The columns that fit: keys, as long as metrics find room, then metrics from the first on.

    The number of the group, by which a page connects its parts, is left out.
    """
    widths = [_width(sheet, column) for column in range(len(sheet.header))]
    keys = [*range(1, sheet.keys)]
    metrics = [*range(sheet.keys, len(sheet.header))]
    one = _total(widths, metrics[:1])
    several = max(one, min(_total(widths, metrics), int(width * _SHARE_OF_METRICS)))
    while _total(widths, keys) + len(_GAP) + several > width:
        spare = _spare(sheet, keys[:-1])
        if spare is None:
            break
        keys.remove(spare)
    while len(keys) > 2 and _total(widths, keys) + len(_GAP) + one > width:
        keys.pop(-2)  # the last one before the seeds
    chosen = keys
    for column in metrics:
        more = [*chosen, column]
        if _total(widths, more) > width and column != metrics[0]:
            break
        chosen = more
    return chosen


def _spare(sheet: Sheet, columns: Sequence[int]) -> int | None:
    """The last column without which the rows can be told apart as well as before, or None."""

    def kinds(chosen: Sequence[int]) -> int:
        return len({tuple(row[column] for column in chosen) for row in sheet.rows})

    for column in reversed(columns):
        if kinds([other for other in columns if other != column]) == kinds(columns):
            return column
    return None


def _total(widths: Sequence[int], chosen: Sequence[int]) -> int:
    return sum(widths[column] for column in chosen) + len(_GAP) * max(0, len(chosen) - 1)


def _width(sheet: Sheet, column: int) -> int:
    texts = [_on_terminal(sheet, row, column) for row in range(len(sheet.rows))]
    return max(map(len, [cut(sheet.header[column], _LONGEST_VALUE), *texts]))


def _on_terminal(sheet: Sheet, row: int, column: int) -> str:
    text = sheet.rows[row][column]
    if column < sheet.keys:
        return cut(text, _LONGEST_VALUE)
    if (row, column) in sheet.best:
        return f"{text}*"
    return text


def _lines(sheet: Sheet, chosen: Sequence[int], width: int) -> list[str]:
    widths = {column: _width(sheet, column) for column in chosen}
    header = [cut(sheet.header[column], _LONGEST_VALUE).ljust(widths[column]) for column in chosen]
    lines = [_GAP.join(header), _GAP.join("-" * widths[column] for column in chosen)]
    for row in range(len(sheet.rows)):
        cells = [_on_terminal(sheet, row, column).ljust(widths[column]) for column in chosen]
        lines.append(_GAP.join(cells))
    return [line.rstrip()[:width] for line in lines]


def _folded(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, max(width, 20), subsequent_indent="  ")


def cut(text: str, longest: int) -> str:
    """Text in one line, of at most some letters."""
    text = " ".join(text.split())
    if len(text) > longest:
        return f"{text[: longest - 1]}…"
    return text


def counted(n: int, noun: str) -> str:
    """A number of things in words."""
    if n == 1:
        return f"1 {noun}"
    return f"{n} {noun}s"


def closing(collection: Collection, table: Table, most: int | None = None) -> list[str]:
    """What is missing or broken, a line each.

    Args:
        collection: The runs.
        table: Their summary.
        most: How many runs a line names; all by default.
    """
    lines = []
    unfinished = [f"{run.name} (step {run.step})" for run in collection.runs if not run.finished]
    if unfinished:
        lines.append(f"unfinished, not averaged: {_names(unfinished, most)}")
    repeated = [f"{name} (of {first})" for name, first in table.repeats.items()]
    if repeated:
        lines.append(f"repeats of a configuration and seed, not averaged: {_names(repeated, most)}")
    without = [run.name for run in collection.runs if not run.evaluated]
    if without and len(without) == len(collection.runs):
        lines.append("no run is evaluated: python -m pyro_lrp.evaluate run=DIR")
    elif without:
        lines.append(f"not evaluated: {_names(without, most)}")
    lines += [f"left out: {' '.join(reason.split())}" for reason in collection.broken]
    return lines


def _names(names: Sequence[str], most: int | None) -> str:
    if most is None or len(names) <= most:
        return ", ".join(names)
    return f"{', '.join(names[:most])} and {len(names) - most} more"


def markdown(collection: Collection, table: Table) -> str:
    """The report as Markdown: the summary, its notes, a row per run, what is missing."""
    parts = [f"# Report of {counted(len(collection.runs), 'run')}"]
    parts.append(_markdown_table(summary_sheet(table)))
    notes = [*legend(table), *(note.about(table.metrics) for note in table.notes)]
    parts.append("\n".join(f"- {_escaped(note)}" for note in notes))
    parts.append("## Runs")
    parts.append(_markdown_table(runs_sheet(table)))
    missing = closing(collection, table)
    if missing:
        parts.append("## Missing")
        parts.append("\n".join(f"- {_escaped(line)}" for line in missing))
    return printable("\n\n".join(part for part in parts if part) + "\n")


def legend(table: Table) -> list[str]:
    """How to read the summary."""
    lines = ["a row is a group of runs that differ in their seed alone: mean ± standard deviation over seeds"]
    if any(cell.best for row in table.rows for cell in row.cells.values()):
        lines.append("bold: the best mean of its column")
    if table.further:
        lines.append(f"{counted(len(table.further), 'further metric')} in report.csv")
    return lines


def _markdown_table(sheet: Sheet) -> str:
    rows = []
    for index, row in enumerate(sheet.rows):
        cells = []
        for column, text in enumerate(row):
            cell = _escaped(cut(text, _LONGEST_IN_PAGE))
            if (index, column) in sheet.best:
                cell = f"**{cell}**"
            cells.append(cell)
        rows.append(cells)
    header = [_escaped(name) for name in sheet.header]
    rule = ["---"] * len(header)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [header, rule, *rows])


def _escaped(text: str) -> str:
    """Text without a meaning in Markdown or HTML."""
    text = " ".join(text.split())
    text = text.replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\`*\[\]|~])|(?<!\w)(_)|(_)(?!\w)", lambda match: f"\\{match[0]}", text)
