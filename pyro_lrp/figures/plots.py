"""Plots of the latent space: densities and forces, clusters and their prior, speed along a path."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pyro_lrp.figures.style import COLUMN, PAGE, PALETTE, new_figure, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["change_bands", "forces", "latent_spaces", "variation"]


def change_bands(changes: Mapping[str, Mapping[str, np.ndarray]]) -> Figure:
    """Change from step to step along paths, median and 5-95 % band, one panel for each attribute (Fig. 8).

    Under a panel's name stand the coefficients of variation of its medians, in the order of the legend.

    Args:
        changes: By panel, then by kind of path, arrays ``(sequences, steps)``.
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
            for colour, (path, values) in zip(PALETTE, by_path.items(), strict=False):
                steps = np.arange(1, values.shape[1] + 1)
                low, median, high = np.percentile(values, (5, 50, 95), axis=0)
                panel.fill_between(steps, low, high, color=colour, alpha=0.15, linewidth=0)
                panel.plot(steps, median, color=colour, label=path)
            spreads = ", ".join(f"{variation(values):.2f}" for values in by_path.values())
            panel.set_title(f"{name}\nvariation {spreads}")
            panel.set_ylim(bottom=0)
            panel.ticklabel_format(axis="y", scilimits=(-2, 3), useMathText=True)
            if number >= len(changes) - columns:
                panel.set_xlabel("step of the path")
            if number % columns == 0:
                panel.set_ylabel("perceptual change")
        handles, labels = axes.flat[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    return figure


def variation(changes: np.ndarray) -> float:
    """Standard deviation over mean of the medians of the steps, of an array ``(sequences, steps)``."""
    medians = np.median(changes, axis=0)
    return float(medians.std() / medians.mean())


def latent_spaces(panels: Sequence[Mapping[str, Any]], classes: Sequence[str] | None = None) -> Figure:
    """Clouds of two-dimensional points side by side (Fig. 2).

    Args:
        panels: Each with ``title``, ``points`` ``(N, 2)``, ``labels`` ``(N,)`` or None, and maybe ``note``,
            a line under the panel, and ``unit_circles``: where N(0, I) holds 39, 86 and 99 % of its mass.
        classes: Names of the labels.
    """
    with style():
        figure = new_figure(PAGE, PAGE / len(panels) + 0.75)
        axes = figure.subplots(1, len(panels), squeeze=False)[0]
        for panel, given in zip(axes, panels, strict=True):
            points, labels = np.asarray(given["points"]), given.get("labels")
            colours = "#333333" if labels is None else [PALETTE[int(k) % len(PALETTE)] for k in labels]
            panel.scatter(*points.T, s=1.2, c=colours, linewidths=0, alpha=0.7, rasterized=True)
            if given.get("unit_circles"):
                angle = np.linspace(0, 2 * np.pi, 200)
                for radius in (1, 2, 3):
                    panel.plot(radius * np.cos(angle), radius * np.sin(angle), color="black", linewidth=0.5)
            panel.set_title(given["title"])
            panel.set_xlabel(given.get("note", ""))
            low, high = given.get("limits", np.percentile(points, (0.5, 99.5), axis=0))
            pad = 0.08 * (high - low)
            panel.set_xlim(low[0] - pad[0], high[0] + pad[0])
            panel.set_ylim(low[1] - pad[1], high[1] + pad[1])
        if classes is not None:
            handles = [
                axes[0].plot([], [], ".", color=PALETTE[k % len(PALETTE)], label=name)[0]
                for k, name in enumerate(classes)
            ]
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


def forces(panels: Sequence[Mapping[str, Any]]) -> Figure:
    """Contours of p(z) and q(z), and the force that training lays on each (Fig. 1).

    Args:
        panels: Each with ``title``, ``x``, ``y`` (grids ``(G, G)``), ``prior`` and ``posterior`` (densities
            there), and ``on_codes``, ``on_prior``: pairs of arrays ``(N, 2)``, where arrows start and what they
            point along; None where there is no such force.
    """
    with style():
        side = PAGE / max(3, len(panels))
        figure = new_figure(side * len(panels), side + 0.55)
        axes = figure.subplots(1, len(panels), squeeze=False)[0]
        for panel, given in zip(axes, panels, strict=True):
            parts = (("prior", "on_prior", PALETTE[0]), ("posterior", "on_codes", PALETTE[3]))
            for density, arrows, colour in parts:
                values = np.asarray(given[density])
                levels = _levels(values, (0.9, 0.5))
                panel.contour(given["x"], given["y"], values, levels=levels, colors=colour, linewidths=0.9)
                if given.get(arrows) is not None:
                    start, along = given[arrows]
                    panel.quiver(
                        *start.T, *along.T, color=colour, width=0.008, scale=1, scale_units="xy", angles="xy"
                    )
            panel.set_title(given["title"])
            panel.set_aspect("equal")
            panel.set_xticks([])
            panel.set_yticks([])
        lines = [
            axes[0].plot([], [], color=PALETTE[0], label="prior p(z), and the pull on it")[0],
            axes[0].plot([], [], color=PALETTE[3], label="codes q(z), and the push on them")[0],
        ]
        figure.legend(
            handles=lines, loc="outside lower center", ncols=2 if len(panels) > 1 else 1, frameon=False
        )
    return figure


def _levels(density: np.ndarray, shares: Sequence[float]) -> list[float]:
    """Heights above which a density on a grid holds these shares of its mass, rising."""
    ranked = np.sort(density.ravel())[::-1]
    mass = ranked.cumsum() / ranked.sum()
    return sorted({float(ranked[np.searchsorted(mass, share)]) for share in shares})
