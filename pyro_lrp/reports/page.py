"""The report as one HTML file that needs nothing else: no network, no scripts, no further files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

from pyro_lrp.core.errors import printable
from pyro_lrp.reports.collect import Collection, ReportedRun
from pyro_lrp.reports.curves import colour, curves_png
from pyro_lrp.reports.pictures import data_uri, thumbnail
from pyro_lrp.reports.table import Table
from pyro_lrp.reports.text import Sheet, closing, counted, cut, legend, runs_sheet, summary_sheet

__all__ = ["Lead", "page"]

_LONGEST = 80  # letters of a cell
_MOST_PICTURES = 60
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_STYLE = """
:root { color-scheme: light dark; --line: #d0d0d0; --soft: #f4f4f4; --text: #1a1a1a; --back: #ffffff; }
@media (prefers-color-scheme: dark) {
  :root { --line: #444444; --soft: #262626; --text: #e4e4e4; --back: #181818; }
}
body { font: 15px/1.5 system-ui, sans-serif; color: var(--text); background: var(--back);
       margin: 2rem auto; padding: 0 1.5rem; max-width: 90rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
.table { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .3rem .7rem; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { background: var(--soft); font-weight: 600; white-space: normal; vertical-align: bottom; }
td.best { font-weight: 700; }
td.long { white-space: normal; min-width: 16rem; overflow-wrap: anywhere; }
.key { display: inline-block; width: .8em; height: .8em; border-radius: 2px; margin-right: .45em;
       border: 1px solid var(--line); }
ul { padding-left: 1.2rem; } li { overflow-wrap: anywhere; }
img { background: #ffffff; border-radius: 4px; max-width: 100%; }
.result { max-height: 30rem; }
.curves { width: 100%; max-width: 64rem; }
.grids { display: grid; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)); gap: 1.2rem; }
figure { margin: 0; } figure img { width: 100%; } figcaption { font-size: .85rem; overflow-wrap: anywhere; }
"""


class Lead(NamedTuple):
    """The result of an experiment, with which its page begins.

    Attributes:
        title: What the experiment is about.
        remarks: Its scale and the like.
        verdicts: A sentence for each claim.
        header: The names of the columns of its table.
        rows: The rows of its table; empty if it has none.
        picture: Its figure, a PNG file; None if it has none.
    """

    title: str
    remarks: str
    verdicts: Sequence[str]
    header: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    picture: Path | None = None


def page(collection: Collection, table: Table, lead: Lead | None = None) -> str:
    """The HTML of a report: summary, runs, curves, samples, what is missing; before them the result, if given.

    Every text of a run is escaped, and the page's own policy forbids scripts and all addresses but the pictures
    that it holds.
    """
    runs = counted(len(collection.runs), "run")
    title = f"Report of {runs}"
    parts = [f"<h1>{title}</h1>"]
    if lead:
        title = escape(lead.title)
        parts = [*_lead(lead), f"<h2>{runs.capitalize()}, seeds together</h2>"]
    parts += [
        *_summary(table),
        "<h2>Runs</h2>",
        _table(runs_sheet(table)),
        *_curves(table),
        *_grids(table),
        *_missing(collection, table),
    ]
    body = "\n".join(parts)
    return printable(
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _lead(lead: Lead) -> list[str]:
    parts = [f"<h1>{escape(lead.title)}</h1>", f"<p>{escape(lead.remarks)}</p>", _list(lead.verdicts)]
    if lead.rows:
        parts.append(_lead_table(lead))
    png = None
    if lead.picture:
        png = thumbnail(lead.picture, side=1600)
    if png:
        parts.append(f'<img class="result" alt="{escape(lead.title)}" src="{data_uri(png)}">')
    return parts


def _lead_table(lead: Lead) -> str:
    header = "".join(f"<th>{_heading(name)}</th>" for name in lead.header)
    lines = [f'<div class="table"><table>\n<thead><tr>{header}</tr></thead>\n<tbody>']
    for row in lead.rows:
        cells = "".join(f"<td>{escape(cell)}</td>" for cell in row)
        lines.append(f"<tr>{cells}</tr>")
    lines.append("</tbody>\n</table></div>")
    return "\n".join(lines)


def _summary(table: Table) -> list[str]:
    notes = [note.about(table.metrics) for note in table.notes]
    return [_table(summary_sheet(table)), _list([*legend(table), *notes])]


def _table(sheet: Sheet) -> str:
    header = "".join(f"<th>{_heading(name)}</th>" for name in sheet.header)
    lines = [f'<div class="table"><table>\n<thead><tr>{header}</tr></thead>\n<tbody>']
    for index, row in enumerate(sheet.rows):
        cells = [f"<td>{_swatch(sheet.groups[index])}{escape(row[0])}</td>"]
        for column, text in enumerate(row[1:], start=1):
            kind = ""
            if (index, column) in sheet.best:
                kind = ' class="best"'
            elif len(text) > _LONGEST // 2:
                kind = ' class="long"'
            cells.append(f"<td{kind}>{escape(cut(text, _LONGEST))}</td>")
        lines.append(f"<tr>{''.join(cells)}</tr>")
    lines.append("</tbody>\n</table></div>")
    return "\n".join(lines)


def _heading(name: str) -> str:
    """The name of a column, which may be broken after its dots and the like."""
    return re.sub("([._/])", r"\1<wbr>", escape(cut(name, _LONGEST)))


def _swatch(group: int) -> str:
    return f'<span class="key" style="background:{colour(group)}"></span>'


def _list(lines: Sequence[str]) -> str:
    items = "\n".join(f"<li>{escape(line)}</li>" for line in lines)
    return f"<ul>\n{items}\n</ul>"


def _curves(table: Table) -> list[str]:
    png = curves_png(table)
    if png is None:
        return []
    return [
        "<h2>Training</h2>",
        f'<img class="curves" alt="Curves of training, a colour per group" src="{data_uri(png)}">',
    ]


def _grids(table: Table) -> list[str]:
    """The sample grids of the first runs that have one, in the order of the table."""
    figures: list[str] = []
    hidden = 0
    for row in table.rows:
        for run in row.runs:
            if len(figures) == _MOST_PICTURES:
                hidden += _has_grid(run)
                continue
            figure = _grid(row.group, run)
            if figure:
                figures.append(figure)
    if not figures:
        return []
    parts = ["<h2>Samples of the prior</h2>", f'<div class="grids">\n{chr(10).join(figures)}\n</div>']
    if hidden:
        parts.append(f"<p>{counted(hidden, 'further run')} with samples.</p>")
    return parts


def _has_grid(run: ReportedRun) -> bool:
    return run.picture is not None and run.picture.is_file()


def _grid(group: int, run: ReportedRun) -> str:
    """The figure of a run, or nothing."""
    if run.picture is None:
        return ""
    png = thumbnail(run.picture)
    if png is None:
        return ""
    name = escape(run.name)
    caption = f"{_swatch(group)}group {group}, seed {run.seed}: {name}"
    return f'<figure><img alt="{name}" src="{data_uri(png)}"><figcaption>{caption}</figcaption></figure>'


def _missing(collection: Collection, table: Table) -> list[str]:
    lines = closing(collection, table)
    if not lines:
        return []
    return ["<h2>Missing</h2>", _list(lines)]
