"""The map of the codes as HTML: an SVG that can be clicked, or walked on by the arrow keys."""

from __future__ import annotations

import html
from collections.abc import Sequence

import torch
from torch import Tensor

from pyro_lrp.figures.explorer.code_map import CodeMap
from pyro_lrp.figures.explorer.markup import signed
from pyro_lrp.figures.style import PALETTE

__all__ = ["by_class", "by_density"]

_SIDE = 600  # of the map, in its own units
_UNKNOWN = "#999999"
_VIRIDIS = (  # matplotlib's, which differs in lightness throughout
    "#440154", "#482878", "#3e4989", "#31688e", "#26828e", "#1f9e89", "#35b779", "#6ece58", "#b5de2b",
    "#fde725",
)  # fmt: skip


def by_class(plane: CodeMap, labels: Tensor, classes: Sequence[str], mark: tuple[float, float]) -> str:
    """The map with a colour for each class.

    Args:
        plane: The map.
        labels: The class of each point, -1 for none, shape ``(N,)``.
        classes: Names of the classes. More classes than colours share them.
        mark: The marked place, in shares of the side from the upper left corner.
    """
    labels = labels.cpu()
    groups = []
    for number, name in enumerate(classes):
        groups.append((PALETTE[number % len(PALETTE)], name, labels == number))
    groups.append((_UNKNOWN, "without a class", labels < 0))
    return _drawn(plane, groups, mark)


def by_density(plane: CodeMap, densities: Tensor, mark: tuple[float, float]) -> str:
    """The map coloured by log p(z), a tenth of the codes in each colour.

    Args:
        plane: The map.
        densities: log p(z) of each point in nats, shape ``(N,)``.
        mark: The marked place, in shares of the side from the upper left corner.
    """
    densities = densities.cpu()
    shares = torch.linspace(0, 1, len(_VIRIDIS) + 1)
    bounds = densities[densities.isfinite()].quantile(shares)
    decile = torch.bucketize(densities, bounds[1:-1].contiguous())
    groups = []
    for number, colour in enumerate(_VIRIDIS):
        name = ""
        if number in (0, len(_VIRIDIS) - 1):
            name = f"{signed(bounds[number + (number > 0)].item())} nats"
        groups.append((colour, name, decile == number))
    return _drawn(plane, groups, mark)


def _drawn(plane: CodeMap, groups: Sequence[tuple[str, str, Tensor]], mark: tuple[float, float]) -> str:
    """Points in groups of one colour, the axes, the mark and the legend."""
    places = (plane.shares() * _SIDE).round().int()
    paths = []
    legend = []
    for colour, name, members in groups:
        if not bool(members.any()):
            continue
        line = "".join(f"M{x} {y}h0" for x, y in places[members].tolist())
        paths.append(f'<path d="{line}" stroke="{colour}"/>')
        legend.append(f'<span style="--c:{colour}">{html.escape(name)}</span>')
    across, up = plane.axes
    x = mark[0] * _SIDE
    y = mark[1] * _SIDE
    label = "Map of the codes of training images. Arrow keys move the mark, and its code is decoded."
    return (
        f'<div class="lrp-map" tabindex="0" role="application" aria-label="{label}">'
        f'<svg viewBox="0 0 {_SIDE} {_SIDE}" data-side="{_SIDE}"><g>{"".join(paths)}</g>'
        f'<g class="lrp-mark" transform="translate({x:.0f} {y:.0f})"><circle r="11"/><circle r="11"/></g></svg>'
        f"</div><p class='lrp-axes'>across: {html.escape(across)}; up: {html.escape(up)}</p>"
        f'<p class="lrp-legend">{"".join(legend)}</p>'
    )
