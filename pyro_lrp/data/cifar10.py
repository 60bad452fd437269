"""CIFAR-10 in three variants."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pyro_lrp.core.downloads import online
from pyro_lrp.core.errors import UserError
from pyro_lrp.core.files import read_npz
from pyro_lrp.core.pixels import jpeg_round_trip
from pyro_lrp.data.dataset import ImageData, Split

__all__ = ["cifar10"]

_VARIANTS = ("official", "lossless_subset", "jpeg")
_QUALITY = 75


def cifar10(root: str | Path, variant: str = "official") -> ImageData:
    """CIFAR-10, 32x32 RGB (Krizhevsky, 2009). The variant is part of the name recorded with every result.

    Args:
        root: Folder of the files, also of downloaded ones.
        variant: ``"official"``: the 50,000 and 10,000 images, in torchvision's layout, downloaded if missing.
            ``"jpeg"``: the same after JPEG compression with quality 75, as in the code of Dai and Wipf; read
            from ``cifar10/cifar10_jpeg_full.npz`` if it exists. ``"lossless_subset"``: the images in
            ``cifar10/cifar10_lossless_subset.npz``. Distances between variants are not comparable.

    Raises:
        UserError: If the files are missing (the message tells where to place them) or damaged, or the variant
            is unknown.
    """
    base = Path(root).expanduser()
    if variant == "official":
        train = _official(base, train=True)
        test = _official(base, train=False)
        return ImageData("cifar10", train, test)
    if variant == "lossless_subset":
        train, test = _lossless_subset(base)
    elif variant == "jpeg":
        train, test = _jpeg(base)
    else:
        known = ", ".join(_VARIANTS)
        raise UserError(f"data.variant must be one of {known}, got {variant!r}")
    return ImageData(f"cifar10_{variant}", train, test)


def _split(images: Any, labels: Any) -> Split:
    """A split of images ``(N, H, W, C)``."""
    channels_first = np.asarray(images).transpose(0, 3, 1, 2)
    pixels = np.ascontiguousarray(channels_first)
    classes = np.asarray(labels).astype(np.int64)
    return Split(torch.from_numpy(pixels), torch.from_numpy(classes))


# ---------------------------------------------------------------------
# variants
# ---------------------------------------------------------------------


def _official(base: Path, *, train: bool) -> Split:
    from torchvision import datasets

    official = datasets.CIFAR10
    folder = base
    for candidate in (base, base / "cifar10"):
        if (candidate / official.base_folder).is_dir():
            folder = candidate
            break
    advice = (
        f"data=cifar10 needs {official.filename}, unpacked as {official.base_folder}, in {base}: "
        "place it there, set data.root, or choose another data.variant"
    )
    exists = (folder / official.base_folder).is_dir()
    if not exists and not online(official.url):
        raise UserError(f"{advice} (there is no network to download it)")
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            # torchvision verifies the checksums.
            whole = official(str(folder), train=train, download=True)
    except (OSError, RuntimeError, EOFError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{advice} ({reason})") from error
    return _split(whole.data, whole.targets)


def _lossless_subset(base: Path) -> tuple[Split, Split]:
    path = base / "cifar10" / "cifar10_lossless_subset.npz"
    arrays = _arrays(path, "lossless_subset")
    train = _split(arrays["train_images"], arrays["train_labels"])
    test = _split(arrays["test_images"], arrays["test_labels"])
    return train, test


def _jpeg(base: Path) -> tuple[Split, Split]:
    path = base / "cifar10" / "cifar10_jpeg_full.npz"
    if not path.is_file():
        train = _official(base, train=True)
        test = _official(base, train=False)
        return _compressed(train), _compressed(test)
    arrays = _arrays(path, "jpeg")
    return _decoded_split(arrays, "train"), _decoded_split(arrays, "test")


def _arrays(path: Path, variant: str) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise UserError(
            f"data.variant={variant} needs {path.name} in {path.parent}: place it there, or set data.root"
        )
    return read_npz(path)


# ---------------------------------------------------------------------
# JPEG
# ---------------------------------------------------------------------


def _compressed(split: Split) -> Split:
    """The split after JPEG compression."""
    pixels = split.images.permute(0, 2, 3, 1).numpy()
    images = [jpeg_round_trip(image, _QUALITY) for image in pixels]
    return _split(np.stack(images), split.labels)


def _decoded_split(arrays: dict[str, np.ndarray], part: str) -> Split:
    """A split from the concatenated JPEG files of its images."""
    stream = arrays[f"{part}_jpeg"]
    offsets = arrays[f"{part}_offsets"]
    images = []
    for start, stop in zip(offsets, offsets[1:], strict=False):
        content = stream[start:stop].tobytes()
        images.append(_decoded(content))
    return _split(np.stack(images), arrays[f"{part}_labels"])


def _decoded(content: bytes) -> np.ndarray:
    from PIL import Image

    image = Image.open(io.BytesIO(content))
    return np.asarray(image.convert("RGB"))
