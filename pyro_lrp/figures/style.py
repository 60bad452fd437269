"""How plots look: colours that the colour-blind tell apart, type that survives a column of a paper."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyro_lrp.core.files import write_atomically

if TYPE_CHECKING:  # matplotlib is imported when something is plotted: training does not wait for its fonts
    from matplotlib.figure import Figure

__all__ = ["COLUMN", "PALETTE", "PAGE", "new_figure", "save_figure"]

COLUMN, PAGE = 3.3, 6.8  # inches: one column of a paper, and both
PALETTE = (  # Okabe and Ito (2008), Color Universal Design, and two greys
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442", "#000000", "#8C8C8C",
    "#5B3A8E",
)  # fmt: skip
_STYLE: Any = {
    "font.size": 8, "axes.titlesize": 8, "axes.labelsize": 8, "legend.fontsize": 7, "xtick.labelsize": 7,
    "ytick.labelsize": 7, "axes.spines.top": False, "axes.spines.right": False, "lines.linewidth": 1.4,
    "pdf.fonttype": 42, "svg.fonttype": "none", "figure.dpi": 200, "savefig.dpi": 300,
}  # fmt: skip


@contextmanager
def style() -> Iterator[None]:
    """Within the block matplotlib draws as here; its global settings are as before afterwards."""
    import matplotlib as mpl

    with mpl.rc_context(_STYLE):
        yield


def new_figure(width: float, height: float) -> Figure:
    """A figure of so many inches, known to no global state."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def save_figure(figure: Figure, path: Path) -> list[Path]:
    """Write a figure as .png, and beside it as .pdf; atomically, the same figure giving the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    plain: tuple[tuple[str, Any], ...] = ((".png", {"Software": None}), (".pdf", {"CreationDate": None}))
    for suffix, metadata in plain:
        save = partial(figure.savefig, format=suffix[1:], metadata=metadata)
        with style():
            write_atomically(path.with_suffix(suffix), save)
    return [path.with_suffix(suffix) for suffix, _ in plain]
