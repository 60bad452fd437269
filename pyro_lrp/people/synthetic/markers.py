"""The markers of synthetic people: where a pose places them, and a detector that finds them in images."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from pyro_lrp.people.poses import JOINTS
from pyro_lrp.people.synthetic.appearance import MARKERS, Colour

__all__ = ["find_markers", "marker_places"]

_MIN_SHARE = 0.25  # share of a marker's area that must be visible for a detection


def marker_places(joints: Tensor, image_size: int) -> Tensor:
    """The places of the markers of given poses.

    Args:
        joints: Shape ``(N, 15, 2)``, in shares of the image's side.
        image_size: Side of the images, in pixels.

    Returns:
        Shape ``(N, 5, 2)``: (x, y) in pixels, where the middle of the first pixel is (0.5, 0.5).
    """
    columns = [JOINTS.index(marker.joint) for marker in MARKERS]
    return joints[:, columns] * image_size


def find_markers(images: Tensor) -> Tensor:
    """Detect each marker.

    A pixel matches a marker to the degree that it has the marker's hue and is saturated. The detected place has
    the largest sum of matches within the marker's size; it counts if the sum is a quarter of the marker's area.

    Args:
        images: In [0, 1], shape ``(N, 3, H, W)``; square.

    Returns:
        Shape ``(N, 5, 2)``: (x, y) in pixels as in :func:`marker_places`, NaN where a marker is not detected.
    """
    size = images.shape[-1]
    places = []
    for marker in MARKERS:
        match = _colour_match(images, marker.colour)
        place = _locate(match, marker.radius * size)
        places.append(place)
    return torch.stack(places, dim=1)


def _colour_match(images: Tensor, colour: Colour) -> Tensor:
    """How well pixels match a colour, 0 to 1, ``(N, H, W)``; mixing with grey keeps the hue."""
    target = images.new_tensor(colour)
    target = F.normalize(target - target.mean(), dim=0)
    opponent = images - images.mean(1, keepdim=True)
    length = opponent.norm(dim=1).clamp(min=1e-6)
    likeness = torch.einsum("nchw,c->nhw", opponent, target) / length
    chroma = images.amax(1) - images.amin(1)
    # Muted colours have a chroma of at most 0.37, and the hues of markers lie at least 53 degrees apart.
    saturated = ((chroma - 0.4) / 0.3).clamp(0, 1)
    same_hue = ((likeness - 0.89) / 0.08).clamp(0, 1)
    return saturated * same_hue


def _locate(match: Tensor, radius: float) -> Tensor:
    """Centre of the strongest matches within a disc's size, ``(N, 2)``; NaN where they are too few."""
    height, width = match.shape[1:]
    rows = torch.arange(height, device=match.device) + 0.5
    columns = torch.arange(width, device=match.device) + 0.5

    half = max(1, round(radius))
    window = 2 * half + 1
    count = F.avg_pool2d(match[:, None], window, stride=1, padding=half)
    strongest = count.flatten(1).argmax(1)
    x = strongest % width + 0.5
    y = torch.div(strongest, width, rounding_mode="floor") + 0.5

    total = match.new_zeros(len(match))
    for _ in range(2):  # several places may be equally strong: the second window is centred
        inside_x = (columns - x[:, None]).abs() <= half + 1
        inside_y = (rows - y[:, None]).abs() <= half + 1
        inside = inside_y[:, :, None] & inside_x[:, None, :]
        near = match * inside
        total = near.sum((1, 2))
        weight = total.clamp(min=1e-6)
        x = (near.sum(1) * columns).sum(1) / weight
        y = (near.sum(2) * rows).sum(1) / weight

    area = math.pi * radius**2
    detected = total >= _MIN_SHARE * area
    centre = torch.stack([x, y], dim=1)
    return centre.where(detected[:, None], torch.nan)
