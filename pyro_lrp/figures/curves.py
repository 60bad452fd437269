"""The curves of one training: a panel per term, a line per split."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pyro_lrp.figures.style import DASHES, PAGE, new_figure, palette, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["TITLES", "cut_lowest", "training_curves"]

TITLES = {
    "log_likelihood": "log-likelihood log p(x|z)",
    "log_prior": "prior density log p(z) of codes",
    "kl": "KL(q(z|x) || p(z))",
    "entropy": "entropy of q(z|x)",
    "fit_loss": "loss of the prior",
    "total_correlation": "total correlation of codes",
    "codes_recognised": "codes that the discriminator recognises",
}
"""The terms that have a panel, in the field's words."""

_SPLITS = ("train", "validation", "test")
_SHARES = ("codes_recognised",)
_FEWEST = 3  # points that make a curve
_HEIGHT = 2.0  # inches of a row of panels
_PAD = 10  # points between a panel and its title
_MARGIN = 1.02  # of the last step, at which a point is seen as a whole
_LOWER = 25  # percent of the values, the lowest, that an axis may cut where they would flatten the rest
_FLATTENED = 10  # how many times as long the axis would be with them


def training_curves(rows: Sequence[Mapping[str, Any]], unit: str = "nats") -> Figure | None:
    """The terms of training, validation and test images over the steps of a training.

    All are scored with the same noise, always on the same images. Dotted lines separate the phases.

    Args:
        rows: Of the metrics, in order.
        unit: Of the log-likelihood.

    Returns:
        The figure; None if there are fewer than three scorings.
    """
    scored = [row for row in rows if any(name.startswith("test/") for name in row)]
    terms = [term for term in TITLES if any(f"test/{term}" in row for row in scored)]
    if len(scored) < _FEWEST or not terms:
        return None
    count = (len(terms) + 1) // 2
    with style():
        figure = new_figure(PAGE, 0.45 + _HEIGHT * count)
        panels = figure.subplots(count, 2, squeeze=False).ravel()
        for panel, term in zip(panels, terms, strict=False):
            _draw(panel, term, scored)
            panel.set_ylabel(_unit(term, unit))
        for panel in panels[len(terms) :]:
            panel.set_axis_off()
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    return figure


def _unit(term: str, unit: str) -> str:
    if term in _SHARES:
        return "share"
    if term == "log_likelihood" and unit != "nats":
        return unit.strip("()")
    return "nats per image"


def _draw(panel: Axes, term: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """The lines of a term, and where phases end."""
    values: list[float] = []
    panel.set_title(TITLES[term], pad=_PAD)
    for colour, dashes, split in zip(palette(), DASHES, _SPLITS, strict=False):
        points = [(row["step"], row[f"{split}/{term}"]) for row in rows if f"{split}/{term}" in row]
        points = [(step, value) for step, value in points if value is not None and math.isfinite(value)]
        if not points:
            continue
        steps, heights = np.array(points).T
        panel.plot(steps, heights, dashes, color=colour, marker=".", markersize=4, label=_label(split))
        values += heights.tolist()
    ends = [row["step"] for row, later in zip(rows, rows[1:], strict=False) if row["phase"] != later["phase"]]
    for end in ends:
        panel.axvline(end, color="#8C8C8C", linestyle=":", linewidth=0.9)
    _name_phases(panel, rows, ends)
    panel.set_xlabel("training step")
    panel.set_xlim(0, _MARGIN * rows[-1]["step"])
    if values:
        cut_lowest(panel, np.array(values))


def _label(split: str) -> str:
    if split == "train":
        return "training images"
    return f"{split} images"


def _name_phases(panel: Axes, rows: Sequence[Mapping[str, Any]], ends: Sequence[int]) -> None:
    """The name of each phase above the panel, if there are several."""
    if not ends:
        return
    starts = [0, *ends]
    names = list(dict.fromkeys(row["phase"] for row in rows))
    for start, name in zip(starts, names, strict=False):
        panel.annotate(
            name.replace("_", " "),
            (start, 1),
            xycoords=("data", "axes fraction"),
            xytext=(2, 1),
            textcoords="offset points",
            va="bottom",
            fontsize=6,
            color="#555555",
        )


def cut_lowest(panel: Axes, values: np.ndarray) -> None:
    """Let the axis end above the lowest values, of first steps or a collapse, where they flatten the rest."""
    low, high = np.percentile(values, [_LOWER, 100])
    span = high - low
    if span > 0 and high - values.min() > _FLATTENED * span:
        bottom = low - span
        panel.set_ylim(bottom, high + 0.1 * span)
        panel.set_title(f"{panel.get_title()} (some below {bottom:,.0f})", pad=_PAD)
