"""The pose of a person as a condition: the coordinates of the joints."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from pyro_lrp.core.errors import UserError
from pyro_lrp.data.conditions import Condition
from pyro_lrp.data.dataset import ImageData, Split
from pyro_lrp.data.pictures import image_files
from pyro_lrp.people import JOINTS, stick_figures

__all__ = ["Pose"]


class Pose(Condition):
    """The joints of :data:`~pyro_lrp.people.JOINTS`, (x, y) in shares of the image's side, -1 if not seen."""

    kind = "pose"
    by_example = True

    @classmethod
    def for_data(cls, data: ImageData, wanted: Any) -> Pose:
        if "joints" not in data.train.extras:
            raise UserError(f"context=pose needs joints, and data={data.name} has none")
        return cls(tuple(f"{joint}_{axis}" for joint in JOINTS for axis in "xy"))

    def of(self, split: Split) -> Tensor:
        return split.extras["joints"].flatten(1)

    def parse(self, wanted: Any, n: int) -> Tensor:
        """Refused: a pose has no name."""
        raise UserError("context has no effect on a run that is given poses: use pose=, such as pose=[0,1]")

    def of_files(self, paths: Sequence[str | Path], wanted: Any, n: int) -> Tensor:
        """Joints of people in image files, from a ``.json`` beside each: ``{"rwrist": [x, y], ...}``.

        Raises:
            UserError: If a file is missing or says something else, or its image is not square.
        """
        return torch.stack([_joints_of(path) for path in image_files(paths)]).flatten(1)

    def picture(self, context: Tensor, image_size: int) -> Tensor:
        """Stick figures."""
        return stick_figures(context.reshape(-1, len(JOINTS), 2), image_size)


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
        places = json.loads(beside.read_text())
        joints = {name: [float(value) for value in place] for name, place in places.items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f'images: {beside} must be like {{"rwrist": [0.4, 0.7], ...}}') from error
    wrong = [name for name, place in joints.items() if name not in JOINTS or len(place) != 2 or max(place) > 1]
    if wrong:
        raise UserError(
            f"images: {beside}: {wrong[0]} is no joint with x and y in shares of the side; there are "
            f"{', '.join(JOINTS)}"
        )
    return torch.tensor([joints.get(name, [-1.0, -1.0]) for name in JOINTS])
