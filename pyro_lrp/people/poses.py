"""Poses of people: joints, and the stick figures and body parts that the Variational U-Net sees (spec 11.1).

Everything is drawn on the device of the tensors, batched and without synchronization: a pose remains thirty
numbers until a network sees it.
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
    "torso",
    "head",
    "left upper arm",
    "left forearm",
    "right upper arm",
    "right forearm",
    "left thigh",
    "right thigh",
)

_POINTS = (*JOINTS, "neck")  # the neck is the middle between the shoulders
_TORSO = ("lshoulder", "lhip", "rhip", "rshoulder")  # its corners, counterclockwise from the top left
_CHAIN = ("ankle", "knee", "hip", "shoulder", "elbow", "wrist")
_NECK_INTENSITY = 127 / 255
_COCO = {
    "ank": "ankle",
    "kne": "knee",
    "sho": "shoulder",
    "elb": "elbow",
    "wri": "wrist",
}


def complete(joints: Tensor) -> Tensor:
    """Whether both shoulders and both hips are present: ``(N, 15, 2) -> (N,)``. The U-Net ignores other images.

    >>> complete(torch.cat([torch.full((1, 15, 2), 0.5), torch.full((1, 15, 2), -1.0)])).tolist()
    [True, False]
    """
    _, present = _points(joints)
    return _at(present, _TORSO).all(1)


def from_coco(keypoints: Tensor, names: Sequence[str]) -> Tensor:
    """Select :data:`JOINTS` from the 18 keypoints of COCO and OpenPose.

    Args:
        keypoints: (x, y) in shares of the image's side, shape ``(N, K, 2)``; negative where one is missing.
        names: Names of the keypoints, such as ``Rsho``, ``RShoulder`` or ``right_shoulder``.

    Returns:
        Shape ``(N, 15, 2)``, both -1 where a joint is missing.

    Raises:
        ValueError: If a joint is not among the names.

    >>> from_coco(torch.rand(2, 15, 2), ["Rank", *JOINTS[1:-1], "nose"]).shape
    torch.Size([2, 15, 2])
    """
    column = {_joint_name(name): number for number, name in enumerate(names)}
    lacking = [joint for joint in JOINTS if joint not in column]
    if lacking:
        available = ", ".join(map(str, names))
        raise ValueError(f"expected a keypoint for {lacking[0]}, and there are {available}")
    joints = keypoints[:, [column[joint] for joint in JOINTS]]
    missing = (joints < 0).any(-1, keepdim=True)
    return torch.where(missing, -torch.ones_like(joints), joints)


def _joint_name(spelling: str) -> str:
    """The name in :data:`JOINTS` for one of its many spellings."""
    text = re.sub(r"[ _\-]", "", str(spelling).lower())
    text = re.sub(r"^left", "l", text)
    text = re.sub(r"^right", "r", text)
    if text == "nose":
        return "cnose"
    side = text[:1]
    joint = text[1:]
    return side + _COCO.get(joint, joint)


# ---------------------------------------------------------------------
# stick figures
# ---------------------------------------------------------------------


def stick_figures(joints: Tensor, size: int) -> Tensor:
    """Draw poses as images: right limbs in channel 0, left limbs in channel 1, the torso in channel 2.

    The line from neck to nose is in both of the first channels at half intensity; the line from the nose to an
    eye is in the channel of that eye, where both eyes are present. A line that lacks an end is not drawn. Lines
    are ``3 size / 128`` pixels wide, and antialiased.

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
    points, present = _points(joints)
    channels = [
        _limbs(points, present, "r", size),
        _limbs(points, present, "l", size),
        _torso(points, present, size),
    ]
    return torch.stack(channels, 1)


def _limbs(points: Tensor, present: Tensor, side: str, size: int) -> Tensor:
    """The lines of one side of the body, ``(B, size, size)``."""
    chain = [f"{side}{joint}" for joint in _CHAIN]
    start = [*chain[:-1], "neck", "cnose"]
    stop = [*chain[1:], "cnose", f"{side}eye"]
    intensity = points.new_ones(len(start), 1, 1)
    intensity[start.index("neck")].fill_(_NECK_INTENSITY)

    # The distance of each pixel from each line
    a = size * _at(points, start)[..., None, None]
    b = size * _at(points, stop)[..., None, None]
    along = b - a
    here = _cell_centres(points, size) * size - a
    length = along.square().sum(2, keepdim=True).clamp_min(1e-12)
    share = (here * along).sum(2, keepdim=True) / length
    nearest = share.clamp(0, 1) * along
    distance = (here - nearest).square().sum(2).sqrt()  # norm(dim=2) takes fifty times as long on a CPU

    width = max(1, int(3 * size / 128))
    drawn = (0.5 + width / 2 - distance).clamp(0, 1) * intensity
    both_ends = _at(present, start) & _at(present, stop)
    both_ends[:, -1] &= _at(present, ["reye", "leye"]).all(1)
    return (drawn * both_ends[:, :, None, None]).amax(1)


