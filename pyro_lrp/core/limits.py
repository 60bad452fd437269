"""Bounds on files from sources that are not trusted, checked before they are read: no file exhausts memory."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

from pyro_lrp.core.errors import UserError, printable

__all__ = ["LARGEST_TEXT", "gunzip", "refuse_bomb", "refuse_special"]

LARGEST_TEXT = 2**28  # bytes of a table, unpacked
_SMALL = 2**30  # bytes that an archive may always unpack to
_RATIO = 256  # of more bytes: how many each byte of the archive may stand for


def refuse_special(path: Path, key: str = "") -> None:
    """Refuse what is neither a file nor a folder: reading a pipe may wait for ever, a device never ends.

    Args:
        path: A path, of something or nothing.
        key: The key that names it, for the error.

    Raises:
        UserError: If it is a pipe, a socket or a device.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        place = f"{key}: {path}" if key else str(path)
        raise UserError(printable(f"{place} is a pipe or a device, and not a file"))


def refuse_bomb(archive: zipfile.ZipFile, size: int) -> None:
    """Refuse a zip that unpacks to far more than any data set.

    Args:
        archive: The archive.
        size: Its size in bytes.

    Raises:
        ValueError: If it unpacks to more than 1 GiB, and to more than 256 times its size.
    """
    unpacked = sum(entry.file_size for entry in archive.infolist())
    if unpacked > max(_SMALL, _RATIO * size):
        raise ValueError(f"its {size:,} bytes unpack to {unpacked:,}")


def gunzip(content: bytes, limit: int = LARGEST_TEXT) -> bytes:
    """The content of a gzip file.

    Args:
        content: The file.
        limit: Number of bytes.

    Raises:
        ValueError: If it holds more bytes than the limit.
        EOFError: If it is truncated.
        zlib.error: If it is damaged.

    >>> import gzip
    >>> gunzip(gzip.compress(b"a") + gzip.compress(b"b"))
    b'ab'
    """
    parts = []
    left = limit
    while content:
        member = zlib.decompressobj(16 + zlib.MAX_WBITS)
        part = member.decompress(content, left + 1)
        left -= len(part)
        if left < 0:
            raise ValueError(f"it unpacks to more than {limit:,} bytes")
        if not member.eof:
            raise EOFError("it is truncated")
        parts.append(part)
        content = member.unused_data.lstrip(b"\0")
    return b"".join(parts)
