"""Pictures of a user's own, made into what a trained model takes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from pyro_lrp.core.errors import UserError
from pyro_lrp.people.poses import JOINTS

__all__ = ["joints_beside", "pictures"]


def pictures(paths: Sequence[str | Path], image_shape: Sequence[int]) -> tuple[list[str], Tensor, list[str]]:
    """Image files as a model's images: centred squares, resized, grey or RGB.

    Args:
        paths: Files, or folders of files.
        image_shape: ``(C, H, W)``.

    Returns:
        Names; uint8 of shape ``(N, C, H, W)``; and a note for each that was not of this size.

    Raises:
        UserError: If a file is missing or no image.
    """
    channels, height, width = image_shape
    names, arrays, notes = [], [], []
    for path in _files(paths):
        try:
            with Image.open(path) as file:
                image = ImageOps.exif_transpose(file).convert("L" if channels == 1 else "RGB")
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise UserError(f"images: {path} is no image that can be read") from error
        if image.size != (width, height):
            notes.append(
                f"{path.name} ({image.width}x{image.height}) is cut to its centre, resized to {width}x{height}"
            )
            image = ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR)
        names.append(path.name)
        arrays.append(np.asarray(image).reshape(height, width, channels))
    return names, torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous(), notes


def joints_beside(paths: Sequence[str | Path]) -> Tensor:
    """Joints of people in image files, from a ``.json`` beside each: ``{"rwrist": [x, y], ...}``.

    Args:
        paths: As for :func:`pictures`; square images.

    Returns:
        :data:`~pyro_lrp.people.JOINTS`, ``(N, 15, 2)``, (x, y) in shares of the image's side; -1 where one
        is not in the file.

    Raises:
        UserError: If a file is missing or says something else, or its image is not square.
    """
    return torch.stack([_joints_of(path) for path in _files(paths)])


def _joints_of(path: Path) -> Tensor:
    beside = path.with_suffix(".json")
    if not beside.is_file():
        raise UserError(
            f"images: {path} needs its joints in {beside.name} beside it, as a run given poses does"
        )
    with Image.open(path) as file:
        if file.width != file.height:
            raise UserError(f"images: {path} must be square to fit its joints, got {file.width}x{file.height}")
    try:
        said = {name: [float(v) for v in place] for name, place in json.loads(beside.read_text()).items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f'images: {beside} must be like {{"rwrist": [0.4, 0.7], ...}}') from error
    wrong = [name for name, place in said.items() if name not in JOINTS or len(place) != 2 or max(place) > 1]
    if wrong:
        raise UserError(
            f"images: {beside}: {wrong[0]} is no joint with x and y in shares of the side; there are "
            f"{', '.join(JOINTS)}"
        )
    return torch.tensor([said.get(name, [-1.0, -1.0]) for name in JOINTS])


def _files(paths: Sequence[str | Path]) -> list[Path]:
    found: list[Path] = []
    for given in paths:
        path = Path(given).expanduser()
        if not path.exists():
            raise UserError(f"images: there is no file or folder {path}")
        inside = (
            sorted(p for p in path.iterdir() if p.is_file() and p.name[0] != "." and p.suffix != ".json")
            if path.is_dir()
            else [path]
        )
        found += inside
    if not found:
        raise UserError(f"images: there are no files in {', '.join(map(str, paths)) or 'an empty list'}")
    return found
