"""The pose of a person as a condition: the coordinates of the joints."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyro_lrp.core.errors import UserError
from pyro_lrp.data.conditions import Condition
from pyro_lrp.data.dataset import ImageData, Split
from pyro_lrp.data.pictures import image_files
from pyro_lrp.people import JOINTS, stick_figures

__all__ = ["Pose"]

_MISSING = [-1.0, -1.0]


class Pose(Condition):
    """The joints of :data:`~pyro_lrp.people.JOINTS`, (x, y) in shares of the image's side, -1 if missing."""

    kind = "pose"
    by_example = True

    @classmethod
    def for_data(cls, data: ImageData, wanted: Any) -> Pose:
        if "joints" not in data.train.extras:
            raise UserError(f"context=pose needs joints, and the data set {data.name} has none")
        names = [f"{joint}_{axis}" for joint in JOINTS for axis in "xy"]
        return cls(names)

    def of(self, split: Split) -> Tensor:
        return split.extras["joints"].flatten(1)

    def example(self) -> dict[str, Any]:
        return {"pose": [0, 1, 2, 3]}

    def parse(self, wanted: Any, n: int) -> Tensor:
        """Raise an error: a pose has no name."""
        raise UserError("context has no effect on a run that is given poses: use pose=, such as pose=[0,1]")

    def of_files(self, paths: Sequence[str | Path], wanted: Any, n: int) -> Tensor:
        """Joints of people in image files, from a ``.json`` beside each: ``{"rwrist": [x, y], ...}``.

        Raises:
            UserError: If a ``.json`` is missing or has another form, or its image is not square.
        """
        poses = [_joints_of(path) for path in image_files(paths)]
        return torch.stack(poses).flatten(1)

    def picture(self, context: Tensor, image_size: int) -> Tensor:
        """Stick figures."""
        joints = context.reshape(-1, len(JOINTS), 2)
        return stick_figures(joints, image_size)


def _joints_of(path: Path) -> Tensor:
    """The joints of the person in an image file, ``(15, 2)``."""
    json_path = path.with_suffix(".json")
    if not json_path.is_file():
        raise UserError(
            f"images: {path} needs its joints in {json_path.name} beside it, as a run given poses does"
        )
    _check_square(path)
    joints = _read_json(json_path)
    for name, place in joints.items():
        if name not in JOINTS or len(place) != 2 or max(place) > 1:
            known = ", ".join(JOINTS)
            raise UserError(
                f"images: {json_path}: {name} is no joint with x and y in shares of the side; there are {known}"
            )
    places = [joints.get(name, _MISSING) for name in JOINTS]
    return torch.tensor(places)


def _read_json(path: Path) -> dict[str, list[float]]:
    joints = {}
    try:
        content = json.loads(path.read_text())
        for name, place in content.items():
            joints[name] = [float(value) for value in place]
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f'images: {path} must be like {{"rwrist": [0.4, 0.7], ...}}') from error
    return joints


def _check_square(path: Path) -> None:
    from PIL import Image

    with Image.open(path) as image:
        width, height = image.size
    if width != height:
        raise UserError(f"images: {path} must be square to fit its joints, got {width}x{height}")
