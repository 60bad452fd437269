"""Contexts of conditional priors: what a data set knows of an image, as a vector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from pyro_lrp.core.errors import UserError
from pyro_lrp.data.dataset import ImageData, Split
from pyro_lrp.people.poses import JOINTS

__all__ = ["Contexts", "with_context"]


@dataclass(frozen=True)
class Contexts:
    """What the entries of a context mean.

    Attributes:
        kind: ``"label"``, one-hot; ``"attributes"``, 1 where an image has one and -1 where it has not; or
            ``"pose"``, the joints' coordinates.
        names: Of the classes, of the attributes, or of the coordinates.

    >>> Contexts("label", ("0", "1", "2")).encode([2, 0], n=3)
    tensor([[0., 0., 1.],
            [1., 0., 0.],
            [0., 0., 1.]])
    >>> Contexts("attributes", ("Male", "Smiling")).encode(["Smiling"], n=1)
    tensor([[-1.,  1.]])
    """

    kind: str
    names: tuple[str, ...]

    def encode(self, wanted: Any, n: int) -> Tensor:
        """``n`` contexts as a user writes them, shape ``(n, len(names))``.

        Args:
            wanted: A class, or several that take turns; None for all of them in turn. Of attributes, those that
                are present, all others being absent.
            n: How many.

        Raises:
            UserError: If a name is none of these, no attributes are said, or it is a pose, which has no name.
        """
        if self.kind == "pose":
            raise UserError("context has no effect on a run that is given poses: use pose=, such as pose=[0,1]")
        if wanted is None and self.kind == "attributes":
            raise UserError(f"context must say which attributes, such as context=[{self.names[0]}], or []")
        items = (
            list(self.names) if wanted is None else wanted if isinstance(wanted, (list, tuple)) else [wanted]
        )
        strange = [item for item in items if str(item) not in self.names]
        if strange:
            what = "class" if self.kind == "label" else "attribute"
            raise UserError(f"context={strange[0]} is no {what} of this run; there are {_listed(self.names)}")
        index = torch.tensor([self.names.index(str(item)) for item in items], dtype=torch.long)
        if self.kind == "attributes":
            signs = -torch.ones(len(self.names))
            signs[index] = 1.0
            return signs.expand(n, -1)
        if not items:
            raise UserError("context must name a class, such as context=0")
        return F.one_hot(index, len(self.names)).float()[torch.arange(n) % len(items)]


def with_context(data: ImageData, wanted: Any) -> tuple[ImageData, Contexts]:
    """The data set with a context for each image, and what its entries mean.

    Args:
        data: With labels, or with attributes.
        wanted: ``"label"``; ``"pose"``; ``"attributes"`` for all; or a list of names of attributes.

    Raises:
        UserError: If the data set does not know that.
    """
    if wanted == "label":
        labels = data.train.labels
        if labels is None:
            raise UserError(f"context=label needs class labels, and data={data.name} has none")
        known = [s.labels for s in (data.train, data.test, data.validation) if s is not None]
        classes = 1 + max(int(part.max()) for part in known if part is not None and len(part))
        contexts = Contexts("label", tuple(str(c) for c in range(classes)))
        return _on_all(data, lambda split: _one_hot(split, classes)), contexts
    if wanted == "pose":
        if data.train.joints is None:
            raise UserError(f"context=pose needs joints, and data={data.name} has none")
        coordinates = tuple(f"{joint}_{axis}" for joint in JOINTS for axis in "xy")
        return _on_all(data, _poses), Contexts("pose", coordinates)
    if wanted != "attributes" and not isinstance(wanted, (list, tuple)):
        raise UserError(
            f"context must be label, pose, attributes, a list of attributes, or null, got {wanted!r}"
        )
    if not data.attributes:
        raise UserError(f"context={wanted} needs attributes, and data={data.name} has none")
    names = data.attributes if wanted == "attributes" else tuple(str(name) for name in wanted)
    strange = [name for name in names if name not in data.attributes]
    if strange or not names:
        said = f"{strange[0]} is no attribute of data={data.name}" if strange else "names no attribute"
        raise UserError(f"context: {said}; there are {_listed(data.attributes)}")
    columns = torch.tensor([data.attributes.index(name) for name in names])
    return _on_all(data, lambda split: _signs(split, columns)), Contexts("attributes", names)


def _on_all(data: ImageData, context: Any) -> ImageData:
    def add(split: Split) -> Split:
        return replace(split, context=context(split))

    validation = None if data.validation is None else add(data.validation)
    return replace(data, train=add(data.train), test=add(data.test), validation=validation)


def _one_hot(split: Split, classes: int) -> Tensor:
    assert split.labels is not None, "a data set has labels in all splits or in none"
    return F.one_hot(split.labels, classes).float()


def _poses(split: Split) -> Tensor:
    assert split.joints is not None, "a data set has joints in all splits or in none"
    return split.joints.flatten(1)


def _signs(split: Split, columns: Tensor) -> Tensor:
    assert split.attributes is not None, "a data set has attributes in all splits or in none"
    return split.attributes[:, columns].float() * 2.0 - 1.0


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names)
