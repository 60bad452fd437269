"""Poses of people: joints, and what the Variational U-Net sees of them, sticks and body parts (spec 11.1).

All is drawn on the tensors' device, batched, and never waits for it: a pose is thirty numbers until a network
looks at it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["BODY_PARTS", "JOINTS", "body_parts", "complete", "from_coco", "stick_figures"]

JOINTS = (
    "rankle", "rknee", "rhip", "rshoulder", "relbow", "rwrist", "reye",
    "lankle", "lknee", "lhip", "lshoulder", "lelbow", "lwrist", "leye", "cnose",
)  # fmt: skip
BODY_PARTS = (
    "torso", "head", "left upper arm", "left forearm", "right upper arm", "right forearm", "left thigh",
    "right thigh",
)  # fmt: skip
_POINTS = (*JOINTS, "neck")  # the middle between the shoulders
_CHAIN = ("ankle", "knee", "hip", "shoulder", "elbow", "wrist")
_COCO = {"ank": "ankle", "kne": "knee", "sho": "shoulder", "elb": "elbow", "wri": "wrist"}


def complete(joints: Tensor) -> Tensor:
    """Whether both shoulders and both hips are there: ``(N, 15, 2) -> (N,)``. The U-Net ignores other images.

    >>> complete(torch.cat([torch.full((1, 15, 2), 0.5), torch.full((1, 15, 2), -1.0)])).tolist()
    [True, False]
    """
    _, there = _points(joints)
    return there[:, _rows("lshoulder", "rshoulder", "lhip", "rhip")].all(1)


def from_coco(keypoints: Tensor, names: Sequence[str]) -> Tensor:
    """Keypoints of COCO's and OpenPose's 18 as :data:`JOINTS`.

    Args:
        keypoints: (x, y) in shares of the image's side, shape ``(N, K, 2)``; negative where one is missing.
        names: Of the keypoints, such as ``Rsho``, ``RShoulder`` or ``right_shoulder``.

    Returns:
        Shape ``(N, 15, 2)``, both -1 where a joint is missing.

    Raises:
        ValueError: If a joint is not among the names.

    >>> from_coco(torch.rand(2, 15, 2), ["Rank", *JOINTS[1:-1], "nose"]).shape
    torch.Size([2, 15, 2])
    """
    known = {_plain(name): number for number, name in enumerate(names)}
    missing = [joint for joint in JOINTS if joint not in known]
    if missing:
        raise ValueError(f"expected a keypoint for {missing[0]}, and there are {', '.join(map(str, names))}")
    joints = keypoints[:, [known[joint] for joint in JOINTS]]
    return torch.where((joints < 0).any(-1, keepdim=True), -torch.ones_like(joints), joints)


def _plain(name: str) -> str:
    """One of :data:`JOINTS`, of its many spellings."""
    text = re.sub(r"[ _\-]", "", str(name).lower())
    text = re.sub(r"^right", "r", re.sub(r"^left", "l", text))
    if text == "nose":
        return "cnose"
    return text[:1] + _COCO.get(text[1:], text[1:])


def stick_figures(joints: Tensor, size: int) -> Tensor:
    """Poses as images: right limbs in channel 0, left limbs in channel 1, the torso in channel 2.

    Neck to nose is in both of the first at half intensity, nose to either eye in that eye's. What lacks an end
    is not drawn. Lines are ``3 size / 128`` pixels wide, and antialiased.

    Args:
        joints: (x, y) in shares of the side, shape ``(B, 15, 2)``, negative where one is missing.
        size: Side of the images.

    Returns:
        In [0, 1], shape ``(B, 3, size, size)``.

    References:
        Esser et al. (2018), A Variational U-Net, and their code.

    >>> stick_figures(torch.full((2, 15, 2), -1.0), 32).abs().max().item()
    0.0
    """
    points, there = _points(joints)
    limbs = [_limbs(points, there, side, size) for side in "rl"]
    return torch.stack([*limbs, _torso(points, there, size)], 1)


def _limbs(points: Tensor, there: Tensor, side: str, size: int) -> Tensor:
    """One side's lines, ``(B, size, size)``."""
    chain = [f"{side}{joint}" for joint in _CHAIN]
    start, stop = _rows(*chain[:-1], "neck", "cnose"), _rows(*chain[1:], "cnose", f"{side}eye")
    intensity = points.new_tensor([1.0] * (len(chain) - 1) + [127 / 255, 1.0])
    a, b = size * points[:, start, :, None, None], size * points[:, stop, :, None, None]
    along, here = b - a, _centres(points, size) * size - a
    share = (here * along).sum(2, keepdim=True) / along.square().sum(2, keepdim=True).clamp_min(1e-12)
    distance = (here - share.clamp(0, 1) * along).norm(dim=2)
    width = max(1, int(3 * size / 128))
    drawn = (0.5 + width / 2 - distance).clamp(0, 1) * intensity[:, None, None]
    return (drawn * (there[:, start] & there[:, stop])[:, :, None, None]).amax(1)


