"""Drawings of clothed people in given poses, with a coloured marker on head, hands and feet.

A drawing is a function of its joints and of an :class:`~pyro_lrp.people.synthetic.Appearance`, which is sampled
independently of the joints. Lengths are in shares of the image's side.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from pyro_lrp.core.randomness import derive_seed
from pyro_lrp.people.poses import JOINTS
from pyro_lrp.people.synthetic.appearance import MARKERS, PATTERNS, PIXEL, Appearance, Colour

if TYPE_CHECKING:
    from PIL import ImageDraw

__all__ = ["draw_figure", "draw_people"]

Joints = dict[str, np.ndarray]  # (x, y) of each joint by name

_EYE_COLOUR = (40, 36, 36)


def draw_people(joints: Tensor, seed: int, image_size: int) -> Tensor:
    """Draw people in given poses; the appearance in row i depends on ``seed`` and i alone.

    Args:
        joints: Shape ``(N, 15, 2)``, in shares of the image's side, all visible.
        seed: Seed of the appearances.
        image_size: Side of the images, in pixels.

    Returns:
        uint8 of shape ``(N, 3, image_size, image_size)``.

    >>> from pyro_lrp.people.synthetic import random_pose
    >>> pose = torch.from_numpy(random_pose(np.random.default_rng(0)))
    >>> people = draw_people(pose.expand(2, 15, 2), seed=0, image_size=64)
    >>> tuple(people.shape), bool((people[0] == people[1]).all())
    ((2, 3, 64, 64), False)
    """
    shape = (len(joints), 3, image_size, image_size)
    images = np.empty(shape, np.uint8)
    poses = joints.detach().cpu().numpy()
    for row, pose in enumerate(poses):
        row_seed = derive_seed(seed, "drawn figure", row)
        rng = np.random.default_rng(row_seed)
        appearance = Appearance.sample(rng)
        images[row] = draw_figure(pose, appearance, image_size)
    return torch.from_numpy(images)


def draw_figure(joints: np.ndarray, look: Appearance, image_size: int) -> np.ndarray:
    """Draw one person.

    Args:
        joints: :data:`pyro_lrp.people.JOINTS` as (x, y) in shares of the image's side, shape ``(15, 2)``.
        look: The person's appearance.
        image_size: Side of the image, in pixels.

    Returns:
        uint8 of shape ``(3, image_size, image_size)``.
    """
    from PIL import Image, ImageDraw

    # The canvas is finer than the image by this factor, along each side.
    finer = 2
    if image_size <= 64:
        finer = 4
    side = image_size * finer
    background = Image.fromarray(look.background)
    canvas = background.resize((side, side), Image.Resampling.BILINEAR)
    pen = _Pen(ImageDraw.Draw(canvas), side)

    at: Joints = {}
    for name, joint in zip(JOINTS, joints, strict=True):
        at[name] = np.asarray(joint, np.float64)
    head, right_hand, left_hand, *feet = MARKERS
    _draw_hair(pen, at, look, head.radius)
    _draw_legs(pen, at, look)
    _draw_torso(pen, at, look)
    _draw_arms(pen, at, look)

    # Markers come last, the hands on top, so that the body never hides them.
    pen.disc(at[head.joint], head.radius, head.colour)
    _draw_face(pen, at, look, head.radius)
    for marker in (*feet, right_hand, left_hand):
        pen.disc(at[marker.joint], marker.radius, marker.colour)

    image = np.asarray(canvas.reduce(finer))
    return image.transpose(2, 0, 1)


class _Pen:
    """Draws shapes in coordinates relative to the side of the canvas."""

    def __init__(self, draw: ImageDraw.ImageDraw, side: int) -> None:
        self.draw = draw
        self.side = side

    def pixel(self, point: np.ndarray) -> np.ndarray:
        """Pillow's coordinates of a point; these refer to the centres of pixels."""
        return point * self.side - 0.5

    def disc(self, centre: np.ndarray, radius: float, colour: Colour) -> None:
        x, y = self.pixel(centre)
        r = radius * self.side
        box = (x - r, y - r, x + r, y + r)
        self.draw.ellipse(box, fill=colour)

    def area(self, corners: list[np.ndarray], colour: Colour) -> None:
        pixels = [tuple(self.pixel(corner)) for corner in corners]
        self.draw.polygon(pixels, fill=colour)

    def limb(self, start: np.ndarray, end: np.ndarray, half: float, colour: Colour) -> None:
        """A bar with round ends, ``2 * half`` wide."""
        along = (end - start) / _length(end - start)
        across = half * np.array([-along[1], along[0]])
        corners = [
            start + across,
            end + across,
            end - across,
            start - across,
        ]
        self.area(corners, colour)
        self.disc(start, half, colour)
        self.disc(end, half, colour)


