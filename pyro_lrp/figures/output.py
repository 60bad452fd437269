"""The files that ``sample`` and ``figure`` write: their names, pictures, animations and arrays."""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from pyro_lrp import figures
from pyro_lrp.core.errors import UserError, printable
from pyro_lrp.core.files import write_atomically
from pyro_lrp.figures.style import PAIR
from pyro_lrp.figures.words import symbols
from pyro_lrp.latents.views import Strip
from pyro_lrp.models import Draw

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "draw_strip", "file_name", "output_file", "unused", "write_draw", "write_picture", "write_strip"
]  # fmt: skip

_LONGEST = 80  # letters of a file's name


def file_name(stem: str, changed: Mapping[str, Any]) -> str:
    """The name of a picture: pictures that were made with different options have different names.

    Args:
        stem: The beginning of the name.
        changed: The options whose values are not the usual ones.

    >>> file_name("prior", {"n": 9, "context": [0, 1]})
    'prior-n=9-context=0,1.png'
    """
    exact = "".join(f"-{key}={_words(value)}" for key, value in changed.items())
    name = re.sub(r"[^\w.,=+-]", "_", exact)
    if name != exact or len(name) > _LONGEST:
        digest = hashlib.blake2b(exact.encode("utf-8", "surrogatepass"), digest_size=4).hexdigest()
        name = f"{name[:_LONGEST]}-{digest}"
    return f"{stem}{name}.png"


def _words(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(map(str, value))
    return str(value)


def unused(path: Path) -> Path:
    """The path, or with a number if there is such a file already."""
    number = 2
    candidate = path
    while candidate.exists():
        candidate = path.with_name(f"{path.stem}_{number}{path.suffix}")
        number += 1
    return candidate


def output_file(typed: Any, default: Path, endings: tuple[str, ...], *, pair: bool) -> Path:
    """The file to write, in a folder that can be written; says so if it replaces another.

    Args:
        typed: The value of the option ``out``, or None.
        default: The file if there is none.
        endings: The endings that can be written.
        pair: Whether a .png comes with a .pdf, and the other way round.

    Raises:
        UserError: If the ending is none of them, or the folder cannot be written.
    """
    out = default
    if typed is not None:
        out = Path(str(typed)).expanduser()
    if out.suffix.lower() not in endings:
        *others, last = endings
        raise UserError(f"out must end in {', '.join(others)} or {last}, got {out}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(out.with_name(".pyro_lrp"), lambda path: None)
        out.with_name(".pyro_lrp").unlink()
    except OSError as error:
        reason = error.strerror
        raise UserError(f"{out} cannot be written ({reason}): choose another file by out=FILE") from error
    if typed is not None:
        _note_replaced(out, pair=pair)
    return out


def _note_replaced(out: Path, *, pair: bool) -> None:
    """Say which files are about to be replaced."""
    paths = [out]
    if pair and out.suffix.lower() in PAIR:
        paths = [out.with_suffix(suffix) for suffix in PAIR]
    for path in paths:
        if path.exists():
            print(printable(f"{path} is replaced"), file=sys.stderr)


def write_draw(out: Path, draw: Draw) -> list[Path]:
    """Write samples as a grid, or as arrays (``.npz``); returns the files."""
    if out.suffix.lower() == ".npz":
        _write_arrays(out, draw.images, draw.latents)
        return [out]
    return write_picture(out, figures.grid(draw.images))


def write_picture(out: Path, picture: Tensor) -> list[Path]:
    """Write a uint8 picture of shape ``(3, H, W)``; returns the file."""
    figures.save_picture(out, picture)
    return [out]


def write_strip(out: Path, strip: Strip) -> list[Path]:
    """Write a strip: a picture, an animation (``.gif``) or arrays (``.npz``); returns the files."""
    ending = out.suffix.lower()
    if ending == ".npz":
        _write_arrays(out, strip.images.flatten(0, 1), strip.latents.flatten(0, 1))
        return [out]
    if ending == ".gif":
        figures.save_gif(out, strip.images)
        return [out]
    return figures.save_figure(draw_strip(strip), out)


def draw_strip(strip: Strip) -> Figure:
    """Draw a strip as a figure."""
    rows = [symbols(row) for row in strip.rows]
    columns = [symbols(column) for column in strip.columns]
    return figures.strips(strip.images, rows, columns, groups=strip.groups)


def _write_arrays(out: Path, images: Tensor, latents: Tensor) -> None:
    pixels = images.cpu().float().numpy()
    codes = latents.flatten(1).cpu().float().numpy()

    def write(path: Path) -> None:
        with open(path, "wb") as file:
            np.savez(file, images=pixels, latents=codes)

    write_atomically(out, write)
