"""Tables of attributes in text files, in the encodings and with the names that people's files have."""

from __future__ import annotations

import codecs
import csv
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from pyro_lrp.core.errors import UserError, printable

__all__ = ["Flags", "composed", "csv_rows", "decoded_text", "flags_of_csv", "matched", "natural"]

_DELIMITERS = ",;\t"
Flags = dict[str, list[bool]]
"""The attributes of each image by its name."""


def composed(name: str) -> str:
    r"""A name as others are compared with it: accents composed (NFC), and ``/`` between folders.

    >>> composed("cafe\u0301\\1.png")
    'café/1.png'
    """
    return unicodedata.normalize("NFC", name).replace("\\", "/").removeprefix("./")


def natural(name: str) -> list[tuple[int, int, str]]:
    """A key that sorts names as people number them.

    >>> sorted(["10", "2", "cat 10", "cat 9", "Bat"], key=natural)
    ['2', '10', 'Bat', 'cat 9', 'cat 10']
    """
    key = []
    for piece in _pieces(name):
        if piece.isdecimal():
            key.append((0, int(piece), piece))
        else:
            key.append((1, 0, piece.casefold()))
    return [*key, (2, 0, name)]


def _pieces(name: str) -> list[str]:
    """The runs of digits of a name, and what stands between them."""
    pieces: list[str] = []
    for letter in name:
        if pieces and pieces[-1][-1].isdecimal() == letter.isdecimal():
            pieces[-1] += letter
        else:
            pieces.append(letter)
    return pieces


def decoded_text(content: bytes) -> str:
    """Text in UTF-8, with or without a mark; in UTF-16 with one; else in latin-1, which always decodes."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16", errors="replace")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def csv_rows(text: str) -> list[list[str]]:
    """The rows of a table that is separated by commas, semicolons or tabs, without empty rows."""
    lines = text.splitlines()
    header = ""
    if lines:
        header = lines[0]
    delimiter = max(_DELIMITERS, key=header.count)
    rows = []
    for row in csv.reader(lines, delimiter=delimiter):
        cells = [cell.strip() for cell in row]
        if any(cells):
            rows.append(cells)
    return rows


def flags_of_csv(text: str, origin: Path | str) -> tuple[tuple[str, ...], Flags]:
    """Names of the attributes, and their values by image, of a table with the header ``file,NAME,...``.

    Raises:
        UserError: If there is no such header, or a row has other values than 0 and 1, or -1 and 1.
    """
    rows = csv_rows(text)
    if not rows or len(rows[0]) < 2:
        raise UserError(f"{origin} must begin with the header file,NAME,... of its columns")
    columns = tuple(composed(name) for name in rows[0][1:])
    flags = {}
    for number, (name, *values) in enumerate(rows[1:], start=2):
        if len(values) != len(columns) or not set(values) <= {"0", "1", "-1"}:
            raise UserError(f"{origin}, row {number}: expected a file's name and {len(columns)} values, 0 or 1")
        flags[composed(name)] = [value == "1" for value in values]
    return columns, flags


def matched(flags: Flags, names: Sequence[str], origin: Path | str) -> Tensor:
    """The rows of a table of attributes in the order of the images, bool ``(N, A)``.

    A row names its image with or without the folders, and with accents composed or not.

    Raises:
        UserError: If an image has no row.
    """
    keys = _keys(names, flags)
    missing = [name for name, key in zip(names, keys, strict=True) if key not in flags]
    if missing:
        raise UserError(
            f"{origin}: its rows do not match the images: {len(missing)} of {len(names)} have no row, "
            f"the first: {printable(missing[0])}"
        )
    return torch.tensor([flags[key] for key in keys], dtype=torch.bool)


def _keys(names: Sequence[str], known: Iterable[str]) -> list[str]:
    """The key of each image: its path, or the longest end of its path that is a key of no other image."""
    known = set(known)
    paths = [composed(name) for name in names]
    sharing = Counter(end for path in paths for end in _ends(path))
    keys = []
    for path in paths:
        candidates = [end for end in _ends(path) if end in known]
        unambiguous = [end for end in candidates if end == path or sharing[end] == 1]
        keys.append(next(iter(unambiguous), path))
    return keys


def _ends(path: str) -> list[str]:
    """A path, and what is left of it without its first folders, down to the file's own name.

    >>> _ends("pets/cat/1.png")
    ['pets/cat/1.png', 'cat/1.png', '1.png']
    """
    parts = path.split("/")
    return ["/".join(parts[start:]) for start in range(len(parts))]
