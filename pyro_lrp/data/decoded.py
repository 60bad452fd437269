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
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pyro_lrp.core.errors import UserError
from pyro_lrp.core.files import cache_dir

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["Refused", "Source", "decode"]

_VERSION = 1  # increment when the same parameters give other pixels
_UNREADABLE = "unreadable"


class Source:
    """The files of a folder (with its subfolders) or of a zip archive, in the order of their names.

    Hidden files are ignored.

    Args:
        path: A folder or a ``.zip``.
        key: Configuration key of the path, for errors.
        leave_out: Names of files that are not images.
    """

    def __init__(self, path: Path, key: str, leave_out: Sequence[str] = ()) -> None:
        self.path = path
        self.names = []
        for name in sorted(_file_names(path, key)):
            ignored = name in leave_out or name.endswith("Thumbs.db")
            if not ignored and not _is_hidden(name):
                self.names.append(name)
        if not self.names:
            raise UserError(f"{key}: there are no images in {path}")
        self._local = threading.local()

    def open(self, name: str) -> Image.Image:
        """Open one image, without decoding it."""
        from PIL import Image

        if self.path.is_dir():
            return Image.open(self.path / name)
        # One archive per thread, since reading moves the position in the file.
        if not hasattr(self._local, "archive"):
            self._local.archive = zipfile.ZipFile(self.path)
        return Image.open(self._local.archive.open(name))

    def stamp(self) -> list[Any]:
        """Paths, sizes and times of the files, to detect changes."""
        files = [self.path]
        if self.path.is_dir():
            files = [self.path / name for name in self.names]
        stamps = []
        for file in files:
            stat = file.stat()
            stamps.append((stat.st_size, stat.st_mtime_ns))
        return [str(self.path.resolve()), self.names, stamps]


def _file_names(path: Path, key: str) -> list[str]:
    """Names of all files in a folder or a zip archive, relative to it."""
    if path.is_dir():
        files = [file for file in path.rglob("*") if file.is_file()]
        return [file.relative_to(path).as_posix() for file in files]
    if path.is_file() and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
        return [entry.filename for entry in entries if not entry.is_dir()]
    if path.exists():
        raise UserError(f"{key}: {path} is neither a folder nor a readable .zip (or is truncated)")
    raise UserError(f"{key}: there is no folder or .zip {path}")


def _is_hidden(name: str) -> bool:
    parts = name.split("/")
    return any(part.startswith((".", "__MACOSX")) for part in parts)


class Refused(Exception):
    """An image that does not satisfy the request.

    Args:
        kind: A statement that holds for all images refused for the same reason.
        detail: An addition to the name of this image.
    """

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail


def decode(
    source: Source,
    convert: Callable[[Image.Image], Image.Image],
    shape: tuple[int, int, int],
    parameters: dict[str, Any],
    *,
    skip_unreadable: bool = False,
    key: str,
) -> tuple[list[str], Tensor]:
    """The names and pixels of all images; from the user's cache if they were decoded before.

    The cache is ``$PYRO_LRP_CACHE``, or ``~/.cache/pyro_lrp``. The key of a cached file consists of the names,
    sizes and times of the source's files and of ``parameters``.

    Args:
        source: The image files.
        convert: Converts each image to the requested shape; raises :class:`Refused`.
        shape: ``(C, H, W)`` of the result.
        parameters: Everything that ``convert`` depends on.
        skip_unreadable: Omit files that are not images, instead of raising an error.
        key: Configuration key of the source, for errors.

    Returns:
        Names, and uint8 of shape ``(N, C, H, W)``, mapped into memory.

    Raises:
        UserError: If files are no images, or were refused: the first of them, and their number.
    """
    request = [_VERSION, source.stamp(), shape, parameters, skip_unreadable]
    text = json.dumps(request, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    path = cache_dir("images") / f"{source.path.stem}_{digest}.npy"
    index_path = path.with_suffix(".json")
    if not (path.is_file() and index_path.is_file()):
        _decode_all(source, convert, shape, path, index_path, skip_unreadable=skip_unreadable, key=key)
    images = np.load(path, mmap_mode="c")  # copy on write: the file is never changed
    rows = json.loads(index_path.read_text())
    names = [source.names[row] for row in rows]
    return names, torch.from_numpy(images)


def _decode_all(
    source: Source,
    convert: Callable,
    shape: tuple[int, int, int],
    path: Path,
    index_path: Path,
    *,
    skip_unreadable: bool,
    key: str,
) -> None:
    """Decode all images into ``path``, and write the numbers of the decoded ones to ``index_path``."""
    temporary = _temporary(path)
    temporary_index = _temporary(index_path)
    count = len(source.names)
    array = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=(count, *shape))
    try:
        decoded, refused = _decode_into(array, source, convert)
        unreadable = sorted(refused.pop(_UNREADABLE, []))
        for kind, names in refused.items():
            raise UserError(f"{key}: {len(names)} of {count} images {kind}; the first: {min(names)}")
        if unreadable and (not skip_unreadable or not decoded):
            raise UserError(
                f"{key}: {len(unreadable)} of {count} files are no images that can be read, "
                f"the first: {unreadable[0]} (data.skip_unreadable=true leaves them out)"
            )
        is_partial = len(decoded) < count
        if is_partial:
            array[: len(decoded)] = array[decoded]
        array.flush()
        if is_partial:
            _truncate(temporary, array[: len(decoded)])
        temporary_index.write_text(json.dumps(decoded))
        os.replace(temporary_index, index_path)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _decode_into(
    array: np.ndarray, source: Source, convert: Callable
) -> tuple[list[int], dict[str, list[str]]]:
    """Fill the rows of an array; return the decoded rows, and the refused images by kind."""
    from PIL import Image
    from tqdm.auto import tqdm

    unreadable_errors = (
        OSError,
        ValueError,
        SyntaxError,
        zipfile.BadZipFile,
        Image.DecompressionBombError,
    )
    refused: dict[str, list[str]] = defaultdict(list)

    def decode_one(row: int) -> bool:
        name = source.names[row]
        try:
            with source.open(name) as image:
                pixels = np.asarray(convert(image))
        except Refused as error:
            refused[error.kind].append(f"{name}{error.detail}")
            return False
        except unreadable_errors:
            refused[_UNREADABLE].append(name)
            return False
        if pixels.ndim == 2:
            pixels = pixels[..., None]
        array[row] = pixels.transpose(2, 0, 1)
        return True

    rows = range(len(source.names))
    with ThreadPoolExecutor() as pool:  # Pillow releases the interpreter's lock while it decodes
        results = pool.map(decode_one, rows)
        progress = tqdm(results, "decoding", len(rows), unit="image", leave=False, disable=None)
        succeeded = list(progress)
    return [row for row in rows if succeeded[row]], refused


def _temporary(path: Path) -> Path:
    return path.with_name(f"{path.name}.{os.getpid()}.tmp")


def _truncate(path: Path, array: np.ndarray) -> None:
    """Replace the file of an array by its first part."""
    shorter = path.with_suffix(".shorter")
    with open(shorter, "wb") as file:
        np.save(file, array)
    os.replace(shorter, path)
