"""Samples as they form: the pictures of a training, one per report, as an animation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from pyro_lrp.core.files import write_atomically
from pyro_lrp.figures.classes import label_font

__all__ = ["frame", "save_progress"]

_FEWEST = 3  # pictures that make an animation
_MOST = 60  # frames; of more pictures some are left out, at even distances
_SIDE = 512  # pixels of the longer side of a frame, at most
_CAPTION = 22  # pixels
_COLOURS = 64  # of a frame: half the bytes of 256
_SECONDS = 8.0  # of all frames but the last
_FASTEST = 0.08  # seconds of a frame
_SLOWEST = 0.5
_LAST = 2.0  # seconds of the last frame
_LEFT = 4  # pixels left of the caption


def frame(directory: Path, row: Mapping[str, Any]) -> Path:
    """The file of the picture that belongs to a row of the metrics.

    Args:
        directory: The run directory.
        row: Has the ``step`` and the ``phase``.
    """
    return directory / "samples" / f"step_{row['step']:07d}_{row['phase']}.png"


def save_progress(directory: Path, rows: Sequence[Mapping[str, Any]]) -> Path | None:
    """Write ``figures/progress.gif``: the pictures of samples through a training, each with phase and epoch.

    All pictures are drawn from the same noise. Those of the processes before a resumed one are among them.

    Args:
        directory: The run directory.
        rows: Of the metrics, in order.

    Returns:
        The file; None if there are fewer than three pictures.
    """
    pictured = [row for row in rows if frame(directory, row).is_file()]
    if len(pictured) < _FEWEST:
        return None
    places = np.linspace(0, len(pictured) - 1, min(_MOST, len(pictured))).round().astype(int)
    frames = [_captioned(directory, pictured[place]) for place in places]
    each = min(max(_SECONDS / len(frames), _FASTEST), _SLOWEST)
    durations = [each] * (len(frames) - 1) + [_LAST]
    path = directory / "figures" / "progress.gif"
    first, *others = frames
    save = partial(
        first.save,
        format="GIF",
        save_all=True,
        append_images=others,
        duration=[round(1000 * seconds) for seconds in durations],
        loop=0,
    )
    write_atomically(path, save)
    return path


def _captioned(directory: Path, row: Mapping[str, Any]) -> Image.Image:
    """The picture of a row above the name of its phase and its epoch."""
    with Image.open(frame(directory, row)) as opened:
        picture = opened.convert("RGB")
    picture.thumbnail((_SIDE, _SIDE))
    canvas = Image.new("RGB", (picture.width, picture.height + _CAPTION), "white")
    canvas.paste(picture)
    middle = picture.height + _CAPTION / 2
    text = f"{row['phase']}, epoch {row['epoch']:.0f}"
    ImageDraw.Draw(canvas).text((_LEFT, middle), text, fill="black", font=label_font(), anchor="lm")
    return canvas.quantize(_COLOURS, dither=Image.Dither.NONE)
