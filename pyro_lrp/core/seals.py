"""Checksums in files: a bit that a disk or a copy changed is found, instead of being believed.

They protect from accidents. Whoever changes a file on purpose can change its checksum too.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from pyro_lrp.core.files import plain

__all__ = ["CHECKSUM", "check_seal", "digest", "is_intact", "seal", "sealed"]

CHECKSUM = "checksum"
"""The key of a checksum among the entries that it is of."""

_MARK = b"pyro_lrp"
_SIZE = 16  # bytes of a digest
_BLOCK = 1 << 20  # bytes that are read at once


def seal(path: Path) -> None:
    """Append a checksum of its content to a file, of a format that allows further bytes, as ``.npy`` does."""
    with open(path, "rb+") as file:
        size = os.fstat(file.fileno()).st_size
        found = _hash(file, size)
        file.write(_MARK + found)


def check_seal(path: Path) -> None:
    """Compare a file with the checksum at its end.

    Raises:
        ValueError: If it has none, or another content.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size - _SIZE - len(_MARK)
        if size < 0:
            raise ValueError("it is truncated")
        found = _hash(file, size)
        if file.read() != _MARK + found:
            raise ValueError("its content does not match its checksum")


def digest(text: str) -> str:
    """The checksum of a text, 32 hexadecimal digits.

    >>> digest("a") == digest("b")
    False
    """
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=_SIZE).hexdigest()


def sealed(entries: Mapping[str, Any], name: str = "") -> dict[str, Any]:
    """Entries of a JSON object with their checksum among them.

    Args:
        entries: The entries; a checksum among them is replaced.
        name: What the entries belong to, such as the key of the object; it must be the same when they are read.

    >>> entries = sealed({"value": 1.5}, "fid")
    >>> is_intact(entries, "fid"), is_intact({**entries, "value": 2.5}, "fid"), is_intact({"value": 2.5}, "fid")
    (True, False, True)
    """
    return {**entries, CHECKSUM: _of_entries(entries, name)}


def is_intact(entries: Mapping[str, Any], name: str = "") -> bool:
    """Whether entries match the checksum among them; without one, as in files of earlier versions, they do.

    The name of the checksum may be what was damaged.

    >>> is_intact({"value": 1.5, "chegksum": "44ed73d85da3e375"})
    False
    """
    if CHECKSUM in entries:
        return entries[CHECKSUM] == _of_entries(entries, name)
    return not any(_is_nearly(key, CHECKSUM) for key in entries)


def _is_nearly(key: str, word: str) -> bool:
    """Whether one letter differs."""
    if len(key) != len(word):
        return False
    return sum(one != other for one, other in zip(key, word, strict=True)) == 1


def _of_entries(entries: Mapping[str, Any], name: str) -> str:
    others = {key: value for key, value in entries.items() if key != CHECKSUM}
    return digest(json.dumps([name, plain(others)], sort_keys=True))[:16]


def _hash(file: IO[bytes], size: int) -> bytes:
    """The digest of the first bytes of a file, after which its position is then."""
    state = hashlib.blake2b(digest_size=_SIZE)
    left = size
    while left:
        block = file.read(min(left, _BLOCK))
        if not block:
            raise ValueError("it is truncated")
        state.update(block)
        left -= len(block)
    return state.digest()