def _torso(points: Tensor, there: Tensor, size: int) -> Tensor:
    """Filled, ``(B, size, size)``: where a ray to the right crosses its outline an odd number of times."""
    corners = _rows("lhip", "lshoulder", "rshoulder", "rhip")
    a = points[:, corners, :, None, None]
    b = a.roll(-1, 1)
    x, y = _centres(points, size).unbind(2)
    rise = b[:, :, 1] - a[:, :, 1]
    slope = (b[:, :, 0] - a[:, :, 0]) / torch.where(rise == 0, torch.ones_like(rise), rise)
    crossed = (a[:, :, 1] > y) != (b[:, :, 1] > y)
    right_of = x < a[:, :, 0] + (y - a[:, :, 1]) * slope
    inside = (crossed & right_of).sum(1) % 2
    return inside.to(points) * there[:, corners].all(1)[:, None, None]


def body_parts(images: Tensor, joints: Tensor, size: int) -> Tensor:
    """Torso, head, arms and thighs cut out and straightened, ``size x size``: an appearance without a pose.

    A limb is a box half as wide as it is long, the head one as wide as long, from the neck to twice the nose's
    distance. Without a nose the head is a square above the shoulders, without a knee a thigh ends at the bottom
    of the image. What lacks a joint besides is zero. Beyond its border an image goes on as there.

    Args:
        images: Shape ``(B, 3, H, W)``.
        joints: (x, y) in shares of the side, shape ``(B, 15, 2)``, negative where one is missing.
        size: Side of the parts.

    Returns:
        :data:`BODY_PARTS`, one after another: ``(B, 24, size, size)``.

    References:
        Esser et al. (2018), A Variational U-Net, and their code; Heckbert (1989), Fundamentals of Texture
        Mapping and Image Warping, section 2.2.3, for the mapping of a square to a quadrilateral.

    >>> body_parts(torch.rand(2, 3, 64, 64), torch.rand(2, 15, 2), 16).shape
    torch.Size([2, 24, 16, 16])
    """
    corners, there = _quadrilaterals(*_points(joints))
    places = 2.0 * _homography(corners, size) - 1.0
    crops = [
        F.grid_sample(images, places[:, part].to(images), padding_mode="border", align_corners=False)
        * there[:, part, None, None, None]
        for part in range(len(BODY_PARTS))
    ]
    return torch.cat(crops, 1)