def _torso(points: Tensor, present: Tensor, size: int) -> Tensor:
    """The filled torso, ``(B, size, size)``, by the even-odd rule with rays to the right."""
    corners = ["lhip", "lshoulder", "rshoulder", "rhip"]
    a = _at(points, corners)[..., None, None]
    b = a.roll(-1, 1)
    x, y = _cell_centres(points, size).unbind(2)
    ax, ay = a.unbind(2)
    bx, by = b.unbind(2)
    rise = by - ay
    divisor = torch.where(rise == 0, torch.ones_like(rise), rise)
    slope = (bx - ax) / divisor
    crossed = (ay > y) != (by > y)
    left_of_edge = x < ax + (y - ay) * slope
    inside = (crossed & left_of_edge).sum(1) % 2
    whole = _at(present, corners).all(1)
    return inside.to(points) * whole[:, None, None]


# ---------------------------------------------------------------------
# body parts
# ---------------------------------------------------------------------


def body_parts(images: Tensor, joints: Tensor, size: int) -> Tensor:
    """Cut out and straighten torso, head, arms and thighs, ``size x size``: the appearance without the pose.

    They lie as the published network sees them. The torso stands upright, the person's left on the left of the
    crop. The head stands upright and is mirrored; without a nose it lies as the torso does. Limbs lie on their
    side, from shoulder, elbow or hip on the left to elbow, wrist or knee on the right.

    A limb is a box half as wide as it is long. The head is a box as wide as it is long, from the neck to twice
    the distance of the nose. Without a nose the head is a square above the shoulders; without a knee a thigh
    ends at the bottom of the image. A part that lacks any other joint is zero. Beyond its border an image is
    continued with the pixels of the border.

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
    points, present = _points(joints)
    boxes = _Boxes(points, present)
    corners = torch.stack(boxes.corners, 1)
    exists = torch.stack(boxes.exists, 1)
    grid = 2.0 * _homography(corners, size) - 1.0
    crops = []
    for part in range(len(BODY_PARTS)):
        places = grid[:, part].to(images)
        crop = F.grid_sample(images, places, padding_mode="border", align_corners=False)
        crops.append(crop * exists[:, part, None, None, None])
    return torch.cat(crops, 1)


class _Boxes:
    """The quadrilaterals of all body parts, in the order of :data:`BODY_PARTS`.

    Args:
        points: Joints and neck, ``(B, 16, 2)``.
        present: Which of these are present, ``(B, 16)``.

    Attributes:
        corners: Corners of each part, ``(B, 4, 2)``: top left, bottom left, bottom right, top right.
        exists: Whether each part exists, ``(B,)``.
    """

    def __init__(self, points: Tensor, present: Tensor) -> None:
        self.at = dict(zip(_POINTS, points.unbind(1), strict=True))
        self.present = dict(zip(_POINTS, present.unbind(1), strict=True))
        self.corners: list[Tensor] = []
        self.exists: list[Tensor] = []
        self._add(_at(points, _TORSO), _at(present, _TORSO).all(1))
        self._add_head()
        for side in "lr":
            self._add_limb(f"{side}shoulder", f"{side}elbow")
            self._add_limb(f"{side}elbow", f"{side}wrist")
        for side in "lr":
            self._add_thigh(side)

    def _add(self, corners: Tensor, exists: Tensor) -> None:
        self.corners.append(corners)
        self.exists.append(exists)

    def _add_head(self) -> None:
        neck = self.at["neck"]
        top = neck + 2.0 * (self.at["cnose"] - neck)
        aside = _aside(top, neck, 1.0)
        below_nose = torch.stack([top - aside, neck - aside, neck + aside, top + aside], 1)

        left = self.at["lshoulder"]
        right = self.at["rshoulder"]
        up = 2.0 * _aside(left, right, 1.0)
        # Up in the image, also for a person seen from behind
        up = torch.where(up[:, 1:] > 0, -up, up)
        above_shoulders = torch.stack([left + up, left, right, right + up], 1)

        has_nose = self.present["cnose"][:, None, None]
        corners = torch.where(has_nose, below_nose, above_shoulders)
        self._add(corners, self.present["neck"])

    def _add_limb(self, start: str, stop: str) -> None:
        corners = _lying(self.at[start], self.at[stop])
        self._add(corners, self.present[start] & self.present[stop])

    def _add_thigh(self, side: str) -> None:
        hip = self.at[f"{side}hip"]
        x = hip[:, 0]
        bottom = torch.stack([x, torch.ones_like(x)], -1)
        has_knee = self.present[f"{side}knee"][:, None]
        end = torch.where(has_knee, self.at[f"{side}knee"], bottom)
        self._add(_lying(hip, end), self.present[f"{side}hip"])


def _lying(start: Tensor, stop: Tensor) -> Tensor:
    """A box around a line, half as wide as it is long, which runs from its left to its right: ``(B, 4, 2)``."""
    aside = _aside(start, stop, 0.5)
    corners = [start + aside, start - aside, stop - aside, stop + aside]
    return torch.stack(corners, 1)


def _aside(start: Tensor, stop: Tensor, width: float) -> Tensor:
    """The way from a line to the edge of a box of relative ``width``: to the left, where the line goes down."""
    along = stop - start
    return 0.5 * width * torch.stack([-along[:, 1], along[:, 0]], -1)


def _homography(corners: Tensor, size: int) -> Tensor:
    """Places of a grid's cell centres in quadrilaterals: ``(B, P, 4, 2) -> (B, P, size, size, 2)``."""
    top_left, bottom_left, bottom_right, top_right = corners.unbind(2)
    a = top_right - bottom_right
    b = bottom_left - bottom_right
    gap = top_left - top_right + bottom_right - bottom_left  # zero for a parallelogram
    whole = _away_from_zero(_cross(a, b), 1e-9)  # the mapping of a flat quadrilateral is arbitrary
    g = (_cross(gap, b) / whole)[..., None]
    h = (_cross(a, gap) / whole)[..., None]
    across = top_right - top_left + g * top_right
    down = bottom_left - top_left + h * bottom_left

    u, v = _cell_centres(corners, size).unbind(2)
    u = u[..., None][0]
    v = v[..., None][0]
    weight = _on_grid(g) * u + _on_grid(h) * v + 1.0
    weight = _away_from_zero(weight, 1e-6)
    place = _on_grid(across) * u + _on_grid(down) * v + _on_grid(top_left)
    return place / weight


