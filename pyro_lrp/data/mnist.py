"""MNIST and Fashion-MNIST, from the idx files of their authors, gzipped or not."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pyro_lrp.core.downloads import online
from pyro_lrp.core.errors import UserError
from pyro_lrp.data.dataset import ImageData, Split

__all__ = ["fashion_mnist", "mnist"]


def mnist(root: str | Path) -> ImageData:
    """MNIST, 28x28, with its official 60,000 training and 10,000 test images (LeCun et al., 1998)."""
    return _mnist_like("MNIST", "mnist", root)


def fashion_mnist(root: str | Path) -> ImageData:
    """Fashion-MNIST, 28x28, with its official 60,000 and 10,000 images (Xiao et al., 2017)."""
    return _mnist_like("FashionMNIST", "fashion_mnist", root)


def _mnist_like(folder: str, name: str, root: str | Path) -> ImageData:
    from torchvision import datasets

    official = getattr(datasets, folder)
    raw = Path(root).expanduser() / folder / "raw"
    checksums = {}
    for file, md5 in official.resources:
        checksums[file.removesuffix(".gz")] = md5
    if not all(_find(raw, file) for file in checksums):
        _download(official, name, raw)
    train = _read_split(raw, "train", checksums)
    test = _read_split(raw, "t10k", checksums)
    return ImageData(name, train, test)


def _read_split(raw: Path, prefix: str, checksums: dict[str, str]) -> Split:
    images = _read_idx(raw, f"{prefix}-images-idx3-ubyte", checksums)
    labels = _read_idx(raw, f"{prefix}-labels-idx1-ubyte", checksums)
    with_channel = torch.from_numpy(images)[:, None]
    return Split(with_channel, torch.from_numpy(labels).long())


def _find(raw: Path, file: str) -> Path | None:
    """The gzipped or the plain file, or None."""
    for path in (raw / f"{file}.gz", raw / file):
        if path.is_file():
            return path
    return None


def _read_idx(raw: Path, file: str, checksums: dict[str, str]) -> np.ndarray:
    """One idx file, gzipped or not, read without unpacking into a folder that may be read-only."""
    path = _find(raw, file)
    assert path is not None, f"{file} exists or was downloaded"
    content = path.read_bytes()
    if path.suffix == ".gz":
        if hashlib.md5(content).hexdigest() != checksums[file]:
            raise UserError(f"{path} is truncated or changed (wrong MD5): delete it and get it again")
        content = gzip.decompress(content)
    array = _parse_idx(content)
    if array is None:
        raise UserError(f"{path} is truncated or is not an idx file: delete it and get it again")
    return array


def _parse_idx(content: bytes) -> np.ndarray | None:
    """The array in an idx file, or None if the content is not one."""
    if len(content) < 4:
        return None
    dims = content[3]
    header = 4 + 4 * dims
    if not dims or len(content) < header:
        return None
    shape = tuple(np.frombuffer(content, ">u4", count=dims, offset=4))
    size = int(np.prod(shape, dtype=np.int64))
    if len(content) != header + size:
        return None
    values = np.frombuffer(content, np.uint8, offset=header)
    return values.reshape(shape).copy()


def _download(official: Any, name: str, raw: Path) -> None:
    """Let torchvision download the files, unless the network does not answer within some seconds."""
    files = ", ".join(file for file, _ in official.resources)
    advice = f"data={name} needs {files} in {raw}: place them there, or set data.root"
    last_file = official.resources[-1][0]
    if not online(official.mirrors[-1] + last_file):
        raise UserError(f"{advice} (there is no network to download them)")
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            official(raw.parent.parent, download=True)
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{advice} (the download failed: {reason})") from error
