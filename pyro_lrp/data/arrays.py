"""Data sets that need no download: arrays of a user, scikit-learn's digits, random images."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyro_lrp.core.errors import UserError
from pyro_lrp.core.files import READ_ERRORS, read_npz
from pyro_lrp.core.limits import refuse_special
from pyro_lrp.data.dataset import ImageData, Split
from pyro_lrp.data.gathered import class_names, gathered, tell_apart
from pyro_lrp.data.labels import numbered
from pyro_lrp.data.parts import divide, tenth
from pyro_lrp.data.values import as_images

__all__ = ["digits", "fake", "from_arrays", "from_dataset", "npz"]

_MAX_BYTES = 2**33
_WHOLE = "whole"
_PREFIXES = {"train": "train_", "test": "test_", "validation": "validation_", _WHOLE: ""}
_ALIASES = {
    "x_train": "train_images",
    "y_train": "train_labels",
    "x_test": "test_images",
    "y_test": "test_labels",
    "x_val": "validation_images",
    "y_val": "validation_labels",
    "val_images": "validation_images",
    "val_labels": "validation_labels",
}


def digits() -> ImageData:
    """The 1,797 handwritten digits included in scikit-learn, 8x8; every fifth is a test image.

    References:
        Alpaydin and Kaynak (1998), Optical Recognition of Handwritten Digits, UCI.

    >>> data = digits()
    >>> data.image_shape, len(data.train), len(data.test)
    ((1, 8, 8), 1437, 360)
    """
    everything = _all_digits()
    is_test = torch.arange(len(everything)) % 5 == 0
    return ImageData("digits", everything[~is_test], everything[is_test])  # copies


@functools.cache
def _all_digits() -> Split:
    """All images, which take thirty milliseconds to read."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pixels = np.rint(bunch.images * (255.0 / 16.0))
    images = torch.from_numpy(pixels.astype(np.uint8))[:, None]
    labels = torch.from_numpy(bunch.target).long()
    return Split(images, labels)


def npz(
    path: str | Path | None,
    split: Sequence[float] | None = None,
    value_range: Sequence[float] | None = None,
) -> ImageData:
    """A user's arrays, from a NumPy ``.npz`` or ``.npy`` file.

    Args:
        path: A file with ``train_images`` and ``test_images`` and, if there are classes, ``train_labels`` and
            ``test_labels``; perhaps also ``val_images`` and ``val_labels``. Or with ``images`` and perhaps
            ``labels``, or with a single array, which are divided here. ``x_train``, ``y_train`` and so on are
            read likewise. For their forms see :func:`from_arrays`.
        split: Of arrays that are divided here, as for :func:`from_arrays`.
        value_range: As for :func:`from_arrays`.

    Raises:
        UserError: If the file is missing or broken, or has other arrays.
    """
    if path is None:
        raise UserError("data=npz needs data.path=FILE, an .npz with images, or train_images and test_images")
    file = Path(path).expanduser()
    arrays = _usual_names(_read(file))
    parts = {}
    for part, prefix in _PREFIXES.items():
        images = f"{prefix}images"
        labels = f"{prefix}labels"
        if images in arrays:
            parts[part] = _Part(arrays[images], arrays.get(labels), images, labels)
    _check_parts(parts, arrays, file)
    if _WHOLE in parts:
        parts = {"train": parts[_WHOLE]}
    try:
        return _assembled("npz", parts, split, value_range)
    except UserError as error:
        raise UserError(f"data.path: {file}: {error}") from error


def _check_parts(parts: Mapping[str, _Part], arrays: Mapping[str, Any], file: Path) -> None:
    whole = set(parts) == {_WHOLE}
    if whole or set(parts) in ({"train", "test"}, {"train", "test", "validation"}):
        return
    available = ", ".join(sorted(arrays))
    raise UserError(
        f"data.path: {file} must hold train_images and test_images, or images alone, which are then divided; "
        f"it has {available}"
    )


