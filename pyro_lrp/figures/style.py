"""The style of plots: colours for the colour-blind, and font sizes for a column of a paper."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyro_lrp.core.errors import UserError
from pyro_lrp.core.files import write_atomically

if TYPE_CHECKING:  # matplotlib is slow to import, so it is imported only when something is plotted
    from matplotlib.figure import Figure

__all__ = [
    "COLUMN", "DASHES", "MARKERS", "PAGE", "PAIR", "PALETTE", "new_figure", "palette", "save_figure", "style",
    "with_styles",
]  # fmt: skip

COLUMN = 3.3  # inches: one column of a paper
PAGE = 6.8  # inches: both columns
PALETTE = (  # Okabe and Ito (2008), Color Universal Design, with a grey and a violet
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#CC79A7",
    "#56B4E9",
    "#F0E442",
    "#000000",
    "#8C8C8C",
    "#5B3A8E",
)
DASHES = ("-", "--", "-.", ":")  # beside colours, for prints without any
MARKERS = ("o", "s", "^", "D", "v")
_SIZES: Any = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "legend.fontsize": 7,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
}
_STYLE: Any = {
    **_SIZES,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 1.4,
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
    "figure.dpi": 200,
    "savefig.dpi": 300,
    "savefig.bbox": "tight",  # a title over square panels may stand beyond the figure
}
# without software and date, equal figures give equal files
_METADATA: dict[str, dict[str, Any]] = {
    ".png": {"Software": None},
    ".pdf": {"CreationDate": None},
}
PAIR = tuple(_METADATA)  # a picture for the screen, and one for a paper


_chosen: ContextVar[tuple[str, ...]] = ContextVar("styles of matplotlib that are chosen", default=())


@contextmanager
def style() -> Iterator[None]:
    """Within the block, matplotlib uses this style; afterwards its global settings are restored."""
    import matplotlib as mpl
    from cycler import cycler  # of matplotlib
    from matplotlib import style as styles

    with mpl.rc_context({**_STYLE, "axes.prop_cycle": cycler(color=PALETTE)}):
        for name in _chosen.get():
            styles.use(name)
            if name in styles.available:  # those of matplotlib have letters for figures twice as large
                mpl.rcParams.update(_SIZES)
        yield


@contextmanager
def with_styles(names: str | Sequence[str] | None) -> Iterator[None]:
    """Within the block, :func:`style` is this style with some of matplotlib's over it.

    Args:
        names: Names of matplotlib's styles, such as ``"grayscale"``, without their sizes of letters; or files
            ``*.mplstyle``, which may set all; None for none.

    Raises:
        UserError: If there is no such style or file.
    """
    from matplotlib import style as styles

    listed = [names] if isinstance(names, str) else names or []
    chosen = []
    for name in listed:
        path = Path(name).expanduser()
        if name not in styles.available and not path.is_file():
            known = ", ".join(each for each in styles.available if not each.startswith("_"))
            raise UserError(f"style: there is no style and no file {name}; matplotlib has {known}")
        chosen.append(name if name in styles.available else str(path))
    token = _chosen.set(tuple(chosen))
    try:
        yield
    finally:
        _chosen.reset(token)


def palette() -> list[str]:
    """The colours of lines, within :func:`style`."""
    import matplotlib as mpl

    return mpl.rcParams["axes.prop_cycle"].by_key().get("color", list(PALETTE))


def new_figure(width: float, height: float) -> Figure:
    """A figure of a size in inches, which is not registered with pyplot."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def save_figure(figure: Figure, path: Path) -> list[Path]:
    """Write a figure, atomically; equal figures give equal bytes.

    Args:
        figure: The figure.
        path: The file. If it ends in .png or .pdf, both are written; .jpg and .jpeg stand alone.

    Returns:
        The files.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    suffixes: tuple[str, ...] = (path.suffix,)
    if path.suffix.lower() in PAIR:
        suffixes = PAIR
    paths = []
    for suffix in suffixes:
        metadata = _METADATA.get(suffix)
        save = partial(figure.savefig, format=suffix[1:].lower(), metadata=metadata)
        target = path.with_suffix(suffix)
        with style():
            write_atomically(target, save)
        paths.append(target)
    return paths
