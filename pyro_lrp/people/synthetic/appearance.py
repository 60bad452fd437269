"""The appearance of a synthetic person: clothes, skin, hair, background, and the coloured markers.

Lengths are in shares of the image's side, so that the same figure can be drawn at any size.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import numpy as np

__all__ = ["MARKERS", "PATTERNS", "PIXEL", "Appearance", "Colour", "Marker"]

Colour = tuple[int, int, int]

PATTERNS = (
    "plain",
    "horizontal stripes",
    "vertical stripes",
    "checks",
    "dots",
)
PIXEL = 1 / 64  # the sizes of all parts were chosen in pixels of an image of 64x64

_MAX_SATURATION = 0.42  # limit for all colours except those of the markers
_LEGWEAR = ("long", "short", "skirt")
_SKIN_HUE = (0.055, 0.075)
_SKIN_SATURATION = (0.25, 0.42)
_SKIN_VALUE = (0.4, 0.85)


@dataclass(frozen=True)
class Marker:
    """A disc at a joint, in a colour that nothing else in the image has.

    Attributes:
        name: Such as ``"head"``.
        joint: The joint at its centre.
        colour: Saturated RGB colour, 0 to 255.
        radius: In shares of the image's side.
    """

    name: str
    joint: str
    colour: Colour
    radius: float


MARKERS = (
    Marker("head", "cnose", (255, 225, 0), 4.8 * PIXEL),
    Marker("right hand", "rwrist", (255, 0, 0), 2.3 * PIXEL),
    Marker("left hand", "lwrist", (0, 64, 255), 2.3 * PIXEL),
    Marker("right foot", "rankle", (255, 0, 255), 2.6 * PIXEL),
    Marker("left foot", "lankle", (0, 255, 100), 2.6 * PIXEL),
)


@dataclass(frozen=True)
class Appearance:
    """Everything visible of a figure except its pose.

    Attributes:
        pattern: Pattern of the shirt, an index of :data:`PATTERNS`.
        shirt: Two colours of clearly different lightness; the sleeves have the first.
        element: Width of the pattern's elements, in shares of the image's side: at least 3 pixels of 64.
        long_sleeves: Whether sleeves reach the wrists; otherwise they end half way to the elbows.
        legwear: ``"long"`` or ``"short"`` trousers, or a ``"skirt"``.
        trousers: Colour of trousers or skirt.
        skin: Colour of bare limbs.
        hair: Colour of the hair.
        long_hair: Whether the hair reaches the shoulders.
        arm: Half the thickness of the arms.
        leg: Half the thickness of the legs.
        waist: Distance by which the torso extends beyond the hip joints.
        background: Colours of the image's four corners, 2 x 2 x 3, interpolated between them.
    """

    pattern: int
    shirt: tuple[Colour, Colour]
    element: float
    long_sleeves: bool
    legwear: str
    trousers: Colour
    skin: Colour
    hair: Colour
    long_hair: bool
    arm: float
    leg: float
    waist: float
    background: np.ndarray

    @classmethod
    def sample(cls, rng: np.random.Generator) -> Appearance:
        """Draw a random appearance; the pattern is the generator's first draw."""
        # The order of the draws determines the images: do not reorder them.
        pattern = int(rng.integers(len(PATTERNS)))
        shirt = _shirt(rng)
        return cls(
            pattern=pattern,
            shirt=shirt,
            element=rng.uniform(3.0, 4.0) * PIXEL,
            long_sleeves=rng.random() < 0.5,
            legwear=_LEGWEAR[rng.integers(3)],
            trousers=_muted(rng, 0.15, 0.85),
            skin=_skin(rng),
            hair=_muted(rng, 0.1, 0.7),
            long_hair=rng.random() < 0.4,
            arm=rng.uniform(1.2, 2.0) * PIXEL,
            leg=rng.uniform(1.6, 2.6) * PIXEL,
            waist=rng.uniform(1.0, 2.2) * PIXEL,
            background=_background(rng),
        )


def _shirt(rng: np.random.Generator) -> tuple[Colour, Colour]:
    """A light and a dark colour, in random order."""
    light = _muted(rng, 0.72, 0.88)
    dark = _muted(rng, 0.15, 0.38)
    if rng.random() < 0.5:
        return light, dark
    return dark, light


def _skin(rng: np.random.Generator) -> Colour:
    hue = rng.uniform(*_SKIN_HUE)
    saturation = rng.uniform(*_SKIN_SATURATION)
    value = rng.uniform(*_SKIN_VALUE)
    return _rgb(hue, saturation, value)


def _background(rng: np.random.Generator) -> np.ndarray:
    """Colours of the corners, uint8 of shape 2 x 2 x 3: uniform, or a gradient in a random direction."""
    first = _muted(rng, 0.3, 0.85)
    second = _muted(rng, 0.3, 0.85)
    angle = rng.uniform(0, 2 * np.pi)
    x = np.cos(angle)
    y = np.sin(angle)
    corners = np.array([[-x - y, x - y], [y - x, x + y]])
    share = 0.5 + 0.5 * corners / (abs(x) + abs(y))
    share *= rng.random() < 0.5  # zero: a uniform background
    difference = np.array(second) - first
    blended = first + share[..., None] * difference
    return np.rint(blended).astype(np.uint8)


def _muted(rng: np.random.Generator, darkest: float, lightest: float) -> Colour:
    """A colour of any hue, far less saturated than a marker."""
    hue = rng.random()
    saturation = rng.uniform(0.05, _MAX_SATURATION)
    value = rng.uniform(darkest, lightest)
    return _rgb(hue, saturation, value)


def _rgb(hue: float, saturation: float, value: float) -> Colour:
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)
