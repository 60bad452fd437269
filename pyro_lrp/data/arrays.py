"""Data sets that need no download: scikit-learn's digits, arrays of a user, random images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pyro_lrp.core.errors import UserError
from pyro_lrp.core.files import read_npz
from pyro_lrp.data.dataset import ImageData, Split

__all__ = ["digits", "fake", "npz"]

_MAX_BYTES = 2**33


def digits() -> ImageData:
    """The 1,797 handwritten digits included in scikit-learn, 8x8; every fifth is a test image.

    References:
        Alpaydin and Kaynak (1998), Optical Recognition of Handwritten Digits, UCI.

    >>> data = digits()
    >>> data.image_shape, len(data.train), len(data.test)
    ((1, 8, 8), 1437, 360)
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pixels = np.rint(bunch.images * (255.0 / 16.0))
    images = torch.from_numpy(pixels.astype(np.uint8))[:, None]
    labels = torch.from_numpy(bunch.target).long()
    everything = Split(images, labels)
    is_test = torch.arange(len(images)) % 5 == 0
    return ImageData("digits", everything[~is_test], everything[is_test])


def npz(path: str | Path | None) -> ImageData:
    """A user's arrays, from a NumPy ``.npz`` file.

    Args:
        path: A file with ``train_images`` and ``test_images`` and, if there are classes, ``train_labels`` and
            ``test_labels``. Images are uint8, shape ``(N, H, W)``, ``(N, H, W, C)`` or ``(N, C, H, W)`` with
            1 or 3 channels.

    Raises:
        UserError: If the file is missing or broken, or has other arrays.
    """
    if path is None:
        raise UserError("data=npz needs data.path=FILE, an .npz with train_images and test_images")
    file = Path(path).expanduser()
    try:
        arrays = read_npz(file)
    except FileNotFoundError as error:
        raise UserError(f"data.path: there is no file {file}") from error
    except UserError as error:
        raise UserError(f"data.path: {file} is not a readable .npz file, or is truncated") from error
    train = _npz_split(arrays, "train", file)
    test = _npz_split(arrays, "test", file)
    train_shape = tuple(train.images.shape[1:])
    test_shape = tuple(test.images.shape[1:])
    if train_shape != test_shape:
        raise UserError(
            f"data.path: training and test images in {file} differ in shape (C, H, W): "
            f"{train_shape} and {test_shape}"
        )
    return ImageData("npz", train, test)


def _npz_split(arrays: dict[str, np.ndarray], part: str, file: Path) -> Split:
    images = _npz_images(arrays, part, file)
    labels = arrays.get(f"{part}_labels")
    if labels is None:
        return Split(images)
    expected = (len(images),)
    if labels.shape != expected:
        raise UserError(f"data.path: {part}_labels in {file} must have shape {expected}, got {labels.shape}")
    return Split(images, torch.from_numpy(labels.astype(np.int64)))


def _npz_images(arrays: dict[str, np.ndarray], part: str, file: Path) -> Tensor:
    """The images of a part, as uint8 of shape ``(N, C, H, W)``."""
    name = f"{part}_images"
    images = arrays.get(name)
    if images is None:
        available = ", ".join(sorted(arrays))
        raise UserError(f"data.path: {file} has no array {name} (it has {available})")
    is_uint8 = images.dtype == np.uint8
    if not is_uint8 or images.ndim not in (3, 4) or len(images) == 0:
        raise UserError(
            f"data.path: {name} in {file} must be uint8, (N, H, W[, C]), "
            f"got {images.dtype} of shape {images.shape}"
        )
    tensor = torch.from_numpy(np.ascontiguousarray(images))
    if tensor.dim() == 3:
        tensor = tensor[:, None]
    elif tensor.shape[1] not in (1, 3):
        tensor = tensor.permute(0, 3, 1, 2).contiguous()
    if tensor.shape[1] not in (1, 3):
        raise UserError(f"data.path: {name} in {file} must have 1 or 3 channels, got {images.shape}")
    return tensor


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
