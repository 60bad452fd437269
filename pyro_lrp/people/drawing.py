"""Drawings of clothed people in given poses, whose head, hands and feet carry colours that nothing else has.

A drawing is a function of its joints and of an :class:`Appearance`, which is drawn without looking at them.
Lengths are in shares of the image's side, so that the same figure can be drawn at any size.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from pyro_lrp.people.poses import JOINTS

__all__ = ["MARKERS", "PATTERNS", "Appearance", "Marker", "draw_figure"]

Colour = tuple[int, int, int]
PATTERNS = ("plain", "horizontal stripes", "vertical stripes", "checks", "dots")
_PIXEL = 1 / 64  # sizes below were chosen in pixels of an image of 64x64
_SATURATION = 0.42  # of all colours but the markers', at most
_SKIN = (0.055, 0.075), (0.25, 0.42), (0.4, 0.85)  # ranges of hue, saturation and value


@dataclass(frozen=True)
class Marker:
    """A disc of a colour of its own.

    Attributes:
        name: Such as ``"head"``.
        joint: The joint at its centre.
        colour: Saturated, 0 to 255.
        radius: In shares of the image's side.
    """

    name: str
    joint: str
    colour: Colour
    radius: float


MARKERS = (
    Marker("head", "cnose", (255, 225, 0), 4.8 * _PIXEL),
    Marker("right hand", "rwrist", (255, 0, 0), 2.3 * _PIXEL),
    Marker("left hand", "lwrist", (0, 64, 255), 2.3 * _PIXEL),
    Marker("right foot", "rankle", (255, 0, 255), 2.6 * _PIXEL),
    Marker("left foot", "lankle", (0, 255, 100), 2.6 * _PIXEL),
)


@dataclass(frozen=True)
class Appearance:
    """What a figure looks like, apart from its pose.

    Attributes:
        pattern: Of the shirt, an index of :data:`PATTERNS`.
        shirt: Its two colours, of clearly different lightness; the sleeves have the first.
        element: Width of the pattern's elements, in shares of the image's side: at least 3 pixels of 64.
        long_sleeves: To the wrists, else half way to the elbows.
        legwear: ``"long"`` or ``"short"`` trousers, or a ``"skirt"``.
        trousers: Their colour.
        skin: Colour of bare limbs.
        hair: Its colour.
        long_hair: Down to the shoulders.
        arm: Half the arms' thickness.
        leg: Half the legs' thickness.
        waist: How far the torso reaches beyond the hips' joints.
        background: Colours of the image's four corners, 2 x 2 x 3; the rest lies between them.
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
        """A random appearance; the pattern is the generator's first draw."""
        pattern = int(rng.integers(len(PATTERNS)))
        light, dark = _muted(rng, 0.72, 0.88), _muted(rng, 0.15, 0.38)
        return cls(
            pattern=pattern,
            shirt=(light, dark) if rng.random() < 0.5 else (dark, light),
            element=rng.uniform(3.0, 4.0) * _PIXEL,
            long_sleeves=rng.random() < 0.5,
            legwear=("long", "short", "skirt")[rng.integers(3)],
            trousers=_muted(rng, 0.15, 0.85),
            skin=_colour(*(rng.uniform(*bounds) for bounds in _SKIN)),
            hair=_muted(rng, 0.1, 0.7),
            long_hair=rng.random() < 0.4,
            arm=rng.uniform(1.2, 2.0) * _PIXEL,
            leg=rng.uniform(1.6, 2.6) * _PIXEL,
            waist=rng.uniform(1.0, 2.2) * _PIXEL,
            background=_background(rng),
        )