def _draw_hair(pen: _Pen, at: Joints, look: Appearance, radius: float) -> None:
    """Hair around the head, behind it: in front of the head it would hide the marker."""
    nose = at["cnose"]
    up = _head_up(at)
    crown = nose + 1.0 * PIXEL * up
    pen.disc(crown, radius + 1.0 * PIXEL, look.hair)
    if look.long_hair:
        tip = nose - 1.1 * radius * up
        pen.limb(nose, tip, radius + 0.6 * PIXEL, look.hair)


def _draw_face(pen: _Pen, at: Joints, look: Appearance, radius: float) -> None:
    """The fringe and the eyes, small enough to leave the centre of the marker unchanged."""
    nose = at["cnose"]
    up = _head_up(at)
    along = np.array([-up[1], up[0]])
    fringe = []
    for angle in np.linspace(0.25 * np.pi, 0.75 * np.pi, 9):
        direction = np.cos(angle) * along + np.sin(angle) * up
        fringe.append(nose + radius * direction)
    pen.area(fringe, look.hair)
    for eye in ("reye", "leye"):
        pen.disc(at[eye], 0.6 * PIXEL, _EYE_COLOUR)


def _draw_legs(pen: _Pen, at: Joints, look: Appearance) -> None:
    thigh_colour = look.trousers
    if look.legwear == "skirt":
        thigh_colour = look.skin
    shin_colour = look.skin
    if look.legwear == "long":
        shin_colour = look.trousers
    for side in "rl":
        hip = at[f"{side}hip"]
        knee = at[f"{side}knee"]
        ankle = at[f"{side}ankle"]
        pen.limb(knee, ankle, 0.85 * look.leg, shin_colour)
        pen.limb(hip, knee, look.leg, thigh_colour)
    if look.legwear == "skirt":
        _draw_skirt(pen, at, look)


def _draw_skirt(pen: _Pen, at: Joints, look: Appearance) -> None:
    right, left = _extended(at["rhip"], at["lhip"], look.waist)
    hem = {}
    for side in "rl":
        hip = at[f"{side}hip"]
        knee = at[f"{side}knee"]
        hem[side] = hip + 0.75 * (knee - hip)
    right_hem, left_hem = _extended(hem["r"], hem["l"], look.leg + 1.0 * PIXEL)
    pen.area([right, left, left_hem, right_hem], look.trousers)


def _draw_arms(pen: _Pen, at: Joints, look: Appearance) -> None:
    sleeve = look.shirt[0]
    arm_colour = look.skin
    if look.long_sleeves:
        arm_colour = sleeve
    for side in "rl":
        shoulder = at[f"{side}shoulder"]
        elbow = at[f"{side}elbow"]
        wrist = at[f"{side}wrist"]
        pen.limb(elbow, wrist, 0.9 * look.arm, arm_colour)
        pen.limb(shoulder, elbow, look.arm, arm_colour)
        half_way = shoulder + 0.5 * (elbow - shoulder)
        pen.limb(shoulder, half_way, 1.15 * look.arm, sleeve)


