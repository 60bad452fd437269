"""Image files, in a folder or a zip, decoded once into an array that later runs map into memory."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyro_lrp.core.cache import DAMAGE, cache_file, locked, read_intact
from pyro_lrp.core.errors import UserError, printable
from pyro_lrp.core.files import unwritable, write_atomically
from pyro_lrp.core.seals import check_seal, digest, seal
from pyro_lrp.data.modes import LARGE, Refused
from pyro_lrp.data.source import Source, unreadable_errors

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["Decoded", "Refused", "Source", "decode", "map_array", "save_array"]

_VERSION = 3  # increment when the same parameters give other pixels, or other files
_UNREADABLE = "unreadable"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
Convert = Callable[["Image.Image"], "tuple[Image.Image, Iterable[str]]"]
Shape = Callable[[], tuple[int, int, int]]


class Decoded(NamedTuple):
    """The images of a source.

    Attributes:
        names: Names of the images.
        images: uint8 of shape ``(N, C, H, W)``, mapped into memory.
        notes: What was done to how many images, and which were left out; a sentence each.
    """

    names: list[str]
    images: Tensor
    notes: list[str]


def decode(
    source: Source,
    convert: Convert,
    shape: Shape,
    parameters: dict[str, Any],
    *,
    skip_unreadable: bool | None = None,
) -> Decoded:
    """The names and pixels of all images; from the user's cache if they were decoded before.

    The cache is ``$PYRO_LRP_CACHE``, or ``~/.cache/pyro_lrp``. The key of a cached file consists of the names,
    sizes and times of the source's files and of ``parameters``. A damaged file is made again. A second process
    that needs the same images waits for the first.

    Args:
        source: The image files.
        convert: Converts an image to the requested shape, and says what it did, as
            :func:`pyro_lrp.data.modes.eight_bit` does; raises :class:`Refused`.
        shape: Returns ``(C, H, W)`` of the result; asked only if the images must be decoded.
        parameters: Everything that ``convert`` and ``shape`` depend on, besides the source.
        skip_unreadable: Omit images that cannot be read, instead of raising an error; None if the data set has
            no such option.

    Raises:
        UserError: If files are no images, or were refused: the first of them, and their number. If the cache
            cannot be written.
    """
    request = [_VERSION, source.stamp(), parameters, skip_unreadable]
    text = json.dumps(request, sort_keys=True)
    key = hashlib.sha256(text.encode()).hexdigest()[:16]
    path = cache_file("images", f"{source.path.stem[:40]}_{key}.npy")
    with suppress(*DAMAGE):
        return _read(path, source)
    with locked(path):
        found = read_intact(path, lambda path: _read(path, source))
        if found is None:
            try:
                _decode_all(source, convert, shape(), path, skip_unreadable=skip_unreadable)
            except OSError as error:
                raise unwritable(path, error) from error
            found = _read(path, source)
    return found


def map_array(path: Path) -> np.ndarray:
    """The array of a file of :func:`save_array`, mapped into memory; changes of it never reach the file.

    Raises:
        ValueError: If the content of the file does not match its checksum.
    """
    check_seal(path)
    return np.load(path, mmap_mode="c")


def save_array(path: Path, array: np.ndarray) -> None:
    """Write a ``.npy`` file with a checksum, atomically."""

    def write(target: Path) -> None:
        with open(target, "wb") as file:
            np.save(file, array)
        seal(target)

    write_atomically(path, write)


def _index_of(path: Path) -> Path:
    return path.with_suffix(".json")


def _read(path: Path, source: Source) -> Decoded:
    """The contents of two files of the cache; raises ValueError and the like if they are damaged."""
    images = map_array(path)
    index = json.loads(_index_of(path).read_text(encoding="utf-8"))
    rows = index["rows"]
    if index["checksum"] != _checksum(rows, index["notes"]):
        raise ValueError(f"{_index_of(path).name} does not match its checksum")
    if images.dtype != np.uint8 or images.ndim != 4 or len(images) != len(rows):
        raise ValueError(f"{len(rows)} images were expected")
    names = [source.names[row] for row in rows]
    return Decoded(names, torch.from_numpy(images), list(index["notes"]))


def _checksum(rows: list[int], notes: list[str]) -> str:
    return digest(json.dumps([rows, notes]))


def _decode_all(
    source: Source,
    convert: Convert,
    shape: tuple[int, int, int],
    path: Path,
    *,
    skip_unreadable: bool | None,
) -> None:
    """Decode all images into ``path``; the numbers of the decoded ones, and notes, go to a file beside it."""
    count = len(source.names)

    def write(target: Path) -> None:
        array = np.lib.format.open_memmap(target, mode="w+", dtype=np.uint8, shape=(count, *shape))
        _reserve(target)
        results = _Results(source)
        results.decode_into(array, convert)
        results.raise_errors(skip_unreadable=skip_unreadable)
        decoded = results.decoded
        if len(decoded) < count:
            array[: len(decoded)] = array[decoded]
        array.flush()
        if len(decoded) < count:
            save_array(target, array[: len(decoded)])
        else:
            seal(target)
        notes = results.notes()
        index = json.dumps({"rows": decoded, "notes": notes, "checksum": _checksum(decoded, notes)})
        write_atomically(_index_of(path), lambda place: place.write_text(index, encoding="utf-8"))

    write_atomically(path, write)


class _Results:
    """What became of the images of a source.

    Attributes:
        decoded: Numbers of the images that were decoded, in order.
        refused: Names of refused images by kind.
        changes: How many images were changed, by kind.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self.decoded: list[int] = []
        self.refused: dict[str, list[str]] = defaultdict(list)
        self.changes: Counter[str] = Counter()
        self._large = threading.Lock()

    def decode_into(self, array: np.ndarray, convert: Convert) -> None:
        """Fill the rows of an array."""
        from tqdm.auto import tqdm

        expected = unreadable_errors()

        def decode_one(row: int) -> list[str] | None:
            name = self.source.names[row]
            try:
                with self.source.open(name) as file, self._turn(file):
                    image, changes = convert(file)
                    pixels = np.asarray(image)
            except Refused as error:
                self.refused[error.kind].append(f"{name}{error.detail}")
                return None
            except expected:
                self.refused[_UNREADABLE].append(name)
                return None
            if pixels.ndim == 2:
                pixels = pixels[..., None]
            array[row] = pixels.transpose(2, 0, 1)
            return list(changes)

        rows = range(len(self.source.names))
        with ThreadPoolExecutor() as pool:  # Pillow releases the interpreter's lock while it decodes
            results = pool.map(decode_one, rows)
            progress = tqdm(results, "decoding", len(rows), unit="image", leave=False, disable=None)
            for row, changes in enumerate(progress):
                if changes is not None:
                    self.decoded.append(row)
                    self.changes.update(changes)

    def _turn(self, image: Image.Image) -> AbstractContextManager:
        """Large images are decoded one after another, whatever the number of threads."""
        if image.width * image.height > LARGE:
            return self._large
        return nullcontext()

    def raise_errors(self, *, skip_unreadable: bool | None) -> None:
        """Raise an error that names the first image that was refused, or that could not be read."""
        key = self.source.key
        count = len(self.source.names)
        for kind, names in self.refused.items():
            if kind != _UNREADABLE:
                example = printable(min(names))
                raise UserError(f"{key}: {len(names)} of {count} images {kind}; the first: {example}")
        unreadable = self.refused[_UNREADABLE]
        if unreadable and (not skip_unreadable or not self.decoded):
            remedy = ""
            if skip_unreadable is not None:
                remedy = " (data.skip_unreadable=true leaves them out)"
            raise UserError(
                f"{key}: {len(unreadable)} of {count} files are no images that can be read, "
                f"the first: {printable(min(unreadable))}{remedy}"
            )

    def notes(self) -> list[str]:
        """A sentence for each kind of change, and for images that were left out."""
        key = self.source.key
        notes = [
            f"{key}: {number} of {len(self.decoded)} images {kind}" for kind, number in self.changes.items()
        ]
        unreadable = self.refused[_UNREADABLE]
        if unreadable:
            example = printable(min(unreadable))
            notes.append(
                f"{key}: images that cannot be read are left out ({len(unreadable)}, the first {example})"
            )
        return notes


def _reserve(path: Path) -> None:
    """Reserve the place of a sparse file, since writing to mapped pages of a full disk ends the process.

    Raises:
        OSError: If there is no place.
    """
    if not hasattr(os, "posix_fallocate"):
        return
    with open(path, "rb+") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        except OSError as error:
            if error.errno in _FULL:
                raise
