"""How the subfolders of an image folder are meant: as the parts of a data set, or as its classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_lrp.core.errors import UserError, printable
from pyro_lrp.data.tables import composed, natural

__all__ = ["Layout", "layout_of"]

_WHOLE = ""  # the part of a folder that is not divided
_PART_OF = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}


@dataclass(frozen=True)
class Layout:
    """The parts and the classes of the images of a folder, row by row.

    Attributes:
        parts: Rows of each part: ``train``, and ``validation`` or ``test`` or both. Empty if the folder has no
            such subfolders.
        labels: Classes, int64 of shape ``(N,)``, -1 in parts without them; None if there are fewer than two.
        classes: Names of the classes, as people number them.
        notes: What was not taken as a class, a sentence each.
    """

    parts: dict[str, Tensor]
    labels: Tensor | None
    classes: tuple[str, ...]
    notes: tuple[str, ...] = ()


def layout_of(names: Sequence[str], key: str) -> Layout:
    """The layout of images in a folder.

    A folder that holds nothing but one subfolder stands for it. Subfolders ``train``, ``val`` and ``test``
    (also ``validation`` and the like, in any case) are the parts of the data set. The subfolders that are left
    are classes, if there are two or more and no image lies beside them.

    Args:
        names: Names of the images relative to the folder, with ``/``.
        key: Configuration key of the folder, for errors.

    Raises:
        UserError: If there are parts, and other images beside them.
    """
    inner = _without_common(names)
    part_of = _parts(inner, key)
    below = inner
    if part_of:
        below = [name.partition("/")[2] for name in inner]
    else:
        part_of = [_WHOLE] * len(names)
    rows: dict[str, list[int]] = {}
    for row, part in enumerate(part_of):
        rows.setdefault(part, []).append(row)
    class_of: list[str | None] = [None] * len(names)
    notes = []
    for numbers in rows.values():
        classes, further = _classes([below[row] for row in numbers], key)
        notes += further
        for row, name in zip(numbers, classes, strict=True):
            class_of[row] = name
    labels, known = _numbered(class_of)
    parts = {part: torch.tensor(numbers) for part, numbers in rows.items() if part != _WHOLE}
    if parts and "test" not in parts:
        notes.append(f"{key}: there is no subfolder test, so the validation images are the test images")
    return Layout(parts, labels, known, tuple(notes))


def _without_common(names: Sequence[str]) -> list[str]:
    """The names without the folders that all of them share."""
    inner = list(names)
    while True:
        tops = {name.partition("/")[:2] for name in inner}
        if len(tops) > 1 or not all(slash for _, slash in tops):
            return inner
        inner = [name.partition("/")[2] for name in inner]


def _parts(names: Sequence[str], key: str) -> list[str]:
    """The part of each image; empty if the folder is not divided."""
    tops = {}
    for name in names:
        top, slash, _ = name.partition("/")
        if slash:
            tops[top] = _PART_OF.get(top.lower())
    found = {part for part in tops.values() if part is not None}
    if not found & {"validation", "test"}:
        return []  # a folder "train" alone may hold pictures of trains
    if "train" not in found:
        return _refuse_without_train(tops, key)
    parts = []
    for name in names:
        part = tops.get(name.partition("/")[0])
        if part is None:
            raise UserError(
                f"{key}: {printable(name)} lies beside the subfolders of training and test images, and belongs "
                "to neither: move it, or name a folder that holds only such subfolders, or only classes"
            )
        parts.append(part)
    return parts


def _refuse_without_train(tops: dict[str, str | None], key: str) -> list[str]:
    if all(part is not None for part in tops.values()):
        names = " and ".join(sorted(tops))
        raise UserError(f"{key}: there are subfolders {names} and none of training images, train")
    return []  # classes, of which one is called so


def _classes(names: list[str], key: str) -> tuple[Sequence[str | None], list[str]]:
    """The class of each image of a part, and notes; None for all of them if one lies in no subfolder."""
    tops = [name.partition("/") for name in names]
    loose = [name for name, slash, _ in tops if not slash]
    if not loose:
        return [composed(top) for top, _, _ in tops], []
    if len(loose) == len(names):
        return [None] * len(names), []
    note = (
        f"{key}: images lie beside the subfolders ({len(loose)}, such as {printable(loose[0])}), so these are "
        "not taken as classes"
    )
    return [None] * len(names), [note]


def _numbered(names: Sequence[str | None]) -> tuple[Tensor | None, tuple[str, ...]]:
    """The numbers of the classes of images, and their names in order; None if there are fewer than two."""
    known = sorted({name for name in names if name is not None}, key=natural)
    if len(known) < 2:
        return None, ()
    number: dict[str | None, int] = {name: position for position, name in enumerate(known)}
    return torch.tensor([number.get(name, -1) for name in names]), tuple(known)
