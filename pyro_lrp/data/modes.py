"""Image files of every mode as 8-bit grey or RGB: deep, transparent, with a palette, or in printers' colours.

Each function says what it did to an image, in words that complete the sentence "3 of 12 images ...".
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import numpy as np

from pyro_lrp.core.errors import UserError

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["LARGE", "MOST_PIXELS", "Refused", "background_colour", "eight_bit", "is_grey"]

MOST_PIXELS = 2**26  # of an image, 67 million; a small file may have any number
LARGE = 2**22  # pixels of an image that is decoded when no other one of such a size is
_GREY = ("1", "L", "LA", "La", "I", "I;16", "I;16L", "I;16B", "I;16N", "F")  # Pillow's modes without colour
_TRANSPARENT = ("LA", "La", "PA", "RGBA", "RGBa")
_TURNED = range(2, 9)  # values of EXIF's orientation
_ORIENTATION = 0x0112
_MOVING = ("GIF", "TIFF", "WEBP", "PNG")  # formats that hold several frames
_BAD_EXIF = (OSError, ValueError, SyntaxError, TypeError, KeyError, struct.error)
Colour = tuple[int, int, int]


class Refused(Exception):
    """An image that does not satisfy the request.

    Args:
        kind: A statement that holds for all images refused for the same reason.
        detail: An addition to the name of this image.
    """

    def __init__(self, kind: str, detail: str = "") -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail


def background_colour(name: str) -> Colour:
    """The colour of ``data.background``, such as white, black or #808080.

    Raises:
        UserError: If there is no such colour.
    """
    from PIL import ImageColor

    try:
        red, green, blue, *_ = ImageColor.getrgb(str(name))
    except ValueError as error:
        raise UserError(
            f"data.background must be a colour such as white, black or #808080, got {name!r}"
        ) from error
    return red, green, blue


def is_grey(image: Image.Image) -> bool:
    """Whether the mode of an image has no colour."""
    return image.mode in _GREY


def eight_bit(
    image: Image.Image,
    mode: str,
    background: Colour = (255, 255, 255),
    *,
    turn: bool = True,
) -> tuple[Image.Image, list[str]]:
    """An image, upright, with 8 bits for grey or for each of RGB.

    Grey of 16 bits is scaled from its full range. Floats must lie in [0, 1].

    Args:
        image: An opened image of any mode.
        mode: ``"L"`` or ``"RGB"``.
        background: The colour on which transparent images are composed.
        turn: Whether the image is turned as its EXIF data say.

    Returns:
        The image, and what was done to it; nothing for ordinary images of 8 bits.

    Raises:
        Refused: If the range of the pixels is not known, or there are more than :data:`MOST_PIXELS`.
    """
    if image.width * image.height > MOST_PIXELS:
        raise Refused(f"have more than {MOST_PIXELS:,} pixels", f" ({image.width}x{image.height})")
    changes = []
    file_format = image.format  # later images do not know it
    if file_format in _MOVING and getattr(image, "is_animated", False):
        changes.append("have several frames, of which the first is taken")
    is_turned = False
    if turn:
        image, is_turned = _upright(image)
    if is_turned:
        changes.append("are turned upright, as their EXIF data say")
    if image.mode.startswith(("I", "F")):
        image = _shallow(image, file_format)
        changes.append("are of more than 8 bits, and are scaled to 8")
    if _is_transparent(image):
        image = _composed(image, background)
        changes.append("are transparent, and are composed on data.background")
    elif image.mode in ("P", "PA"):
        changes.append("have a palette, and are converted")
        image = image.convert("RGB")
    elif image.mode not in ("1", "L", "RGB"):
        changes.append(f"are {image.mode}, and are converted")
        image = image.convert("RGB")
    return image.convert(mode), changes


def _upright(image: Image.Image) -> tuple[Image.Image, bool]:
    """The image as its EXIF data want it shown, and whether it was turned; damaged EXIF data say nothing."""
    from PIL import ImageOps

    try:
        is_turned = image.getexif().get(_ORIENTATION) in _TURNED
        return ImageOps.exif_transpose(image), is_turned
    except _BAD_EXIF:
        return image, False


def _shallow(image: Image.Image, file_format: str | None) -> Image.Image:
    """An image of 8 bits from one of 16 bits or of floats."""
    from PIL import Image

    pixels = np.asarray(image)
    if image.mode == "F":
        if not ((pixels >= 0) & (pixels <= 1)).all():
            raise Refused(
                "are floats outside of [0, 1], whose range is not known: convert them to 8 or 16 bits"
            )
        return Image.fromarray(np.rint(pixels * 255).astype(np.uint8))
    # some releases of Pillow open a PNG of 16 bits as one of 32
    is_16_bit = image.mode.startswith("I;16") or file_format in ("PNG", "PPM")
    if not is_16_bit:
        raise Refused("are of 32 bits, whose range is not known: convert them to 8 or 16 bits")
    return Image.fromarray(np.rint(pixels / 257).astype(np.uint8))


def _is_transparent(image: Image.Image) -> bool:
    return image.mode in _TRANSPARENT or "transparency" in image.info


def _composed(image: Image.Image, background: Colour) -> Image.Image:
    from PIL import Image

    with_alpha = image.convert("RGBA")
    ground = Image.new("RGBA", image.size, (*background, 255))
    return Image.alpha_composite(ground, with_alpha).convert("RGB")
