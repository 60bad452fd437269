"""Pictures of runs for a page: read with bounds, made smaller, and encoded anew."""

from __future__ import annotations

import base64
import io
from pathlib import Path

__all__ = ["data_uri", "thumbnail"]

_LARGEST_FILE = 2**25  # bytes
_MOST_PIXELS = 2**24  # of a picture that is decoded


def thumbnail(path: Path, side: int = 640) -> bytes | None:
    """A picture as PNG of at most ``side`` pixels a side; None if there is none that can be read.

    The file is not trusted: only PNG of bounded size is decoded, and nothing but its pixels is kept.
    """
    from PIL import Image

    from pyro_lrp.data.source import unreadable_errors

    try:
        if not path.is_file() or path.stat().st_size > _LARGEST_FILE:
            return None
        with Image.open(path, formats=["PNG"]) as picture:
            if picture.width * picture.height > _MOST_PIXELS:
                return None
            pixels = picture.convert("RGB")
    except unreadable_errors():
        return None
    pixels.thumbnail((side, side))
    file = io.BytesIO()
    pixels.save(file, format="PNG", optimize=True)
    return file.getvalue()


def data_uri(png: bytes) -> str:
    """A picture as an address that holds it."""
    text = base64.b64encode(png).decode("ascii")
    return f"data:image/png;base64,{text}"
