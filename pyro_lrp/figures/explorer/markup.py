"""Answers as HTML: pictures, the gauge of log p(z), and sentences."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from pyro_lrp.core.pixels import as_bytes
from pyro_lrp.figures.explorer.gauge import Gauge, Reading
from pyro_lrp.figures.style import PALETTE

__all__ = ["command", "figure", "gauge", "grid", "heading", "img", "note", "row", "signed"]

_EXACT = 64  # pixels of a side up to which images are sent as PNG
_BINS = 40
_WIDTH = 320  # of the gauge, in its own units
_HEIGHT = 56
_MARGIN = 8
_CODES = PALETTE[3]
_SAMPLES = PALETTE[0]


def note(text: str) -> str:
    """A sentence in the place of an answer."""
    return f'<p class="lrp-note" role="status">{html.escape(text)}</p>'


def img(image: Tensor, alt: str) -> str:
    """An image ``(C, H, W)`` in [0, 1], within the page: no further request is needed to see it.

    >>> import torch
    >>> img(torch.zeros(1, 8, 8), "test image 3")[:42]
    '<img alt="test image 3" class="lrp-pixels"'
    """
    is_small = _is_small(image)
    style = ' class="lrp-pixels"' if is_small else ""
    return f'<img alt="{html.escape(alt)}"{style} src="{_address(image, exact=is_small)}">'


def _is_small(image: Tensor) -> bool:
    """Whether an image is shown pixel by pixel."""
    return max(image.shape[1:]) <= _EXACT


def _address(image: Tensor, *, exact: bool) -> str:
    """The content of an image as an address: PNG, or JPEG where it need not be exact."""
    pixels = as_bytes(image.detach().cpu()).permute(1, 2, 0).numpy()
    if pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    kind = "png" if exact else "jpeg"
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, quality=92)
    content = base64.b64encode(buffer.getvalue()).decode()
    return f"data:image/{kind};base64,{content}"


def figure(image: Tensor, caption: str) -> str:
    """An image with a caption below it."""
    return f"<figure>{img(image, caption)}<figcaption>{html.escape(caption)}</figcaption></figure>"


def row(figures: Sequence[str], size: str = "") -> str:
    """Figures side by side; those that do not fit stand in the next line.

    Args:
        figures: Markup of :func:`figure`.
        size: ``"small"``, ``"large"``, or ``"path"``: in one line if there is room.
    """
    return f'<div class="lrp-row {size}">{"".join(figures)}</div>'


def grid(images: Tensor, names: Sequence[str], columns: Sequence[str] = (), chosen: int | None = None) -> str:
    """Images as buttons, numbered from 0.

    All images are one picture, of which each button shows its part: a browser decodes one in a fraction of the
    time of many.

    Args:
        images: In [0, 1], shape ``(n, C, H, W)``.
        names: What each is, for those who do not see it.
        columns: Titles of columns, of which there are then as many; none for as many as fit.
        chosen: The number of the image that is marked.
    """
    cells = []
    for column in columns:
        cells.append(f'<div class="lrp-title">{html.escape(column)}</div>')
    for index, name in enumerate(names):
        pressed = str(index == chosen).lower()
        place = 100 * index / max(1, len(names) - 1)
        cells.append(
            f'<button type="button" data-index="{index}" aria-pressed="{pressed}" '
            f'aria-label="{html.escape(name)}"><span style="background-position: {place:.4f}% 0">'
            "</span></button>"
        )
    style = _picture_of(images)
    if columns:
        style += f"grid-template-columns: repeat({len(columns)}, minmax(0, 1fr));"
    return f'<div class="lrp-grid" style="{style}">{"".join(cells)}</div>'


def _picture_of(images: Tensor) -> str:
    """The style that gives the buttons of a grid one picture of all images, side by side."""
    if not len(images):
        return ""
    exact = _is_small(images[0])
    height, width = images.shape[2:]
    side_by_side = torch.cat([*images.detach()], dim=2)
    rendering = "pixelated" if exact else "auto"
    return (
        f"--picture: url({_address(side_by_side, exact=exact)}); --count: {len(images)}; "
        f"--shape: {width} / {height}; --rendering: {rendering};"
    )


def gauge(gauge: Gauge | None, reading: Reading | None) -> str:
    """The log density of a code within those of real codes and of samples, and its rank in words."""
    if gauge is None:
        return note("No gauge: this prior has no density, so nothing says how typical a code is.")
    assert reading is not None, "a gauge reads every code"
    low, high = gauge.limits
    inner = (high - low) or 1.0

    def place(value: float) -> float:
        share = min(max((value - low) / inner, 0.0), 1.0)
        return _MARGIN + share * (_WIDTH - 2 * _MARGIN)

    real = _outline(gauge.codes, low, high)
    drawn = _outline(gauge.samples, low, high)
    x = place(reading.log_density)
    words = f"log p(z) = {signed(reading.log_density, 1)} nats: {reading.verdict}"
    return (
        f'<div class="lrp-gauge"><svg viewBox="0 0 {_WIDTH} {_HEIGHT + 18}" role="img" '
        f'aria-label="{html.escape(words)}">'
        f'<path d="{real} Z" fill="{_CODES}" fill-opacity="0.35" stroke="{_CODES}"/>'
        f'<path d="{drawn}" fill="none" stroke="{_SAMPLES}" stroke-width="1.5"/>'
        f'<line x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{_HEIGHT}" stroke="currentColor" stroke-width="2.5"/>'
        f'<text x="{_MARGIN}" y="{_HEIGHT + 14}">{signed(low)}</text>'
        f'<text x="{_WIDTH - _MARGIN}" y="{_HEIGHT + 14}" text-anchor="end">{signed(high)} nats</text></svg>'
        f"<p>{html.escape(words)}.</p>"
        f'<p class="lrp-legend"><span style="--c:{_CODES}">codes of test images</span>'
        f'<span style="--c:{_SAMPLES}">samples of the prior</span></p></div>'
    )


def signed(value: float, digits: int = 0) -> str:
    """A number with a minus sign instead of a hyphen.

    >>> signed(-3.14159, 2)
    '\N{MINUS SIGN}3.14'
    """
    return f"{value:.{digits}f}".replace("-", "\N{MINUS SIGN}")


def _outline(values: Tensor, low: float, high: float) -> str:
    """The histogram of log densities as the path of a line above the gauge's base."""
    counts = values.clamp(low, high).histc(_BINS, low, high)
    heights = counts / counts.max().clamp_min(1) * (_HEIGHT - 4)
    width = (_WIDTH - 2 * _MARGIN) / _BINS
    parts = [f"M{_MARGIN} {_HEIGHT}"]
    for number, height in enumerate(heights.tolist()):
        parts.append(f"V{_HEIGHT - height:.1f}H{_MARGIN + (number + 1) * width:.1f}")
    parts.append(f"V{_HEIGHT}")
    return "".join(parts)


def heading(title: str, facts: Sequence[str]) -> str:
    """The head of the page."""
    described = " · ".join(map(html.escape, facts))
    name = html.escape(title).replace("_", "_<wbr>")  # where a long name may be broken
    return f'<h1 class="lrp-name">{name}</h1><p class="lrp-facts">{described}</p>'


def command(line: str) -> str:
    """A command that gives the same images."""
    return f'<p class="lrp-command">The same by a command: <code>{html.escape(line)}</code></p>'