def draw_figure(joints: np.ndarray, look: Appearance, image_size: int) -> np.ndarray:
    """One person.

    Args:
        joints: :data:`pyro_lrp.people.poses.JOINTS` as (x, y) in shares of the image's side, shape ``(15, 2)``.
        look: What the person looks like.
        image_size: Side of the image, in pixels.

    Returns:
        uint8 of shape ``(3, image_size, image_size)``.
    """
    finer = 4 if image_size <= 64 else 2  # pixels of the canvas for one of the image, along each side
    side = image_size * finer
    canvas = Image.fromarray(look.background).resize((side, side), Image.Resampling.BILINEAR)
    pen = _Pen(ImageDraw.Draw(canvas), side)
    at = {name: np.asarray(joint, np.float64) for name, joint in zip(JOINTS, joints, strict=True)}
    head = MARKERS[0]
    _hair(pen, at, look, head.radius)
    _legs(pen, at, look)
    _torso(pen, at, look)
    _arms(pen, at, look)
    # The markers come last, hands over the rest, so that a body never hides them.
    for marker in (head, *MARKERS[3:], *MARKERS[1:3]):
        pen.disc(at[marker.joint], marker.radius, marker.colour)
        if marker is head:
            _face(pen, at, look, head.radius)
    return np.asarray(canvas.reduce(finer)).transpose(2, 0, 1)


class _Pen:
    """Draws shapes given in shares of the canvas's side."""

    def __init__(self, draw: ImageDraw.ImageDraw, side: int) -> None:
        self.draw, self.side = draw, side

    def disc(self, centre: np.ndarray, radius: float, colour: Colour) -> None:
        x, y = centre * self.side - 0.5  # Pillow's coordinates are those of pixels' centres
        r = radius * self.side
        self.draw.ellipse((x - r, y - r, x + r, y + r), fill=colour)

    def area(self, corners: list[np.ndarray], colour: Colour) -> None:
        self.draw.polygon([tuple(corner * self.side - 0.5) for corner in corners], fill=colour)

    def limb(self, start: np.ndarray, end: np.ndarray, half: float, colour: Colour) -> None:
        """A bar with round ends."""
        along = (end - start) / max(1e-6, float(np.hypot(*(end - start))))
        across = half * np.array([-along[1], along[0]])
        self.area([start + across, end + across, end - across, start - across], colour)
        self.disc(start, half, colour)
        self.disc(end, half, colour)


def _hair(pen: _Pen, at: dict[str, np.ndarray], look: Appearance, radius: float) -> None:
    """Hair around the head, behind it: were it before the head, it would hide the marker."""
    nose, up = at["cnose"], _up(at)
    pen.disc(nose + 1.0 * _PIXEL * up, radius + 1.0 * _PIXEL, look.hair)
    if look.long_hair:
        pen.limb(nose, nose - 1.1 * radius * up, radius + 0.6 * _PIXEL, look.hair)


def _face(pen: _Pen, at: dict[str, np.ndarray], look: Appearance, radius: float) -> None:
    """The hair's fringe and the eyes, small enough that the marker's centre stays where it is."""
    up = _up(at)
    along = np.array([-up[1], up[0]])
    bow = [np.cos(angle) * along + np.sin(angle) * up for angle in np.linspace(0.25 * np.pi, 0.75 * np.pi, 9)]
    pen.area([at["cnose"] + radius * direction for direction in bow], look.hair)
    for eye in ("reye", "leye"):
        pen.disc(at[eye], 0.6 * _PIXEL, (40, 36, 36))


def _legs(pen: _Pen, at: dict[str, np.ndarray], look: Appearance) -> None:
    for side in "rl":
        hip, knee, ankle = at[f"{side}hip"], at[f"{side}knee"], at[f"{side}ankle"]
        pen.limb(knee, ankle, 0.85 * look.leg, look.trousers if look.legwear == "long" else look.skin)
        pen.limb(hip, knee, look.leg, look.skin if look.legwear == "skirt" else look.trousers)
    if look.legwear == "skirt":
        right, left = _outwards(at["rhip"], at["lhip"], look.waist)
        hem = {side: at[f"{side}hip"] + 0.75 * (at[f"{side}knee"] - at[f"{side}hip"]) for side in "rl"}
        right_hem, left_hem = _outwards(hem["r"], hem["l"], look.leg + 1.0 * _PIXEL)
        pen.area([right, left, left_hem, right_hem], look.trousers)


