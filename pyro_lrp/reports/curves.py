"""The curves of training: a panel per term, a line per run, coloured by group."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from pyro_lrp.figures.curves import cut_lowest
from pyro_lrp.figures.style import PAGE, PALETTE, new_figure, style
from pyro_lrp.reports.collect import CURVES, Curve
from pyro_lrp.reports.table import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["colour", "curves_png", "dashes"]

_DASHES = ("-", "--", ":", "-.")
_MOST_IN_LEGEND = 24  # groups
_HEIGHT = 2.1  # inches of a row of panels
_TITLES = {
    "log_likelihood": "log p(x|z), training batches",
    "test/log_likelihood": "log p(x|z), test images",
    "log_prior": "log p(z), codes of training batches",
    "test/log_prior": "log p(z), test codes",
}
_FEW = 20  # points of a curve that are marked
_MARGIN = 1.02  # of the last step, at which a point is seen as a whole


def colour(group: int) -> str:
    """The colour of a group, by its number from 1."""
    return PALETTE[(group - 1) % len(PALETTE)]


def dashes(group: int) -> Any:
    """The dashes of a group: those of the first colours are solid."""
    return _DASHES[(group - 1) // len(PALETTE) % len(_DASHES)]


def curves_png(table: Table) -> bytes | None:
    """The picture of all curves; None if no run has any."""
    with style():
        figure = _figure(table)
        if figure is None:
            return None
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=150, metadata={"Software": None})
        return file.getvalue()


def _figure(table: Table) -> Figure | None:
    terms = [term for term in CURVES if any(True for _ in _curves(table, term))]
    if not terms:
        return None
    count = (len(terms) + 1) // 2
    figure = new_figure(PAGE, 0.4 + _HEIGHT * count)
    panels = figure.subplots(count, 2, squeeze=False).ravel()
    for panel, term in zip(panels, terms, strict=False):
        values: list[float] = []
        last = 0.0
        for group, curve in _curves(table, term):
            steps, heights = np.array(curve).T
            marker = ""
            if len(steps) <= _FEW:
                marker = "."
            panel.plot(steps, heights, dashes(group), color=colour(group), marker=marker, markersize=4)
            last = max(last, steps[-1])
            values += heights.tolist()
        panel.set_title(_TITLES[term])
        panel.set_xlabel("training step")
        panel.set_ylabel("nats per image")
        panel.set_xlim(0, _MARGIN * last or 1)
        cut_lowest(panel, np.array(values))
    for panel in panels[len(terms) :]:
        panel.set_axis_off()
    _add_legend(figure, table)
    return figure


def _curves(table: Table, term: str) -> Iterator[tuple[int, Curve]]:
    """The group and the curve of each run that has one."""
    for row in table.rows:
        for run in row.runs:
            curve = run.curves.get(term)
            if curve:
                yield row.group, curve


def _add_legend(figure: Figure, table: Table) -> None:
    """The colours of the groups, by number: the table says what they are."""
    from matplotlib.lines import Line2D

    groups = [row.group for row in table.rows[:_MOST_IN_LEGEND]]
    if len(table.rows) < 2:
        return
    lines = [Line2D([], [], color=colour(group), linestyle=dashes(group)) for group in groups]
    labels = [str(group) for group in groups]
    if len(table.rows) > len(groups):
        lines.append(Line2D([], [], linestyle="none"))
        labels.append(f"and {len(table.rows) - len(groups)} more")
    columns = min(len(lines), 12)
    figure.legend(lines, labels, title="group", loc="outside lower center", ncols=columns, frameon=False)
