"""Image files, in a folder or a zip, decoded once into an array that later runs map into memory."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import zipfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from pyro_lrp.core.errors import UserError
from pyro_lrp.core.files import cache_dir

__all__ = ["Refused", "Source", "decode"]

_VERSION = 1  # raise it when the same parameters give other pixels


class Source:
    """The files of a folder (with its subfolders) or of a zip archive, in the order of their names.

    Hidden files are passed over.

    Args:
        path: A folder or a ``.zip``.
        key: What the user calls it, for errors.
        leave_out: Names that are not images.
    """

    def __init__(self, path: Path, key: str, leave_out: Sequence[str] = ()) -> None:
        self.path = path
        if path.is_dir():
            found = [file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()]
        elif path.is_file() and zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                found = [entry.filename for entry in archive.infolist() if not entry.is_dir()]
        elif path.exists():
            raise UserError(f"{key}: {path} is neither a folder nor a readable .zip (or is truncated)")
        else:
            raise UserError(f"{key}: there is no folder or .zip {path}")
        visible = (n for n in found if not any(p.startswith((".", "__MACOSX")) for p in n.split("/")))
        self.names = sorted(n for n in visible if n not in leave_out and not n.endswith("Thumbs.db"))
        if not self.names:
            raise UserError(f"{key}: there are no images in {path}")
        self._local = threading.local()

    def open(self, name: str) -> Image.Image:
        """One image, not yet decoded."""
        if self.path.is_dir():
            return Image.open(self.path / name)
        if not hasattr(self._local, "archive"):  # one for each thread: reading moves a file's position
            self._local.archive = zipfile.ZipFile(self.path)
        return Image.open(self._local.archive.open(name))

    def stamp(self) -> list[Any]:
        """What changes when a file does: paths, sizes and times."""
        files = [self.path / name for name in self.names] if self.path.is_dir() else [self.path]
        stats = [file.stat() for file in files]
        return [str(self.path.resolve()), self.names, [(s.st_size, s.st_mtime_ns) for s in stats]]


class Refused(Exception):
    """A picture that cannot be used as asked; ``kind`` is what can be said of all such pictures."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.kind, self.detail = kind, detail


def decode(
    source: Source, convert: Callable[[Image.Image], Image.Image], shape: tuple[int, int, int],
    parameters: dict[str, Any], *, skip_unreadable: bool = False, key: str,
) -> tuple[list[str], Tensor]:  # fmt: skip
    """The names and pixels of all images; from the user's cache if they were decoded before.

    The cache is ``$PYRO_LRP_CACHE``, or ``~/.cache/pyro_lrp``; a file there is keyed by the names, sizes and
    times of the source's files and by ``parameters``.

    Args:
        source: Where the images are.
        convert: Makes each one what is asked for; raises :class:`Refused`.
        shape: ``(C, H, W)`` of the result.
        parameters: What ``convert`` depends on.
        skip_unreadable: Leave out files that are no images, instead of refusing them all.
        key: What the user calls the source, for errors.

    Returns:
        Names, and uint8 of shape ``(N, C, H, W)``, mapped into memory.

    Raises:
        UserError: If files are no images, or not as asked for: the first of them, and how many.
    """
    what = json.dumps([_VERSION, source.stamp(), shape, parameters, skip_unreadable], sort_keys=True)
    folder = cache_dir("images")
    path = folder / f"{source.path.stem}_{hashlib.sha256(what.encode()).hexdigest()[:16]}.npy"
    kept = path.with_suffix(".json")
    if not (path.is_file() and kept.is_file()):
        _decode_all(source, convert, shape, path, kept, skip_unreadable=skip_unreadable, key=key)
    images = np.load(path, mmap_mode="c")  # private: a write would never reach the file
    return [source.names[i] for i in json.loads(kept.read_text())], torch.from_numpy(images)


def _decode_all(
    source: Source, convert: Callable, shape: tuple[int, int, int], path: Path, kept: Path, *,
    skip_unreadable: bool, key: str,
) -> None:  # fmt: skip
    fresh, fresh_kept = (p.with_name(f"{p.name}.{os.getpid()}.tmp") for p in (path, kept))
    array = np.lib.format.open_memmap(fresh, mode="w+", dtype=np.uint8, shape=(len(source.names), *shape))
    refused: dict[str, list[str]] = defaultdict(list)

    def one(index: int) -> int | None:
        name = source.names[index]
        try:
            with source.open(name) as image:
                pixels = np.asarray(convert(image))
        except Refused as error:
            refused[error.kind].append(f"{name}{error.detail}")
            return None
        except (OSError, ValueError, SyntaxError, zipfile.BadZipFile, Image.DecompressionBombError):
            refused["unreadable"].append(name)
            return None
        array[index] = (pixels if pixels.ndim == 3 else pixels[..., None]).transpose(2, 0, 1)
        return index

    try:
        with ThreadPoolExecutor() as pool:  # Pillow decodes outside the interpreter's lock
            done = pool.map(one, range(len(source.names)))
            found = list(tqdm(done, "decoding", len(source.names), unit="image", leave=False, disable=None))
        good = [index for index in found if index is not None]
        unreadable = sorted(refused.pop("unreadable", []))
        for kind, names in refused.items():
            raise UserError(f"{key}: {len(names)} of {len(found)} images {kind}; the first: {min(names)}")
        if unreadable and (not skip_unreadable or not good):
            raise UserError(
                f"{key}: {len(unreadable)} of {len(found)} files are no images that can be read, the first: "
                f"{unreadable[0]} (data.skip_unreadable=true leaves them out)"
            )
        if len(good) < len(found):
            array[: len(good)] = array[good]
        array.flush()
        if len(good) < len(found):
            _truncate(fresh, array[: len(good)])
        fresh_kept.write_text(json.dumps(good))
        os.replace(fresh_kept, kept)
        os.replace(fresh, path)
    finally:
        fresh.unlink(missing_ok=True)


def _truncate(path: Path, array: np.ndarray) -> None:
    """Write an array anew, in place of the longer one that it is a part of."""
    shorter = path.with_suffix(".shorter")
    with open(shorter, "wb") as file:
        np.save(file, array)
    os.replace(shorter, path)
