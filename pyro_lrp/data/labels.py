"""Class labels of any usual form, as numbers of the classes that occur."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_lrp.core.errors import UserError
from pyro_lrp.data.tables import composed, natural

__all__ = ["numbered"]

_UNLABELLED = "-1"


def numbered(
    columns: Mapping[str, tuple[Any, int]], classes: Sequence[str] | None = None
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The labels of several sets of images as numbers of the classes that occur in any of them.

    Args:
        columns: By the name that errors use: labels and the number of images. Labels are whole numbers, text,
            or one-hot rows; of shape ``(N,)``, ``(N, 1)`` or ``(N, K)``. -1 stands for no label.
        classes: Names of the classes, if labels are their numbers; those that occur are kept.

    Returns:
        int64 of shape ``(N,)`` by the same names, -1 for no label; and the names of the classes, as people
        number them.

    Raises:
        UserError: If labels are no classes, are all of one class, or their number is not that of the images.
    """
    texts = {name: _texts(labels, images, name) for name, (labels, images) in columns.items()}
    occurring = {text for column in texts.values() for text in column} - {_UNLABELLED}
    known = sorted(occurring, key=natural)
    if len(known) == 1:
        names = " and ".join(columns)
        raise UserError(
            f"{names}: every image has the class {known[0]}, and classes are two or more: leave them out"
        )
    number = {text: position for position, text in enumerate(known)}
    labels = {}
    for name, column in texts.items():
        labels[name] = torch.tensor([number.get(text, -1) for text in column], dtype=torch.long)
    if classes is None:
        return labels, tuple(known)
    _check_numbers(occurring, classes)
    return labels, tuple(composed(str(classes[int(text)])) for text in known)


def _check_numbers(occurring: set[str], classes: Sequence[str]) -> None:
    valid = {str(number) for number in range(len(classes))}
    odd = sorted(occurring - valid, key=natural)
    if odd:
        raise UserError(f"labels must number the {len(classes)} classes from 0, and one is {odd[0]}")


def _texts(labels: Any, images: int, name: str) -> list[str]:
    """The name of the class of each image, of which numbers are their digits."""
    array = _array(labels, name)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.shape[:1] != (images,):
        raise UserError(
            f"{name} must hold a label for each of the {images} images, got the shape {array.shape}"
        )
    if array.ndim == 2:
        array = _of_one_hot(array, name)
    if array.ndim != 1:
        raise UserError(f"{name} must have the shape ({images},), (N, 1) or (N, classes), got {array.shape}")
    if array.dtype.kind == "S":
        array = np.char.decode(array, "utf-8")
    if array.dtype.kind == "U":
        return [composed(str(text)) for text in array]
    return [str(int(number)) for number in _whole(array, name)]


def _array(labels: Any, name: str) -> np.ndarray:
    if isinstance(labels, Tensor):
        labels = labels.detach().cpu().numpy()
    try:
        array = np.asarray(labels)
    except ValueError as error:
        raise UserError(f"{name} must be one array") from error
    if array.dtype.kind == "O" and all(isinstance(label, str) for label in array.flat):
        array = array.astype(str)
    if array.dtype.kind not in "biufUS":
        raise UserError(f"{name} must be whole numbers or text, got {array.dtype}")
    return array


def _of_one_hot(array: np.ndarray, name: str) -> np.ndarray:
    """Class numbers from one-hot rows."""
    if array.dtype.kind not in "biuf" or not ((array == 0) | (array == 1)).all():
        raise UserError(
            f"{name} has the shape {array.shape}, and its rows are not one-hot: 0, and 1 for the class"
        )
    totals = array.sum(1)
    odd = np.flatnonzero(totals != 1)
    if len(odd):
        raise UserError(
            f"{name}: row {odd[0]} has {int(totals[odd[0]])} classes, and images have one: not one-hot"
        )
    return array.argmax(1)


def _whole(array: np.ndarray, name: str) -> np.ndarray:
    """Whole numbers of at least -1."""
    if array.dtype.kind == "f":
        odd = np.flatnonzero(~np.isfinite(array) | (array != np.floor(array)))
        if len(odd):
            raise UserError(
                f"{name} must be whole numbers, and label {odd[0]} is {array[odd[0]]}: classes are not "
                "measured; an image without a class has the label -1"
            )
    array = array.astype(np.int64)
    below = np.flatnonzero(array < -1)
    if len(below):
        raise UserError(f"{name}: label {below[0]} is {array[below[0]]}; only -1, for no label, may be below 0")
    return array
