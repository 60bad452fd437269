"""The images and labels of a torch data set, item by item, as arrays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from pyro_lrp.core.errors import UserError
from pyro_lrp.data.modes import eight_bit, is_grey

__all__ = ["class_names", "gathered", "tell_apart"]

_UNLABELLED = -1
_IMAGE_KEYS = ("image", "img", "pixel_values", "x")
_LABEL_KEYS = ("label", "labels", "class", "y")


def gathered(dataset: Any, name: str) -> tuple[np.ndarray, list[Any] | None]:
    """All images of a data set, ``(N, ...)``, and their labels; None if there are none.

    Args:
        dataset: Has a length and items, or is iterable.
        name: Its name, for errors.

    Raises:
        UserError: If an item is no image, or images differ in shape.
    """
    images = []
    labels = []
    for number, item in enumerate(_items(dataset)):
        image, label = _pair(item, f"{name}: item {number}")
        images.append(_pixels(image, f"{name}: item {number}"))
        labels.append(_label(label, f"{name}: item {number}"))
    if not images:
        raise UserError(f"{name} holds no images")
    shapes = {image.shape for image in images}
    if len(shapes) > 1:
        first, second, *_ = sorted(map(str, shapes))
        raise UserError(
            f"{name}: the images differ in shape, such as {first} and {second}: give the data set a transform "
            "that resizes them, and makes all of them grey or RGB"
        )
    if all(label is None for label in labels):
        return np.stack(images), None
    return np.stack(images), [_UNLABELLED if label is None else label for label in labels]


def tell_apart(columns: Sequence[Sequence[Any] | None]) -> bool:
    """Whether there are two or more labels; data sets without classes often have the same one everywhere."""
    labels = {str(label) for column in columns for label in column or ()}
    return len(labels - {str(_UNLABELLED)}) > 1


def class_names(dataset: Any, labels: Sequence[Sequence[Any] | None]) -> Sequence[str] | None:
    """The names of a data set's classes, if it has some and the labels are their numbers."""
    while hasattr(dataset, "dataset") and not hasattr(dataset, "classes"):  # a Subset
        dataset = dataset.dataset
    names = getattr(dataset, "classes", None)
    if not isinstance(names, (list, tuple)):
        return None
    for column in labels:
        for label in column or ():
            if not isinstance(label, int) or not -1 <= label < len(names):
                return None
    return [str(name) for name in names]


def _items(dataset: Any) -> Iterator[Any]:
    if hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__"):
        for number in range(len(dataset)):  # many data sets have no end for a plain loop
            yield dataset[number]
    else:
        yield from dataset


def _pair(item: Any, name: str) -> tuple[Any, Any]:
    """The image and the label of an item."""
    if isinstance(item, Mapping):
        image = next((item[key] for key in _IMAGE_KEYS if key in item), None)
        label = next((item[key] for key in _LABEL_KEYS if key in item), None)
        if image is None:
            raise UserError(f"{name} is a dict without an image; its keys are {', '.join(map(str, item))}")
        return image, label
    if not isinstance(item, (list, tuple)):
        return item, None
    if not item:
        raise UserError(f"{name} is empty, expected (image, label)")
    if len(item) == 1:
        return item[0], None
    return item[0], item[1]


def _pixels(image: Any, name: str) -> np.ndarray:
    from PIL import Image

    if isinstance(image, Image.Image):
        mode = "RGB"
        if is_grey(image):
            mode = "L"
        return np.asarray(eight_bit(image, mode)[0])
    if isinstance(image, Tensor):
        return image.detach().cpu().numpy()
    if isinstance(image, np.ndarray):
        return image
    raise UserError(
        f"{name} has a {type(image).__name__} for an image, expected a tensor, an array or a PIL image"
    )


def _label(label: Any, name: str) -> Any:
    """A label as a number or text, or a one-hot row."""
    if label is None or isinstance(label, (bool, int, float, str)):
        return label
    if isinstance(label, Tensor):
        label = label.detach().cpu().numpy()
    if isinstance(label, (np.ndarray, np.generic)) and np.ndim(label) <= 1:
        return label.tolist()
    raise UserError(f"{name} has a {type(label).__name__} for a label, expected a class: a number or text")
