"""Data sets that need no download: scikit-learn's digits, a user's arrays, random images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from pyro_lrp.core.errors import UserError
from pyro_lrp.core.files import read_npz
from pyro_lrp.data.dataset import ImageData, Split

__all__ = ["digits", "fake", "npz"]

_MOST_BYTES = 2**33


def digits() -> ImageData:
    """The 1,797 handwritten digits that scikit-learn carries, 8x8; every fifth is a test image.

    References:
        Alpaydin and Kaynak (1998), Optical Recognition of Handwritten Digits, UCI.

    >>> data = digits()
    >>> data.image_shape, len(data.train), len(data.test)
    ((1, 8, 8), 1437, 360)
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = torch.from_numpy(np.rint(bunch.images * (255.0 / 16.0)).astype(np.uint8))[:, None]
    everything = Split(images, torch.from_numpy(bunch.target).long())
    test = torch.arange(len(images)) % 5 == 0
    return ImageData("digits", everything[~test], everything[test])


def npz(path: str | Path | None) -> ImageData:
    """A user's arrays, from a NumPy ``.npz`` file.

    Args:
        path: A file with ``train_images`` and ``test_images`` and, if there are classes, ``train_labels`` and
            ``test_labels``. Images are uint8, shape ``(N, H, W)``, ``(N, H, W, C)`` or ``(N, C, H, W)`` with
            1 or 3 channels.
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
    train, test = _npz_split(arrays, "train", file), _npz_split(arrays, "test", file)
    if train.images.shape[1:] != test.images.shape[1:]:
        shapes = f"{tuple(train.images.shape[1:])} and {tuple(test.images.shape[1:])}"
        raise UserError(f"data.path: training and test images in {file} differ in shape (C, H, W): {shapes}")
    return ImageData("npz", train, test)


def fake(n: int = 256, image_shape: Sequence[int] = (1, 28, 28), classes: int = 10) -> ImageData:
    """Random images for tests of wiring: class c is a bright bar at a place of its own, plus noise."""
    channels, height, width = image_shape
    if 2 * n * channels * height * width > _MOST_BYTES:
        raise ValueError(f"n and image_shape ask for more than {_MOST_BYTES:,} bytes")
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(2 * n) % classes
    images = torch.randint(0, 64, (2 * n, channels, height, width), generator=generator, dtype=torch.uint8)
    rows = labels * height // classes
    images[torch.arange(2 * n), :, rows] += 160
    everything = Split(images, labels)
    return ImageData("fake", everything[:n], everything[n:])


def _npz_split(arrays: dict[str, np.ndarray], part: str, file: Path) -> Split:
    images = arrays.get(f"{part}_images")
    if images is None:
        raise UserError(f"data.path: {file} has no array {part}_images (it has {', '.join(sorted(arrays))})")
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or len(images) == 0:
        found = f"{images.dtype} of shape {images.shape}"
        raise UserError(f"data.path: {part}_images in {file} must be uint8, (N, H, W[, C]), got {found}")
    tensor = torch.from_numpy(np.ascontiguousarray(images))
    if tensor.dim() == 3:
        tensor = tensor[:, None]
    elif tensor.shape[1] not in (1, 3):
        tensor = tensor.permute(0, 3, 1, 2).contiguous()
    if tensor.shape[1] not in (1, 3):
        raise UserError(f"data.path: {part}_images in {file} must have 1 or 3 channels, got {images.shape}")
    labels = arrays.get(f"{part}_labels")
    if labels is not None and labels.shape != (len(images),):
        raise UserError(
            f"data.path: {part}_labels in {file} must have shape ({len(images)},), got {labels.shape}"
        )
    return Split(tensor, None if labels is None else torch.from_numpy(labels.astype(np.int64)))
