"""Files: the user's cache, atomic writes, JSON for people, and arrays that may come from a stranger."""

from __future__ import annotations

import json
import math
import os
import secrets
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pyro_lrp.core.errors import UserError

__all__ = [
    "cache_dir",
    "plain",
    "read_json",
    "read_npz",
    "remove_temporaries",
    "write_atomically",
    "write_json",
]

_TEMPORARY = ".tmp"


def cache_dir(name: str) -> Path:
    """A folder of the user's cache, ``$PYRO_LRP_CACHE`` or ``~/.cache/pyro_lrp``; made if it is missing."""
    folder = Path(os.environ.get("PYRO_LRP_CACHE") or "~/.cache/pyro_lrp").expanduser() / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Call ``write`` on a temporary file beside ``path``, flush it to the disk, then rename it to ``path``.

    The temporary file has an unpredictable name and is created exclusively, so that nothing which already lies
    in the folder, a symbolic link above all, can redirect the write. A link at ``path`` itself is replaced.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}{_TEMPORARY}")
    # tempfile.mkstemp would do the same, but with a mode that keeps results from one's group
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    try:
        write(temporary)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_temporaries(folder: Path) -> None:
    """Delete what a killed :func:`write_atomically` left in a folder."""
    for path in folder.glob(f".*{_TEMPORARY}"):
        path.unlink(missing_ok=True)


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an ``.npz`` file, none of them unpickled.

    Raises:
        FileNotFoundError: If there is no such file.
        UserError: If it is no such archive, is truncated, or holds objects.
    """
    try:
        with open(path, "rb") as file:
            if not zipfile.is_zipfile(file):
                raise ValueError("no .npz archive")
            with np.load(file, allow_pickle=False) as archive:
                return {name: archive[name] for name in archive.files}
    except FileNotFoundError:
        raise
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error) as error:
        raise UserError(f"{path} is not readable, or is truncated ({error})") from error


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object, or one sentence that names the file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not readable JSON: mend it or delete it") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is not a JSON object: mend it or delete it")
    return content


def write_json(path: Path, content: Any) -> None:
    """Write JSON for people to read, atomically."""
    text = json.dumps(plain(content), indent=2, allow_nan=False) + "\n"
    write_atomically(path, lambda target: target.write_text(text, encoding="utf-8"))


def plain(node: Any) -> Any:
    """A tree for JSON: floats of eight digits, and null for what JSON has no number for."""
    if isinstance(node, dict):
        return {key: plain(value) for key, value in node.items()}
    if isinstance(node, (list, tuple)):
        return [plain(value) for value in node]
    if isinstance(node, float):
        return float(f"{node:.8g}") if math.isfinite(node) else None
    return node
