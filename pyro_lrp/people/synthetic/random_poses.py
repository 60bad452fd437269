"""Random poses of synthetic people."""

from __future__ import annotations

import math

import numpy as np

from pyro_lrp.people.poses import JOINTS
from pyro_lrp.people.synthetic.appearance import MARKERS

__all__ = ["random_pose"]

_MARGIN = 0.055  # around all joints except the head's, in shares of the side: more than a foot's radius
_HAIR = 2.2 / 64  # extent of the hair around the head
_SIDES = (("r", -1), ("l", 1))  # a person's right is on the viewer's left


def random_pose(rng: np.random.Generator) -> np.ndarray:
    """Joints of a standing, dancing or waving person of random size, all inside the image.

    Returns:
        float32 of shape ``(15, 2)``: :data:`~pyro_lrp.people.JOINTS` as (x, y) in shares of the image's side.
    """
    # The order of the draws determines the poses: do not reorder them.
    half_hips = rng.uniform(0.065, 0.08)
    half_shoulders = rng.uniform(0.1, 0.125)
    lean = rng.uniform(-12, 12)
    sway = rng.uniform(-6, 6)
    tilt = rng.uniform(-14, 14)

    # The origin is the middle of the hips.
    neck = _bone(0.25, 180 + lean)
    at = {"cnose": neck + _bone(0.125, 180 + lean + 0.5 * tilt)}
    for side, sign in _SIDES:
        hip = half_hips * sign * _bone(1.0, 90 + sway)
        shoulder = neck + half_shoulders * sign * _bone(1.0, 90 + lean)
        at |= _random_leg(rng, hip, side, sign)
        at |= _random_arm(rng, shoulder, side, sign)

    scale = rng.uniform(0.75, 1.0)
    joints = scale * np.stack([at.get(name, at["cnose"]) for name in JOINTS])
    for side, sign in _SIDES:  # not scaled: the head is a marker of fixed size
        aside = sign * _bone(0.028, 90 + lean + tilt)
        above = _bone(0.012, 180 + lean + tilt)
        joints[JOINTS.index(f"{side}eye")] += aside + above
    return _random_place(joints, rng).astype(np.float32)


def _bone(length: float, degrees: float) -> np.ndarray:
    """A vector straight down, turned anticlockwise: at 90 degrees it points to the viewer's right."""
    angle = math.radians(degrees)
    return length * np.array([math.sin(angle), math.cos(angle)])


def _random_leg(rng: np.random.Generator, hip: np.ndarray, side: str, sign: int) -> dict[str, np.ndarray]:
    thigh = rng.uniform(-3, 45)
    shin = rng.uniform(-14, 15 + 0.5 * thigh)
    knee = hip + _bone(0.18, sign * thigh)
    ankle = knee + _bone(0.18, sign * shin)
    return {f"{side}hip": hip, f"{side}knee": knee, f"{side}ankle": ankle}


def _random_arm(rng: np.random.Generator, shoulder: np.ndarray, side: str, sign: int) -> dict[str, np.ndarray]:
    arm = rng.uniform(-8, 165)
    elbow = shoulder + _bone(0.14, sign * arm)
    forearm = min(arm + rng.uniform(-115, 115), 215)
    wrist = elbow + _bone(0.135, sign * forearm)
    return {
        f"{side}shoulder": shoulder,
        f"{side}elbow": elbow,
        f"{side}wrist": wrist,
    }


def _random_place(joints: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The figure moved to a random place near the middle, with a margin on all sides."""
    nose = joints[JOINTS.index("cnose")]
    head = MARKERS[0].radius + _HAIR - _MARGIN  # the head's extent beyond the margin of every joint
    low = np.minimum(joints.min(0), nose - head)
    high = np.maximum(joints.max(0), nose + head)
    least = _MARGIN - low
    most = 1 - _MARGIN - high
    reach = np.minimum(0.5 * (most - least), 0.05)
    middle = 0.5 * (least + most)
    return joints + middle + rng.uniform(-1, 1, size=2) * reach