def _quadrilaterals(points: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
    """Corners ``(B, 8, 4, 2)`` of all parts, from the top left by the bottom left, and which are there."""
    corners, exist = [points[:, _rows("lshoulder", "lhip", "rhip", "rshoulder")]], []
    exist.append(there[:, _rows("lshoulder", "lhip", "rhip", "rshoulder")].all(1))
    at = dict(zip(_POINTS, points.unbind(1), strict=True))
    known = dict(zip(_POINTS, there.unbind(1), strict=True))
    shoulders = at["lshoulder"] - at["rshoulder"]
    upright = torch.stack([shoulders[:, 1], -shoulders[:, 0]], -1)
    upright = torch.where(upright[:, 1:] > 0, -upright, upright)  # up in the image, whoever looks away
    up = torch.where(known["cnose"][:, None], 2.0 * (at["cnose"] - at["neck"]), upright)
    corners.append(_box(at["neck"] + up, at["neck"], 1.0))
    exist.append(known["neck"])
    for side in "lr":
        for start, stop in ((f"{side}shoulder", f"{side}elbow"), (f"{side}elbow", f"{side}wrist")):
            corners.append(_box(at[start], at[stop], 0.5))
            exist.append(known[start] & known[stop])
    for side in "lr":
        hip, knee = at[f"{side}hip"], at[f"{side}knee"]
        bottom = torch.stack([hip[:, 0], torch.ones_like(hip[:, 0])], -1)
        corners.append(_box(hip, torch.where(known[f"{side}knee"][:, None], knee, bottom), 0.5))
        exist.append(known[f"{side}hip"])
    return torch.stack(corners, 1), torch.stack(exist, 1)


def _box(top: Tensor, bottom: Tensor, width: float) -> Tensor:
    """About a line, as wide as ``width`` of its length: ``(B, 4, 2)``."""
    along = bottom - top
    right = torch.stack([along[:, 1], -along[:, 0]], -1)  # of who looks down the line
    aside = 0.5 * width * right
    return torch.stack([top - aside, bottom - aside, bottom + aside, top + aside], 1)


def _homography(corners: Tensor, size: int) -> Tensor:
    """Where the centres of a grid's cells lie in quadrilaterals: ``(B, P, 4, 2) -> (B, P, size, size, 2)``."""
    top_left, bottom_left, bottom_right, top_right = corners.unbind(2)
    a, b = top_right - bottom_right, bottom_left - bottom_right
    gap = top_left - top_right + bottom_right - bottom_left  # zero for a parallelogram
    whole = _cross(a, b)
    whole = torch.where(whole.abs() < 1e-9, torch.full_like(whole, 1e-9), whole)  # of a flat one any will do
    g, h = (_cross(gap, b) / whole)[..., None], (_cross(a, gap) / whole)[..., None]
    across, down = top_right - top_left + g * top_right, bottom_left - top_left + h * bottom_left
    u, v = (c[..., None] for c in _centres(corners, size).unbind(2))
    g, h, across, down, top_left = (t[:, :, None, None] for t in (g, h, across, down, top_left))
    weight = g * u[0] + h * v[0] + 1.0
    weight = torch.where(weight.abs() < 1e-6, torch.full_like(weight, 1e-6), weight)
    return (across * u[0] + down * v[0] + top_left) / weight


def _cross(a: Tensor, b: Tensor) -> Tensor:
    return a[..., 0] * b[..., 1] - b[..., 0] * a[..., 1]


def _centres(like: Tensor, size: int) -> Tensor:
    """(x, y) of a grid's cells in shares of its side, ``(1, 1, 2, size, size)``."""
    line = (torch.arange(size, dtype=like.dtype, device=like.device) + 0.5) / size
    return torch.stack([line.expand(size, -1), line[:, None].expand(-1, size)])[None, None]


def _points(joints: Tensor) -> tuple[Tensor, Tensor]:
    """Joints and the neck, ``(B, 16, 2)``, and which are there."""
    there = (joints >= 0).all(-1)
    shoulders = _rows("lshoulder", "rshoulder")
    neck = joints[:, shoulders].mean(1, keepdim=True)
    known = there[:, shoulders].all(1, keepdim=True)
    return torch.cat([joints, neck], 1), torch.cat([there, known], 1)


def _rows(*names: str) -> list[int]:
    return [_POINTS.index(name) for name in names]
