"""CIFAR-10 in three layouts."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from pyro_lrp.core.downloads import online
from pyro_lrp.core.errors import UserError
from pyro_lrp.core.files import read_npz
from pyro_lrp.data.dataset import ImageData, Split

__all__ = ["cifar10"]

_VARIANTS = ("official", "lossless_subset", "jpeg")
_QUALITY = 75


def cifar10(root: str | Path, variant: str = "official") -> ImageData:
    """CIFAR-10, 32x32 RGB (Krizhevsky, 2009). The variant is part of the name that stands with every result.

    Args:
        root: Where the files are, or go.
        variant: ``"official"``: the 50,000 and 10,000 images, in torchvision's layout, downloaded if need be.
            ``"jpeg"``: the same after JPEG compression of quality 75, as the code of Dai and Wipf has them;
            from ``cifar10/cifar10_jpeg_full.npz`` if it is there. ``"lossless_subset"``: those of
            ``cifar10/cifar10_lossless_subset.npz``. Distances between variants are not comparable.

    Raises:
        UserError: If the files are missing (what to place where) or damaged, or the variant is unknown.
    """
    base = Path(root).expanduser()
    if variant == "official":
        train, test = (_official(base, train=part) for part in (True, False))
    elif variant == "lossless_subset":
        arrays = _arrays(base / "cifar10" / "cifar10_lossless_subset.npz", variant)
        train, test = (_split(arrays[f"{part}_images"], arrays[f"{part}_labels"]) for part in ("train", "test"))
    elif variant == "jpeg":
        train, test = _jpeg(base)
    else:
        raise UserError(f"data.variant must be one of {', '.join(_VARIANTS)}, got {variant!r}")
    return ImageData("cifar10" if variant == "official" else f"cifar10_{variant}", train, test)


def _split(images: Any, labels: Any) -> Split:
    channels_first = np.ascontiguousarray(np.asarray(images).transpose(0, 3, 1, 2))
    return Split(torch.from_numpy(channels_first), torch.from_numpy(np.asarray(labels).astype(np.int64)))


def _official(base: Path, *, train: bool) -> Split:
    from torchvision import datasets

    official = datasets.CIFAR10
    where = next((p for p in (base, base / "cifar10") if (p / official.base_folder).is_dir()), base)
    advice = (
        f"data=cifar10 needs {official.filename}, unpacked as {official.base_folder}, in {base}: place it "
        f"there, "
        "set data.root, or choose another data.variant"
    )
    if not (where / official.base_folder).is_dir() and not online(official.url):
        raise UserError(f"{advice} (there is no network to download it)")
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # its checksums are torchvision's affair
            whole = official(str(where), train=train, download=True)
    except (OSError, RuntimeError, EOFError) as error:
        raise UserError(f"{advice} ({' '.join(str(error).split())})") from error
    return _split(whole.data, whole.targets)


def _jpeg(base: Path) -> tuple[Split, Split]:
    path = base / "cifar10" / "cifar10_jpeg_full.npz"
    if not path.is_file():
        train, test = (_official(base, train=part) for part in (True, False))
        return _compressed(train), _compressed(test)
    arrays = _arrays(path, "jpeg")
    splits = []
    for part in ("train", "test"):
        stream, offsets = arrays[f"{part}_jpeg"], arrays[f"{part}_offsets"]
        pieces = [stream[a:b].tobytes() for a, b in zip(offsets, offsets[1:], strict=False)]
        splits.append(_split(np.stack([_decoded(piece) for piece in pieces]), arrays[f"{part}_labels"]))
    return splits[0], splits[1]


def _compressed(split: Split) -> Split:
    images = []
    for pixels in split.images.permute(0, 2, 3, 1).numpy():
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, format="JPEG", quality=_QUALITY)
        images.append(_decoded(buffer.getvalue()))
    return _split(np.stack(images), split.labels)


def _decoded(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def _arrays(path: Path, variant: str) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise UserError(
            f"data.variant={variant} needs {path.name} in {path.parent}: place it there, or set data.root"
        )
    return read_npz(path)
