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
