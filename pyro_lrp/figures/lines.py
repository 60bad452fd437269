"""A result against a setting of the runs: the mean over seeds and their range, a line for each kind of run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import TYPE_CHECKING, Any

from pyro_lrp.figures.style import DASHES, MARKERS, PAGE, new_figure, palette, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Lines", "lines_against"]

Lines = Mapping[str, Mapping[Any, Sequence[float]]]
"""Values of the seeds, by the name of a line and by the value of the setting."""

_COLUMNS = 4  # panels beside each other
_WIDE = 5  # highest over lowest value of a logarithmic axis on which not every tick has a number


def lines_against(panels: Mapping[str, Lines], setting: str, result: str, *, log: bool = True) -> Figure:
    """A figure with a panel for each data set, say, and a line in it for each model.

    Values of the setting stand at equal distances, as β = 0 has no place on a logarithmic axis.

    Args:
        panels: The lines of each panel, by its title.
        setting: The name of the horizontal axis.
        result: The name of the vertical axis.
        log: A logarithmic vertical axis.
    """
    columns = min(_COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    values = sorted({value for lines in panels.values() for line in lines.values() for value in line})
    names = list(dict.fromkeys(name for lines in panels.values() for name in lines))
    with style():
        figure = new_figure(max(PAGE / 2, PAGE * columns / _COLUMNS), 0.5 + 1.9 * rows)
        axes = figure.subplots(rows, columns, squeeze=False)
        for panel in axes.flat[len(panels) :]:
            panel.set_axis_off()
        for number, (title, lines) in enumerate(panels.items()):
            panel = axes.flat[number]
            for name, line in lines.items():
                _draw_line(panel, name, line, values, names.index(name))
            panel.set_title(title)
            panel.set_xticks(range(len(values)), [f"{value:g}" for value in values])
            panel.set_xlabel(setting)
            if log:
                _logarithmic(panel)
            if number % columns == 0:
                panel.set_ylabel(result)
        handles, labels = _legend([*axes.flat])
        figure.legend(handles, labels, loc="outside lower center", ncols=min(3, len(labels)), frameon=False)
    return figure


def _draw_line(
    panel: Axes, name: str, line: Mapping[Any, Sequence[float]], values: Sequence[Any], number: int
) -> None:
    colours = palette()
    colour = colours[number % len(colours)]
    dashes = DASHES[number % len(DASHES)]
    marker = MARKERS[number % len(MARKERS)]
    places = [place for place, value in enumerate(values) if line.get(value)]
    seeds = [line[values[place]] for place in places]
    means = [mean(of_one) for of_one in seeds]
    lowest = [min(of_one) for of_one in seeds]
    highest = [max(of_one) for of_one in seeds]
    panel.fill_between(places, lowest, highest, color=colour, alpha=0.15, linewidth=0)
    panel.plot(places, means, dashes, marker=marker, markersize=3, color=colour, label=name)


def _logarithmic(panel: Axes) -> None:
    """A logarithmic axis with plain numbers, as many as have room."""
    from matplotlib.ticker import LogLocator, NullFormatter

    panel.set_yscale("log")
    low, high = panel.get_ylim()
    panel.yaxis.set_major_formatter("{x:g}")
    panel.yaxis.set_minor_formatter("{x:g}")
    if high > _WIDE * low:
        panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panel.yaxis.set_minor_formatter(NullFormatter())


def _legend(panels: Sequence[Axes]) -> tuple[list[Any], list[str]]:
    """Each name once, of whatever panel has it."""
    found: dict[str, Any] = {}
    for panel in panels:
        handles, labels = panel.get_legend_handles_labels()
        for handle, label in zip(handles, labels, strict=True):
            found.setdefault(label, handle)
    return list(found.values()), list(found)