def _read(file: Path) -> dict[str, np.ndarray]:
    """The arrays of a file; the array of an ``.npy`` has the name images."""
    refuse_special(file, "data.path")
    try:
        if file.suffix == ".npy":
            return {"images": np.load(file, allow_pickle=False)}
        return read_npz(file)
    except FileNotFoundError as error:
        raise UserError(f"data.path: there is no file {file}") from error
    except READ_ERRORS as error:  # a UserError is a ValueError
        if "allow_pickle" in str(error):
            raise UserError(
                f"data.path: {file} holds Python objects, which are not unpickled: save images as one array of "
                "numbers, and labels as numbers or as np.array(labels, dtype=str)"
            ) from error
        reason = ""
        if "unpack to" in str(error):
            reason = f" ({error})"
        raise UserError(
            f"data.path: {file} is not a readable .npz or .npy file, or is truncated{reason}"
        ) from error


def _usual_names(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays by the names that :func:`npz` expects."""
    if set(arrays) == {"arr_0"}:  # np.savez(file, images)
        return {"images": arrays["arr_0"]}
    return {_ALIASES.get(name, name): array for name, array in arrays.items()}


def from_arrays(
    train: Any,
    test: Any = None,
    *,
    labels: Any = None,
    test_labels: Any = None,
    validation: Any = None,
    validation_labels: Any = None,
    classes: Sequence[str] | None = None,
    split: Sequence[float] | None = None,
    value_range: Sequence[float] | None = None,
    name: str = "arrays",
) -> ImageData:
    """A data set of arrays or tensors in memory, which are never changed.

    Args:
        train: Training images, of shape ``(N, H, W)``, ``(N, H, W, C)`` or ``(N, C, H, W)`` with 1 or 3
            channels: bytes, or numbers in [0, 1], [-1, 1] or [0, 255]. The data set's notes say which range was
            taken.
        test: Test images, of the same form. If None, ``train`` is divided.
        labels: Classes of the training images: whole numbers, text, or one-hot rows; of shape ``(N,)``,
            ``(N, 1)`` or ``(N, K)``; -1 for an image without a class. Those that occur are the classes, two or
            more.
        test_labels: Classes of the test images.
        validation: Validation images, if there are any.
        validation_labels: Their classes.
        classes: Names of the classes, if labels are their numbers.
        split: If there are no test images: as for :func:`pyro_lrp.data.divide`, at random, with each class in
            proportion, and the same in every run. If None a tenth are test images.
        value_range: The values of black and white, such as ``[0, 16]``, if the images have another range.
        name: Recorded with every result.

    Raises:
        UserError: If the arrays are no images, their range is not certain, or labels are no classes.

    >>> images = torch.rand(20, 8, 8)
    >>> data = from_arrays(images, labels=["cat", "dog"] * 10)
    >>> data.image_shape, len(data.train), len(data.test), data.classes
    ((1, 8, 8), 18, 2, ('cat', 'dog'))
    """
    parts = {"train": _Part(train, labels, "train", "labels")}
    if test is not None:
        parts["test"] = _Part(test, test_labels, "test", "test_labels")
    if validation is not None:
        parts["validation"] = _Part(validation, validation_labels, "validation", "validation_labels")
    return _assembled(name, parts, split, value_range, classes)


def from_dataset(
    train: Any,
    test: Any = None,
    *,
    split: Sequence[float] | None = None,
    value_range: Sequence[float] | None = None,
    classes: Sequence[str] | None = None,
    name: str | None = None,
) -> ImageData:
    """A data set of the images of a :class:`torch.utils.data.Dataset`, all of which are read once.

    Args:
        train: Yields images, pairs ``(image, label)``, or dicts with ``image`` and ``label``. An image is one
            of Pillow's, a tensor ``(C, H, W)`` or an array, all of one shape. Transforms at random are drawn
            once. Labels that are all alike are left out.
        test: The same of test images. If None, ``train`` is divided.
        split: As for :func:`from_arrays`.
        value_range: As for :func:`from_arrays`; of normalised tensors, for example.
        classes: Names of the classes; by default the data set's own, if it has any.
        name: Recorded with every result; by default the name of the data set's class.

    Raises:
        UserError: As :func:`from_arrays` does; if an item has another form.
    """
    images, labels = gathered(train, "train")
    parts = {"train": _Part(images, labels, "train", "the labels of train")}
    if test is not None:
        images, labels = gathered(test, "test")
        parts["test"] = _Part(images, labels, "test", "the labels of test")
    columns = [part.labels for part in parts.values()]
    if classes is None:
        classes = class_names(train, columns)
    if not tell_apart(columns):
        parts = {key: part._replace(labels=None) for key, part in parts.items()}
    return _assembled(name or type(train).__name__, parts, split, value_range, classes)


class _Part(NamedTuple):
    """The arrays of a part of a data set, and their names for errors."""

    images: Any
    labels: Any
    images_name: str
    labels_name: str


def _assembled(
    name: str,
    parts: Mapping[str, _Part],
    split: Sequence[float] | None,
    value_range: Sequence[float] | None,
    classes: Sequence[str] | None = None,
) -> ImageData:
    """The data set of some parts, of which ``train`` is divided if there is no ``test``."""
    arrays = {part.images_name: part.images for part in parts.values()}
    images, notes = as_images(arrays, value_range)
    columns = {}
    for part in parts.values():
        if part.labels is not None:
            columns[part.labels_name] = (part.labels, len(images[part.images_name]))
    labels, names = numbered(columns, classes)
    splits = {}
    for key, part in parts.items():
        own_labels = labels.get(part.labels_name)
        splits[key] = Split(images[part.images_name], own_labels)
        notes += _label_notes(part, own_labels)
    splits = _divided(splits, split)
    notes += _unseen_classes(splits, names)
    splits = {key: _without_empty_labels(own) for key, own in splits.items()}
    return ImageData(
        name,
        splits["train"],
        splits["test"],
        splits.get("validation"),
        classes=names,
        notes=tuple(notes),
    )


def _divided(splits: dict[str, Split], split: Sequence[float] | None) -> dict[str, Split]:
    """The splits; without test images, the training images are divided."""
    if "test" in splits:
        if split is not None:
            raise UserError("data.split has no effect: there are test images already")
        return splits
    whole = splits["train"]
    count = len(whole)
    if count < 2:
        raise UserError("there is one image; training and testing need at least two")
    if split is None:
        rows = tenth(count, whole.labels)
    else:
        rows = divide(split, count, whole.labels)
    train, validation, test = rows
    divided = {**splits, "train": whole[train], "test": whole[test]}
    if validation is not None:
        divided["validation"] = whole[validation]
    return divided


def _without_empty_labels(split: Split) -> Split:
    """The split; without labels if no image has one."""
    if len(split.labelled()):
        return split
    return replace(split, labels=None)


def _label_notes(part: _Part, labels: Tensor | None) -> list[str]:
    if labels is None:
        return []
    missing = int((labels < 0).sum())
    if not missing:
        return []
    return [f"{part.labels_name}: {missing} of {len(labels)} images have the label -1, that is, no class"]


def _unseen_classes(splits: Mapping[str, Split], names: Sequence[str]) -> list[str]:
    """A note about classes that no training image has."""
    labels = splits["train"].labels
    if labels is None:
        return []
    seen = set(labels.tolist())
    unseen = [name for number, name in enumerate(names) if number not in seen]
    if not unseen:
        return []
    return [f"no training image belongs to the classes {', '.join(unseen)}"]


def fake(n: int = 256, image_shape: Sequence[int] = (1, 28, 28), classes: int = 10) -> ImageData:
    """Random images for integration tests: class c is a bright bar at row ``c * height / classes``, plus noise.

    Args:
        n: Number of training images, and of test images.
        image_shape: ``(C, H, W)``.
        classes: Number of classes.

    Raises:
        ValueError: If the images would need more than 8 GiB.
    """
    channels, height, width = image_shape
    count = 2 * n
    if count * channels * height * width > _MAX_BYTES:
        raise ValueError(f"n and image_shape ask for more than {_MAX_BYTES:,} bytes")
    generator = torch.Generator().manual_seed(0)
    shape = (count, channels, height, width)
    images = torch.randint(0, 64, shape, generator=generator, dtype=torch.uint8)
    numbers = torch.arange(count)
    labels = numbers % classes
    bars = labels * height // classes
    images[numbers, :, bars] += 160
    everything = Split(images, labels)
    return ImageData("fake", everything[:n], everything[n:])
