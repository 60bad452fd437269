"""Files: the user's cache, atomic writes, readable JSON, and arrays from sources that are not trusted."""

from __future__ import annotations

import json
import math
import os
import secrets
import stat
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pyro_lrp.core.errors import UserError
from pyro_lrp.core.limits import refuse_bomb, refuse_special
from pyro_lrp.core.trees import map_leaves

__all__ = [
    "CACHE",
    "READ_ERRORS",
    "cache_dir",
    "plain",
    "read_json",
    "read_npz",
    "remove_temporaries",
    "temporaries",
    "unwritable",
    "write_atomically",
    "write_json",
]

CACHE = "PYRO_LRP_CACHE"
"""The environment variable that names the folder of the cache."""

READ_ERRORS = (
    OSError,
    ValueError,
    EOFError,
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
    zlib.error,
    MemoryError,
    OverflowError,
    KeyError,
    SyntaxError,  # of a damaged header
    tokenize.TokenError,
    RuntimeError,  # encrypted, or nested too deeply
    NotImplementedError,
    TypeError,  # keys of a header that cannot be ordered
)
"""What reading a damaged file of arrays may raise."""

_TEMPORARY = ".tmp"
_LARGEST_JSON = 2**26  # bytes; a file of a run directory may be a stranger's


def cache_dir(name: str) -> Path:
    """A folder of the user's cache, ``$PYRO_LRP_CACHE`` or ``~/.cache/pyro_lrp``; created if it is missing.

    Raises:
        UserError: If it cannot be created; the message names the variable.
    """
    root = os.environ.get(CACHE) or "~/.cache/pyro_lrp"
    folder = Path(root).expanduser() / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(folder, error) from error
    return folder


def unwritable(path: Path, error: OSError) -> UserError:
    """The error of a file or folder of the cache that cannot be written."""
    reason = error.strerror or error
    return UserError(
        f"the cache cannot be written: {path} ({reason}); set the environment variable {CACHE} to a folder "
        "that can, with enough space"
    )


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Call ``write`` on a temporary file beside ``path``, flush it to the disk, then rename it to ``path``.

    The temporary file has an unpredictable name and is created exclusively, so that no file already in the
    folder, in particular no symbolic link, can redirect the write. A link at ``path`` itself is replaced.
    """
    token = secrets.token_hex(8)
    temporary = path.with_name(f".{path.name}.{token}{_TEMPORARY}")
    # tempfile.mkstemp would do the same, but its mode hides the file from the user's group
    create = os.O_CREAT | os.O_EXCL | os.O_WRONLY
    os.close(os.open(temporary, create, 0o666))
    mode = stat.S_IMODE(temporary.stat().st_mode)
    try:
        write(temporary)
        os.chmod(temporary, mode)  # safetensors puts a file of its own there, which others may not read
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if error.errno is not None:
            error.filename = str(path)  # that of the temporary file, or none, says nothing to a user
        raise
    finally:
        temporary.unlink(missing_ok=True)


def remove_temporaries(folder: Path, stem: str | None = None) -> None:
    """Delete the temporary files that an interrupted :func:`write_atomically` left in a folder.

    Args:
        folder: The folder.
        stem: Only those of files of this name, without its last ending; None for all.
    """
    for path, of in temporaries(folder):
        if stem in (None, of):
            path.unlink(missing_ok=True)


def temporaries(folder: Path) -> Iterator[tuple[Path, str]]:
    """The temporary files in a folder, each with the name, without its last ending, of the file it is for."""
    for path in folder.iterdir():
        if path.name.startswith(".") and path.name.endswith(_TEMPORARY):
            target = path.name.removeprefix(".").removesuffix(_TEMPORARY).rpartition(".")[0]
            yield path, Path(target).stem


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an ``.npz`` file; nothing is unpickled.

    Raises:
        FileNotFoundError: If there is no such file.
        UserError: If the file is no ``.npz`` archive, is truncated, or holds pickled objects.
    """
    refuse_special(path)
    try:
        with open(path, "rb") as file:
            if not zipfile.is_zipfile(file):
                raise ValueError("no .npz archive")
            with zipfile.ZipFile(file) as zipped:
                refuse_bomb(zipped, os.fstat(file.fileno()).st_size)
            file.seek(0)
            with np.load(file, allow_pickle=False) as archive:
                return {name: archive[name] for name in archive.files}
    except FileNotFoundError:
        raise
    except READ_ERRORS as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path} is not readable, or is truncated ({reason})") from error


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        UserError: If the file holds none, or is larger than any of this library; the message names the file.
    """
    refuse_special(path)
    size = path.stat().st_size
    if size > _LARGEST_JSON:
        raise UserError(f"{path} has {size:,} bytes, more than the limit of {_LARGEST_JSON:,}: delete it")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not readable JSON: mend it or delete it") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is not a JSON object: mend it or delete it")
    return content


def write_json(path: Path, content: Any) -> None:
    """Write indented JSON, atomically."""
    text = json.dumps(plain(content), indent=2, allow_nan=False)

    def write(target: Path) -> None:
        target.write_text(text + "\n", encoding="utf-8")

    write_atomically(path, write)


def plain(node: Any) -> Any:
    """A tree that JSON can hold: floats are rounded to eight digits, and None stands for non-finite ones."""
    return map_leaves(_plain_leaf, node)


def _plain_leaf(_: object, leaf: Any) -> Any:
    if not isinstance(leaf, float):
        return leaf
    if not math.isfinite(leaf):
        return None
    return float(f"{leaf:.8g}")
