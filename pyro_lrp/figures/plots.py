"""Plots of latent spaces: densities and forces, clusters, and perceptual change along paths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pyro_lrp.figures.style import COLUMN, DASHES, PAGE, new_figure, palette, style
from pyro_lrp.figures.words import symbols

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["change_bands", "forces", "latent_spaces", "variation"]

_PRIOR = 0  # the colour of the palette
_CODES = 3


def change_bands(changes: Mapping[str, Mapping[str, np.ndarray]]) -> Figure:
    """Change per step along paths, as median and 5-95 % band, with one panel per attribute (Fig. 8).

    The title of a panel gives the coefficients of variation of its medians, in the order of the legend.

    Args:
        changes: Arrays ``(sequences, steps)`` by panel and by kind of path.
    """
    columns = min(4, len(changes))
    rows = -(-len(changes) // columns)
    with style():
        figure = new_figure(max(COLUMN, PAGE * columns / 4), 0.6 + 1.6 * rows)
        axes = figure.subplots(rows, columns, squeeze=False, sharex=True)
        for panel in axes.flat[len(changes) :]:
            panel.set_axis_off()
        for number, (name, by_path) in enumerate(changes.items()):
            panel = axes.flat[number]
            _draw_bands(panel, name, by_path)
            if number >= len(changes) - columns:
                panel.set_xlabel("step of the path")
            if number % columns == 0:
                panel.set_ylabel("perceptual change")
        handles, labels = axes.flat[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    return figure


def _draw_bands(panel: Axes, name: str, by_path: Mapping[str, np.ndarray]) -> None:
    for colour, dashes, (path, values) in zip(palette(), DASHES, by_path.items(), strict=False):
        steps = np.arange(1, values.shape[1] + 1)
        low, median, high = np.percentile(values, (5, 50, 95), axis=0)
        panel.fill_between(steps, low, high, color=colour, alpha=0.15, linewidth=0)
        panel.plot(steps, median, dashes, color=colour, label=symbols(path))
    variations = ", ".join(f"{variation(values):.2f}" for values in by_path.values())
    panel.set_title(f"{name}\nvariation {variations}")
    panel.set_ylim(bottom=0)
    panel.ticklabel_format(axis="y", scilimits=(-2, 3), useMathText=True)


def variation(changes: np.ndarray) -> float:
    """The coefficient of variation of the medians over sequences, for an array ``(sequences, steps)``."""
    medians = np.median(changes, axis=0)
    return float(medians.std() / medians.mean())


def latent_spaces(panels: Sequence[Mapping[str, Any]], classes: Sequence[str] | None = None) -> Figure:
    """Clouds of two-dimensional points side by side (Fig. 2).

    Args:
        panels: Mappings with ``title`` and ``points`` ``(N, 2)``, and optionally ``labels`` ``(N,)``, ``note``
            (a line under the panel), ``limits`` ``(2, 2)`` (lower and upper corner) and ``unit_circles`` (draw
            the circles that contain 39, 86 and 99 % of the mass of N(0, I)).
        classes: Names of the labels, for a legend.
    """
    with style():
        figure = new_figure(PAGE, PAGE / len(panels) + 0.75)
        axes = figure.subplots(1, len(panels), squeeze=False)[0]
        for panel, content in zip(axes, panels, strict=True):
            _draw_points(panel, content)
        if classes is not None:
            handles = []
            for label, name in enumerate(classes):
                (handle,) = axes[0].plot([], [], ".", color=_colour(label), label=name)
                handles.append(handle)
            figure.legend(
                handles=handles,
                loc="outside lower center",
                ncols=min(10, len(classes)),
                frameon=False,
                handletextpad=0,
                columnspacing=0.8,
                markerscale=1.5,
            )
    return figure


def _draw_points(panel: Axes, content: Mapping[str, Any]) -> None:
    points = np.asarray(content["points"])
    labels = content.get("labels")
    colours: Any = "#333333"
    if labels is not None:
        colours = [_colour(int(label)) for label in labels]
    x, y = points.T
    panel.scatter(x, y, s=1.2, c=colours, linewidths=0, alpha=0.7, rasterized=True)
    if content.get("unit_circles"):
        angle = np.linspace(0, 2 * np.pi, 200)
        for radius in (1, 2, 3):
            circle = radius * np.cos(angle), radius * np.sin(angle)
            panel.plot(*circle, color="black", linewidth=0.5)
    panel.set_title(content["title"])
    panel.set_xlabel(content.get("note", ""))
    low, high = content.get("limits", np.percentile(points, (0.5, 99.5), axis=0))
    pad = 0.08 * (high - low)
    panel.set_xlim(low[0] - pad[0], high[0] + pad[0])
    panel.set_ylim(low[1] - pad[1], high[1] + pad[1])


def _colour(label: int) -> str:
    if label < 0:
        return "#999999"
    colours = palette()
    return colours[label % len(colours)]


def forces(panels: Sequence[Mapping[str, Any]]) -> Figure:
    """Contours of p(z) and q(z), and the forces that training exerts on each (Fig. 1).

    Args:
        panels: Mappings with ``title``, ``x`` and ``y`` (grids ``(G, G)``), ``prior`` and ``posterior``
            (densities on the grid), and optionally ``on_codes`` and ``on_prior`` (pairs of arrays ``(N, 2)``:
            the starts and the directions of arrows).
    """
    with style():
        side = PAGE / max(3, len(panels))
        figure = new_figure(side * len(panels), side + 0.55)
        axes = figure.subplots(1, len(panels), squeeze=False)[0]
        of_prior, of_codes = _two_colours()
        for panel, content in zip(axes, panels, strict=True):
            _draw_density(panel, content, "prior", "on_prior", of_prior)
            _draw_density(panel, content, "posterior", "on_codes", of_codes)
            panel.set_title(content["title"])
            panel.set_aspect("equal", adjustable="datalim")
            panel.set_box_aspect(1)
            panel.set_xticks([])
            panel.set_yticks([])
        (prior,) = axes[0].plot([], [], color=of_prior, label="prior p(z), and the pull on it")
        (codes,) = axes[0].plot([], [], color=of_codes, label="codes q(z), and the push on them")
        figure.legend(
            handles=[prior, codes],
            loc="outside lower center",
            ncols=min(2, len(panels)),
            frameon=False,
        )
    return figure


def _two_colours() -> tuple[str, str]:
    """The colours of the prior and of the codes."""
    colours = palette()
    return colours[_PRIOR], colours[_CODES % len(colours)]


def _draw_density(panel: Axes, content: Mapping[str, Any], density: str, arrows: str, colour: str) -> None:
    """Draw the contours of a density, and the arrows of the force on it."""
    values = np.asarray(content[density])
    levels = _levels(values, (0.9, 0.5))
    panel.contour(content["x"], content["y"], values, levels=levels, colors=colour, linewidths=0.9)
    if content.get(arrows) is None:
        return
    start, direction = content[arrows]
    panel.quiver(
        *start.T,
        *direction.T,
        color=colour,
        width=0.008,
        scale=1,
        scale_units="xy",
        angles="xy",
    )


def _levels(density: np.ndarray, shares: Sequence[float]) -> list[float]:
    """The values above which a density on a grid holds the given shares of its mass, in ascending order."""
    ranked = np.sort(density.ravel())[::-1]
    mass = ranked.cumsum() / ranked.sum()
    indices = [np.searchsorted(mass, share) for share in shares]
    return sorted({float(ranked[index]) for index in indices})