def _draw_torso(pen: _Pen, at: Joints, look: Appearance) -> None:
    """The neck and the shirt, whose pattern follows the axes of the torso."""
    neck = 0.5 * (at["rshoulder"] + at["lshoulder"])
    pen.limb(neck, at["cnose"], 1.5 * PIXEL, look.skin)
    top = _extended(at["rshoulder"], at["lshoulder"], look.arm)
    bottom = _extended(at["rhip"], at["lhip"], look.waist)
    pen.area([top[0], top[1], bottom[1], bottom[0]], look.shirt[0])
    _Shirt(pen, top, bottom, look).draw_pattern()


class _Shirt:
    """A shirt with coordinates of its own: (0, 0) is the person's right shoulder, (1, 1) the left hip.

    Args:
        pen: Draws on the canvas.
        top: Right and left end of the upper edge.
        bottom: Right and left end of the lower edge.
        look: Appearance with the pattern, its width and colours.
    """

    def __init__(
        self,
        pen: _Pen,
        top: tuple[np.ndarray, np.ndarray],
        bottom: tuple[np.ndarray, np.ndarray],
        look: Appearance,
    ) -> None:
        self.pen = pen
        self.top = top
        self.bottom = bottom
        self.element = look.element
        self.colour = look.shirt[1]
        self.pattern = PATTERNS[look.pattern]
        across = self.place(1, 0.5) - self.place(0, 0.5)
        down = self.place(0.5, 1) - self.place(0.5, 0)
        self.width = np.hypot(*across)
        self.height = np.hypot(*down)

    def place(self, across: float, down: float) -> np.ndarray:
        """A point of the shirt, in the coordinates of the image."""
        upper = self.top[0] + across * (self.top[1] - self.top[0])
        lower = self.bottom[0] + across * (self.bottom[1] - self.bottom[0])
        return upper + down * (lower - upper)

    def draw_pattern(self) -> None:
        columns = max(3, int(self.width / self.element))
        rows = max(3, int(self.height / self.element))
        if self.pattern == "horizontal stripes":
            for row in range(1 - rows % 2, rows, 2):
                self._patch(0, 1, row / rows, (row + 1) / rows)
        elif self.pattern == "vertical stripes":
            for column in range(1 - columns % 2, columns, 2):
                self._patch(column / columns, (column + 1) / columns, 0, 1)
        elif self.pattern == "checks":
            self._draw_checks(columns, rows)
        elif self.pattern == "dots":
            self._draw_dots()

    def _draw_checks(self, columns: int, rows: int) -> None:
        for row in range(rows):
            for column in range(row % 2, columns, 2):
                left = column / columns
                right = (column + 1) / columns
                self._patch(left, right, row / rows, (row + 1) / rows)

    def _draw_dots(self) -> None:
        spacing = 1.4 * self.element
        columns = max(2, int(self.width / spacing))
        rows = max(2, int(self.height / spacing))
        for row in range(rows):
            for column in range(columns):
                centre = self.place((column + 0.5) / columns, (row + 0.5) / rows)
                self.pen.disc(centre, 0.5 * self.element, self.colour)

    def _patch(self, left: float, right: float, upper: float, lower: float) -> None:
        corners = [
            self.place(left, upper),
            self.place(right, upper),
            self.place(right, lower),
            self.place(left, lower),
        ]
        self.pen.area(corners, self.colour)


def _head_up(at: Joints) -> np.ndarray:
    """The unit vector to the top of the head, perpendicular to the line between the eyes."""
    x, y = at["leye"] - at["reye"]
    return np.array([y, -x]) / _length(np.array([x, y]))


def _extended(right: np.ndarray, left: np.ndarray, length: float) -> tuple[np.ndarray, np.ndarray]:
    """Both ends of a line, each moved outwards by ``length``."""
    step = length * (left - right) / _length(left - right)
    return right - step, left + step


def _length(vector: np.ndarray) -> float:
    """The length of a vector, at least 1e-6 so that it can be divided by."""
    return max(1e-6, float(np.hypot(*vector)))
