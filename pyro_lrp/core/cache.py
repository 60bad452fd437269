"""The user's cache: files that one process at a time makes, and that are made again if they are damaged."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from glob import escape
from pathlib import Path
from typing import TypeVar

from pyro_lrp.core.errors import UserError, printable
from pyro_lrp.core.files import CACHE, cache_dir, remove_temporaries, temporaries, unwritable
from pyro_lrp.core.locks import one_writer

__all__ = ["DAMAGE", "cache_file", "kept", "locked", "read_intact"]

LOG = logging.getLogger("pyro_lrp.cache")
_LONGEST = 150  # characters of a file's name, of the 255 bytes that file systems allow
DAMAGE = (
    UserError,
    OSError,
    ValueError,
    EOFError,
    KeyError,
    TypeError,
    IndexError,
    MemoryError,
    RecursionError,
)
"""The errors of reading a damaged file."""

T = TypeVar("T")


def cache_file(room: str, name: str) -> Path:
    """The path of a file in a folder of the cache.

    Args:
        room: Name of the folder, which is made if it is missing.
        name: Everything that the contents depend on; in plain letters, and shortened if it is long.

    Raises:
        UserError: If the folder cannot be made.
    """
    plain = re.sub(r"[^A-Za-z0-9._-]+", "_", name)
    if len(plain) > _LONGEST:
        digest = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:16]
        plain = f"{digest}_{plain[-_LONGEST:]}"
    return cache_dir(room) / plain.lstrip(".")


def read_intact(path: Path, read: Callable[[Path], T]) -> T | None:
    """``read(path)``; None if the file is missing, or is damaged, which is said."""
    if not path.exists():
        return None
    try:
        return read(path)
    except DAMAGE as error:
        reason = " ".join(str(error).split())
        LOG.warning(
            printable(f"{path} is damaged and is made again ({reason}); {CACHE} names the folder of such files")
        )
        return None


def kept(
    room: str,
    name: str,
    read: Callable[[Path], T],
    make: Callable[[], T],
    write: Callable[[Path, T], object],
) -> T:
    """The result of ``make``, which is computed once and then read from the cache.

    A cache that cannot be written costs a warning, and not the result.

    Args:
        room: Name of the folder.
        name: As for :func:`cache_file`.
        read: Reads the file; raises UserError, OSError or ValueError if it is damaged.
        make: Computes the result.
        write: Writes the result to a file, atomically.
    """
    try:
        path = cache_file(room, name)
    except UserError as error:
        LOG.warning(printable(str(error)))
        return make()
    with suppress(*DAMAGE):
        return read(path)
    with locked(path):
        found = read_intact(path, read)  # another process may have made it meanwhile
        if found is not None:
            return found
        result = make()
        try:
            write(path, result)
        except OSError as error:
            LOG.warning(printable(str(unwritable(path, error))))
    return result


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Within the block, this process alone makes a file of the cache; others wait, and say for which process.

    Where files cannot be locked nobody waits: since files are renamed to their place when they are complete,
    both processes are right, and one of them worked for nothing.
    """
    with ExitStack() as stack:
        try:
            lock = cache_dir("locks") / f"{path.parent.name}-{path.name}.lock"
            stack.enter_context(one_writer(lock, what=str(path), wait=True))
        except (
            UserError,
            OSError,
            NotImplementedError,
        ) as error:  # a folder without write access, or without locks
            LOG.debug("%s is not locked: %s", path, error)
        else:
            remove_temporaries(path.parent, path.stem)
            with suppress(OSError):
                _remove_orphans(path.parent, lock.parent)
        yield


def _remove_orphans(folder: Path, locks: Path) -> None:
    """Delete the temporary files of a folder whose makers have ended: their locks are free."""
    for stem in {stem for _, stem in temporaries(folder)}:
        of_stem = locks.glob(f"{escape(f'{folder.name}-{stem}')}.*lock")
        with suppress(UserError), ExitStack() as stack:
            for lock in of_stem:
                stack.enter_context(one_writer(lock, what=stem))
            remove_temporaries(folder, stem)