def _on_grid(values: Tensor) -> Tensor:
    """``(B, P, k) -> (B, P, 1, 1, k)``, to be broadcast over the cells of a grid."""
    return values[:, :, None, None]


def _away_from_zero(values: Tensor, least: float) -> Tensor:
    """The values, with those nearer to zero than ``least`` replaced by it."""
    return torch.where(values.abs() < least, torch.full_like(values, least), values)


def _cross(a: Tensor, b: Tensor) -> Tensor:
    return a[..., 0] * b[..., 1] - b[..., 0] * a[..., 1]


# ---------------------------------------------------------------------
# points
# ---------------------------------------------------------------------


def _cell_centres(like: Tensor, size: int) -> Tensor:
    """(x, y) of the centres of a grid's cells in shares of its side, ``(1, 1, 2, size, size)``."""
    cells = torch.arange(size, dtype=like.dtype, device=like.device)
    line = (cells + 0.5) / size
    x = line.expand(size, -1)
    y = line[:, None].expand(-1, size)
    return torch.stack([x, y])[None, None]


def _points(joints: Tensor) -> tuple[Tensor, Tensor]:
    """Joints and neck, ``(B, 16, 2)``, and which of them are present, ``(B, 16)``."""
    present = (joints >= 0).all(-1)
    shoulders = ["lshoulder", "rshoulder"]
    neck = _at(joints, shoulders).mean(1, keepdim=True)
    has_neck = _at(present, shoulders).all(1, keepdim=True)
    points = torch.cat([joints, neck], 1)
    return points, torch.cat([present, has_neck], 1)


def _at(points: Tensor, names: Sequence[str]) -> Tensor:
    """The rows of some points, by name: ``(B, 15 or 16, ...) -> (B, len(names), ...)``."""
    # an index of Python numbers would be copied to the device, and the host would wait for the copy
    return torch.stack([points[:, _POINTS.index(name)] for name in names], 1)
