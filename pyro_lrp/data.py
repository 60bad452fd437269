"""Image data sets as uint8 tensors, and batches of them in an order that is a function of seed and step.

Small sets live on the device and are indexed there: no worker processes, no transfer in the step.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyro_lrp.downloads import online
from pyro_lrp.errors import UserError
from pyro_lrp.randomness import derive_seed

__all__ = ["Batch", "Batches", "ImageData", "Split", "digits", "fake", "fashion_mnist", "mnist", "npz"]


class Batch(NamedTuple):
    """``x``: images in [0, 1], float32, shape ``(B, C, H, W)``; ``label``: shape ``(B,)``, or None."""

    x: Tensor
    label: Tensor | None = None


@dataclass(frozen=True)
class Split:
    """Images, uint8 of shape ``(N, C, H, W)``, and their class labels, int64 of shape ``(N,)``, or None."""

    images: Tensor
    labels: Tensor | None = None

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: slice | Tensor) -> Split:
        return Split(self.images[index], None if self.labels is None else self.labels[index])

    def to(self, device: torch.device) -> Split:
        """The same split on a device."""
        return Split(self.images.to(device), None if self.labels is None else self.labels.to(device))

    def batch(self, index: slice | Tensor) -> Batch:
        """The images at ``index`` as floats in [0, 1]."""
        part = self[index]
        return Batch(part.images.float().div_(255.0), part.labels)


@dataclass(frozen=True)
class ImageData:
    """A data set: its training images and its test images, which are never trained or selected on."""

    name: str
    train: Split
    test: Split

    @property
    def image_shape(self) -> tuple[int, int, int]:
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width

    def limited(self, limit: int | None) -> ImageData:
        """Only the first ``limit`` training images."""
        if limit is None:
            return self
        if not 1 <= limit <= len(self.train):
            raise UserError(f"data.limit must be between 1 and {len(self.train)}, got {limit}")
        return replace(self, train=self.train[:limit])

    def hold_out(self, share: float) -> tuple[Split, Split]:
        """The training images without, and the, validation share: fixed, whatever the seed of a run."""
        held = round(share * len(self.train))
        order = torch.randperm(len(self.train), generator=torch.Generator().manual_seed(0))
        return self.train[order[held:].sort().values], self.train[order[:held].sort().values]


class Batches:
    """An endless stream of batches: batch ``step`` of ``stream`` depends only on those two and the seed.

    Each epoch is a fresh shuffle without its last, partial batch. Nothing has to be saved to resume.

    Args:
        source: Anything indexable by a tensor, with a length.
        batch_size: At most ``len(source)``.
        seed: Of the shuffles.
        fetch: Makes a batch out of ``source`` and an index tensor; ``source[index]`` by default.
        device: Where the indices live.
    """

    def __init__(
        self,
        source: Any,
        batch_size: int,
        *,
        seed: int = 0,
        fetch: Callable[[Any, Tensor], Any] | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        if not 1 <= batch_size <= len(source):
            raise UserError(
                f"batch_size must be between 1 and the {len(source)} images there are, got {batch_size}"
            )
        self.source, self.batch_size, self.seed, self.device = source, batch_size, seed, device
        self.fetch = fetch or (lambda source, index: source[index])
        self._order: dict[int, tuple[int, Tensor]] = {}

    @property
    def steps_per_epoch(self) -> int:
        return len(self.source) // self.batch_size

    def at(self, step: int, stream: int = 0) -> Any:
        """Batch number ``step``, from 0; ``stream`` 1, 2, ... are independent minibatches of the same step."""
        epoch, position = divmod(step, self.steps_per_epoch)
        if self._order.get(stream, (-1,))[0] != epoch:
            generator = torch.Generator().manual_seed(derive_seed(self.seed, "order", stream, epoch))
            order = torch.randperm(len(self.source), generator=generator).to(self.device)
            self._order[stream] = (epoch, order)
        start = position * self.batch_size
        return self.fetch(self.source, self._order[stream][1][start : start + self.batch_size])


def chunks(split: Split, size: int = 500) -> Iterator[Batch]:
    """All images of a split, in order."""
    for start in range(0, len(split), size):
        yield split.batch(slice(start, start + size))


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


def mnist(root: str | Path) -> ImageData:
    """MNIST, 28x28, with its official 60,000 training and 10,000 test images (LeCun et al., 1998)."""
    return _mnist_like("MNIST", "mnist", root)


def fashion_mnist(root: str | Path) -> ImageData:
    """Fashion-MNIST, 28x28, with its official 60,000 and 10,000 images (Xiao et al., 2017)."""
    return _mnist_like("FashionMNIST", "fashion_mnist", root)


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
        with open(file, "rb") as stream, np.load(stream, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except FileNotFoundError as error:
        raise UserError(f"data.path: there is no file {file}") from error
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zipfile.LargeZipFile) as error:
        raise UserError(f"data.path: {file} is not a readable .npz file, or is truncated ({error})") from error
    train, test = _npz_split(arrays, "train", file), _npz_split(arrays, "test", file)
    if train.images.shape[1:] != test.images.shape[1:]:
        shapes = f"{tuple(train.images.shape[1:])} and {tuple(test.images.shape[1:])}"
        raise UserError(f"data.path: training and test images in {file} differ in shape (C, H, W): {shapes}")
    return ImageData("npz", train, test)


def fake(n: int = 256, image_shape: Sequence[int] = (1, 28, 28), classes: int = 10) -> ImageData:
    """Random images for tests of wiring: class c is a bright bar at a place of its own, plus noise."""
    channels, height, width = image_shape
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


def _mnist_like(folder: str, name: str, root: str | Path) -> ImageData:
    from torchvision import datasets

    official = getattr(datasets, folder)
    raw = Path(root).expanduser() / folder / "raw"
    checksums = {file.removesuffix(".gz"): md5 for file, md5 in official.resources}
    if not all(_find(raw, file) for file in checksums):
        _download(official, name, raw)
    parts = {
        part: Split(
            torch.from_numpy(_read_idx(raw, f"{prefix}-images-idx3-ubyte", checksums))[:, None],
            torch.from_numpy(_read_idx(raw, f"{prefix}-labels-idx1-ubyte", checksums)).long(),
        )
        for part, prefix in (("train", "train"), ("test", "t10k"))
    }
    return ImageData(name, parts["train"], parts["test"])


def _find(raw: Path, file: str) -> Path | None:
    return next((p for p in (raw / f"{file}.gz", raw / file) if p.is_file()), None)


def _read_idx(raw: Path, file: str, checksums: dict[str, str]) -> np.ndarray:
    """One idx file, gzipped or not, read without unpacking into a folder that may be read-only."""
    path = _find(raw, file)
    assert path is not None, f"{file} was found before"
    content = path.read_bytes()
    if path.suffix == ".gz":
        if hashlib.md5(content).hexdigest() != checksums[file]:
            raise UserError(f"{path} is truncated or changed (wrong MD5): delete it and get it again")
        content = gzip.decompress(content)
    dims = content[3] if len(content) > 3 else 0
    shape = tuple(np.frombuffer(content, ">u4", count=dims, offset=4)) if len(content) >= 4 + 4 * dims else (0,)
    if len(content) != 4 + 4 * dims + int(np.prod(shape, dtype=np.int64)) or not dims:
        raise UserError(f"{path} is truncated or is not an idx file: delete it and get it again")
    return np.frombuffer(content, np.uint8, offset=4 + 4 * dims).reshape(shape).copy()


def _download(official: Any, name: str, raw: Path) -> None:
    """Let torchvision fetch the files, unless the network does not answer within some seconds."""
    files = ", ".join(file for file, _ in official.resources)
    advice = f"data={name} needs {files} in {raw}: place them there, or set data.root"
    if not online(official.mirrors[-1] + official.resources[-1][0]):
        raise UserError(f"{advice} (there is no network to download them)")
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            official(raw.parent.parent, download=True)
    except (OSError, RuntimeError) as error:
        raise UserError(f"{advice} (the download failed: {' '.join(str(error).split())})") from error