def _arms(pen: _Pen, at: dict[str, np.ndarray], look: Appearance) -> None:
    for side in "rl":
        shoulder, elbow, wrist = at[f"{side}shoulder"], at[f"{side}elbow"], at[f"{side}wrist"]
        pen.limb(elbow, wrist, 0.9 * look.arm, look.shirt[0] if look.long_sleeves else look.skin)
        pen.limb(shoulder, elbow, look.arm, look.shirt[0] if look.long_sleeves else look.skin)
        pen.limb(shoulder, shoulder + 0.5 * (elbow - shoulder), 1.15 * look.arm, look.shirt[0])


def _torso(pen: _Pen, at: dict[str, np.ndarray], look: Appearance) -> None:
    """The neck and the shirt, whose pattern follows the torso's own axes."""
    pen.limb(0.5 * (at["rshoulder"] + at["lshoulder"]), at["cnose"], 1.5 * _PIXEL, look.skin)
    top = _outwards(at["rshoulder"], at["lshoulder"], look.arm)
    bottom = _outwards(at["rhip"], at["lhip"], look.waist)

    def place(across: float, down: float) -> np.ndarray:
        """A point of the shirt: (0, 0) is the person's right shoulder, (1, 1) the left hip."""
        upper, lower = (ends[0] + across * (ends[1] - ends[0]) for ends in (top, bottom))
        return upper + down * (lower - upper)

    def patch(left: float, right: float, upper: float, lower: float) -> None:
        corners = (left, upper), (right, upper), (right, lower), (left, lower)
        pen.area([place(*corner) for corner in corners], look.shirt[1])

    pen.area([top[0], top[1], bottom[1], bottom[0]], look.shirt[0])
    width, height = np.hypot(*(place(1, 0.5) - place(0, 0.5))), np.hypot(*(place(0.5, 1) - place(0.5, 0)))
    columns, rows = (max(3, int(length / look.element)) for length in (width, height))
    pattern = PATTERNS[look.pattern]
    if pattern == "horizontal stripes":
        for row in range(1 - rows % 2, rows, 2):
            patch(0, 1, row / rows, (row + 1) / rows)
    elif pattern == "vertical stripes":
        for column in range(1 - columns % 2, columns, 2):
            patch(column / columns, (column + 1) / columns, 0, 1)
    elif pattern == "checks":
        for row in range(rows):
            for column in range(row % 2, columns, 2):
                patch(column / columns, (column + 1) / columns, row / rows, (row + 1) / rows)
    elif pattern == "dots":
        columns, rows = (max(2, int(length / (1.4 * look.element))) for length in (width, height))
        for row in range(rows):
            for column in range(columns):
                pen.disc(place((column + 0.5) / columns, (row + 0.5) / rows), 0.5 * look.element, look.shirt[1])


def _up(at: dict[str, np.ndarray]) -> np.ndarray:
    """The direction of the head's top, of length 1: at right angles to the line between the eyes."""
    x, y = at["leye"] - at["reye"]
    return np.array([y, -x]) / max(1e-6, float(np.hypot(x, y)))


def _outwards(right: np.ndarray, left: np.ndarray, length: float) -> tuple[np.ndarray, np.ndarray]:
    """Both ends of a line, each moved away from the other."""
    step = length * (left - right) / max(1e-6, float(np.hypot(*(left - right))))
    return right - step, left + step


def _background(rng: np.random.Generator) -> np.ndarray:
    """One colour, or two that pass into each other along a random direction, as corners: uint8, 2 x 2 x 3."""
    first, second = _muted(rng, 0.3, 0.85), _muted(rng, 0.3, 0.85)
    angle = rng.uniform(0, 2 * np.pi)
    x, y = np.cos(angle), np.sin(angle)
    share = 0.5 + 0.5 * np.array([[-x - y, x - y], [y - x, x + y]]) / (abs(x) + abs(y))
    share *= rng.random() < 0.5  # else plain
    return np.rint(first + share[..., None] * (np.array(second) - first)).astype(np.uint8)


def _muted(rng: np.random.Generator, darkest: float, lightest: float) -> Colour:
    """Any hue, far less saturated than a marker."""
    return _colour(rng.random(), rng.uniform(0.05, _SATURATION), rng.uniform(darkest, lightest))


def _colour(hue: float, saturation: float, value: float) -> Colour:
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)
