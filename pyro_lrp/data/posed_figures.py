"""Posed people, drawn here: pictures with known joints and clothes, for models of appearance given a pose.

Five markers, discs of colours that nothing else has, sit on head, hands and feet, so that a detector can tell
of any image, a model's too, whether its person stands as asked.
"""

from __future__ import annotations

import json
import math
import os
from functools import partial
from hashlib import sha256

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm.auto import tqdm

from pyro_lrp.core.errors import UserError
from pyro_lrp.core.files import cache_dir
from pyro_lrp.core.randomness import derive_seed
from pyro_lrp.data.dataset import ImageData, Split
from pyro_lrp.people import GroundTruth
from pyro_lrp.people.drawing import MARKERS, Appearance, draw_figure
from pyro_lrp.people.poses import JOINTS

__all__ = ["draw_people", "find_markers", "marker_places", "posed_figures", "random_pose"]

_VERSION = 1  # raise it when the same parameters give other pixels
_MOST_BYTES = 2**33
_SIZES = (32, 64, 128, 256)
_MARGIN = 0.055  # of the image's side, around all joints but the head's: more than a foot's radius
_SHARE = 0.25  # of a marker's area that must be seen for it to be found


def posed_figures(n: int = 6000, image_size: int = 64, test: int = 1000) -> ImageData:
    """Drawn people in random poses and clothes; an image depends only on its split and its number.

    They face the viewer, so a person's right, the joints that begin with ``r``, is on the viewer's left. All
    joints are visible. Labels are the shirt's pattern, an index of
    :data:`pyro_lrp.people.drawing.PATTERNS`. Pixels are kept in the user's cache.

    Args:
        n: Number of training images.
        image_size: Their side in pixels: 32, 64, 128 or 256.
        test: Number of test images.

    Returns:
        A data set with joints and with a :class:`~pyro_lrp.people.GroundTruth`.

    Raises:
        UserError: If a number is out of its range.
    """
    for key, value in (("n", n), ("test", test)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise UserError(f"data.{key} must be a whole number of at least 1, got {value!r}")
    if not isinstance(image_size, int) or image_size not in _SIZES:
        raise UserError(f"data.image_size must be 32, 64, 128 or 256, got {image_size!r}")
    if (n + test) * 3 * image_size**2 > _MOST_BYTES:
        raise UserError(f"data.n and data.test ask for images of more than {_MOST_BYTES:,} bytes")
    truth = GroundTruth(
        draw=partial(draw_people, image_size=image_size),
        find=find_markers,
        expected=partial(marker_places, image_size=image_size),
        markers=tuple(marker.name for marker in MARKERS),
    )
    train, held = _split("train", n, image_size), _split("test", test, image_size)
    return ImageData("posed_figures", train, held, truth=truth)


def draw_people(joints: Tensor, seed: int, image_size: int) -> Tensor:
    """Images of given poses; row i's appearance depends on ``seed`` and i alone, not on its pose.

    Args:
        joints: Shape ``(N, 15, 2)``, in shares of the image's side, all visible.
        seed: Of the appearances.
        image_size: Side of the images, in pixels.

    Returns:
        uint8 of shape ``(N, 3, image_size, image_size)``.

    >>> pose = torch.from_numpy(random_pose(np.random.default_rng(0)))
    >>> people = draw_people(pose.expand(2, 15, 2), seed=0, image_size=64)
    >>> tuple(people.shape), bool((people[0] == people[1]).all())
    ((2, 3, 64, 64), False)
    """
    images = np.empty((len(joints), 3, image_size, image_size), np.uint8)
    for row, pose in enumerate(joints.detach().cpu().numpy()):
        look = Appearance.sample(np.random.default_rng(derive_seed(seed, "drawn figure", row)))
        images[row] = draw_figure(pose, look, image_size)
    return torch.from_numpy(images)


def marker_places(joints: Tensor, image_size: int) -> Tensor:
    """Where the markers of given poses belong.

    Args:
        joints: Shape ``(N, 15, 2)``, in shares of the image's side.
        image_size: Side of the images, in pixels.

    Returns:
        Shape ``(N, 5, 2)``: (x, y) in pixels, where the middle of the first pixel is (0.5, 0.5).
    """
    return joints[:, [JOINTS.index(marker.joint) for marker in MARKERS]] * image_size


def find_markers(images: Tensor) -> Tensor:
    """Where each marker is seen.

    A pixel matches a marker as far as it has its hue and is saturated. A marker is where the most matches lie
    within its size, and it counts as found if they come to a quarter of its area.

    Args:
        images: In [0, 1], shape ``(N, 3, H, W)``; square.

    Returns:
        Shape ``(N, 5, 2)``: (x, y) in pixels as in :func:`marker_places`, NaN where a marker is not found.
    """
    places = [_locate(_match(images, m.colour), m.radius * images.shape[-1]) for m in MARKERS]
    return torch.stack(places, dim=1)


def random_pose(rng: np.random.Generator) -> np.ndarray:
    """Joints of a standing, dancing or waving person of random size, all inside the image.

    Returns:
        float32 of shape ``(15, 2)``: :data:`~pyro_lrp.people.JOINTS` as (x, y) in shares of the image's side.
    """

    def turned(length: float, degrees: float) -> np.ndarray:
        """A step straight down, turned anticlockwise: at 90 degrees it goes to the viewer's right."""
        return length * np.array([math.sin(math.radians(degrees)), math.cos(math.radians(degrees))])

    hips, shoulders = rng.uniform(0.065, 0.08), rng.uniform(0.1, 0.125)  # half their widths
    lean, sway, tilt = rng.uniform(-12, 12), rng.uniform(-6, 6), rng.uniform(-14, 14)
    neck = turned(0.25, 180 + lean)  # from the middle of the hips, which is (0, 0)
    at = {"cnose": neck + turned(0.125, 180 + lean + 0.5 * tilt)}
    for side, sign in (("r", -1), ("l", 1)):
        hip = hips * sign * turned(1.0, 90 + sway)
        thigh = rng.uniform(-3, 45)
        shin = rng.uniform(-14, 15 + 0.5 * thigh)
        knee = hip + turned(0.18, sign * thigh)
        shoulder = neck + shoulders * sign * turned(1.0, 90 + lean)
        arm = rng.uniform(-8, 165)
        elbow = shoulder + turned(0.14, sign * arm)
        forearm = min(arm + rng.uniform(-115, 115), 215)
        at |= {f"{side}hip": hip, f"{side}knee": knee, f"{side}ankle": knee + turned(0.18, sign * shin)}
        at |= {f"{side}shoulder": shoulder, f"{side}elbow": elbow}
        at |= {f"{side}wrist": elbow + turned(0.135, sign * forearm)}
    scale = rng.uniform(0.75, 1.0)
    joints = scale * np.stack([at.get(name, at["cnose"]) for name in JOINTS])
    for side, sign in (("r", -1), ("l", 1)):  # the head's size is fixed, as it is a marker
        eye = sign * turned(0.028, 90 + lean + tilt) + turned(0.012, 180 + lean + tilt)
        joints[JOINTS.index(f"{side}eye")] += eye
    return _placed(joints, rng).astype(np.float32)


def _placed(joints: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A figure moved to a random place not far from the middle, with a margin all around."""
    nose = joints[JOINTS.index("cnose")]
    head = MARKERS[0].radius + 2.2 / 64 - _MARGIN  # with its hair, beyond the margin that every joint has
    low, high = np.minimum(joints.min(0), nose - head), np.maximum(joints.max(0), nose + head)
    least, most = _MARGIN - low, 1 - _MARGIN - high
    reach = np.minimum(0.5 * (most - least), 0.05)
    return joints + 0.5 * (least + most) + rng.uniform(-1, 1, size=2) * reach


def _split(part: str, count: int, image_size: int) -> Split:
    """Training or test figures; joints and labels are quickly made again, images come from the cache."""
    generators = (_generators(part, number) for number in range(count))
    poses, looks = zip(*((random_pose(a), Appearance.sample(b)) for a, b in generators), strict=True)
    images = _kept(part, list(poses), list(looks), image_size)
    labels = torch.tensor([look.pattern for look in looks])
    return Split(torch.from_numpy(images), labels, extras={"joints": torch.from_numpy(np.stack(poses))})


def _generators(part: str, number: int) -> tuple[np.random.Generator, np.random.Generator]:
    """Of one figure's pose and of its appearance, which are independent."""
    pose, look = (derive_seed(0, "posed_figures", part, number, what) for what in ("pose", "appearance"))
    return np.random.default_rng(pose), np.random.default_rng(look)


def _kept(part: str, poses: list[np.ndarray], looks: list[Appearance], image_size: int) -> np.ndarray:
    """The images, mapped from the user's cache; drawn first if they are not there, or not whole."""
    shape = (len(poses), 3, image_size, image_size)
    key = sha256(json.dumps([_VERSION, part, shape]).encode()).hexdigest()[:16]
    path = cache_dir("images") / f"posed_figures_{part}_{key}.npy"
    try:
        images = np.load(path, mmap_mode="c")  # private: a write would never reach the file
        if images.shape == shape and images.dtype == np.uint8:
            return images
    except (OSError, ValueError, EOFError):
        pass  # missing or damaged
    fresh = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    figures = zip(poses, looks, strict=True)
    figures = tqdm(figures, "drawing", len(poses), unit="image", leave=False, disable=None)
    try:
        with open(fresh, "wb") as file:
            np.save(file, np.stack([draw_figure(pose, look, image_size) for pose, look in figures]))
        os.replace(fresh, path)
    finally:
        fresh.unlink(missing_ok=True)
    return np.load(path, mmap_mode="c")


def _match(images: Tensor, colour: tuple[int, int, int]) -> Tensor:
    """How well pixels match a marker's colour, 0 to 1, ``(N, H, W)``: a mix with grey keeps its hue."""
    target = images.new_tensor(colour)
    target = F.normalize(target - target.mean(), dim=0)
    opponent = images - images.mean(1, keepdim=True)
    likeness = torch.einsum("nchw,c->nhw", opponent, target) / opponent.norm(dim=1).clamp(min=1e-6)
    chroma = images.amax(1) - images.amin(1)
    # Muted colours have a chroma of at most 0.37, and markers' hues lie at least 53 degrees apart.
    return ((chroma - 0.4) / 0.3).clamp(0, 1) * ((likeness - 0.89) / 0.08).clamp(0, 1)


def _locate(match: Tensor, radius: float) -> Tensor:
    """Centre of the strongest matches of a disc's size, ``(N, 2)``; NaN where they are too few."""
    half = max(1, round(radius))
    count = F.avg_pool2d(match[:, None], 2 * half + 1, stride=1, padding=half).flatten(1)
    place = count.argmax(1)
    height, width = match.shape[1:]
    rows = torch.arange(height, device=match.device) + 0.5
    columns = torch.arange(width, device=match.device) + 0.5
    x, y = place % width + 0.5, torch.div(place, width, rounding_mode="floor") + 0.5
    total = match.new_zeros(len(match))
    for _ in range(2):  # the strongest place may be one of several alike: the second window is centred
        inside_x = (columns - x[:, None]).abs() <= half + 1
        inside_y = (rows - y[:, None]).abs() <= half + 1
        near = match * (inside_y[:, :, None] & inside_x[:, None, :])
        total = near.sum((1, 2))
        x = (near.sum(1) * columns).sum(1) / total.clamp(min=1e-6)
        y = (near.sum(2) * rows).sum(1) / total.clamp(min=1e-6)
    found = total >= _SHARE * math.pi * radius**2
    return torch.stack([x, y], dim=1).where(found[:, None], torch.nan)
