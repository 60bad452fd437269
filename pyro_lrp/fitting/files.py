"""Files of codes; nothing in them is unpickled."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors.torch import load_file
from torch import Tensor

from pyro_lrp.core.errors import UserError
from pyro_lrp.core.files import read_npz
from pyro_lrp.features.weights import unpickled

__all__ = ["SUFFIXES", "CodeFiles", "read_arrays", "read_codes", "read_context"]

_CODES = ("codes", "z", "latents")  # names of an array of codes
SUFFIXES = (".npy", ".npz", ".pt", ".safetensors")
_MAPPED = 1 << 28  # bytes; a larger .npy file stays on disk until its rows are read


class CodeFiles(NamedTuple):
    """The arrays of some files, as :func:`~pyro_lrp.fitting.checked_codes` takes them.

    Attributes:
        codes: The codes.
        context: Their contexts or labels, or None.
        held_out: Further codes, or None.
        held_out_context: Their contexts or labels, or None.
    """

    codes: Any
    context: Any
    held_out: Any
    held_out_context: Any


def read_codes(places: Mapping[str, str | None]) -> CodeFiles:
    """The codes of a file, and what is beside them.

    An array ``labels`` or ``context`` in the file of codes is their context.

    Args:
        places: Files by ``codes``, and perhaps by ``context`` and ``held_out``.

    Raises:
        UserError: If one cannot be read, or does not say which array is meant.
    """
    file = str(places["codes"])
    arrays = read_arrays(file)
    codes = _select(arrays, file, *_CODES)
    context = _context(arrays)
    if places.get("context") is not None:
        context = read_context(str(places["context"]))
    if places.get("held_out") is None:
        return CodeFiles(codes, context, None, None)
    of_held_out = str(places["held_out"])
    further = read_arrays(of_held_out)
    return CodeFiles(codes, context, _select(further, of_held_out, *_CODES), _context(further))


def read_context(file: str) -> Any:
    """The contexts or labels of a file.

    Raises:
        UserError: If it cannot be read, or does not say which array is meant.
    """
    return _select(read_arrays(file), file, "context", "labels")


def _context(arrays: dict[str, Any]) -> Any:
    """The contexts or labels beside codes, or None."""
    return arrays.get("context", arrays.get("labels"))


def read_arrays(path: str | Path) -> dict[str, Any]:
    """The arrays of a file by name; that of a ``.npy`` file, or of a ``.pt`` file of one tensor, is ``codes``.

    Raises:
        UserError: If there is no such file, it is damaged, or it holds objects that would have to be unpickled.
    """
    path = Path(path).expanduser()
    if path.suffix not in SUFFIXES:
        raise UserError(f"{path}: expected a file that ends in {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise UserError(f"{path}: there is no such file")
    try:
        content = _read(path)
    except Exception as error:  # a broken pickle or header may raise anything
        reason = " ".join(str(error).split())[:120]
        if isinstance(error, pickle.UnpicklingError):
            reason = "only tensors are ever unpickled"
        raise UserError(f"{path} cannot be read, or holds objects that are no arrays ({reason})") from error
    if not isinstance(content, dict):
        content = {"codes": content}
    arrays = {str(name): array for name, array in content.items() if isinstance(array, (Tensor, np.ndarray))}
    if not arrays:
        raise UserError(f"{path} holds no array or tensor")
    return arrays


def _read(path: Path) -> Any:
    if path.suffix == ".npy":
        if path.stat().st_size > _MAPPED:
            return np.load(path, mmap_mode="r", allow_pickle=False)
        return np.load(path, allow_pickle=False)
    if path.suffix == ".npz":
        return read_npz(path)
    if path.suffix == ".pt":
        return unpickled(path)
    return load_file(path)


def _select(arrays: dict[str, Any], path: str | Path, *names: str) -> Any:
    """The array of one of some names, or the only one there is.

    Raises:
        UserError: If none has such a name, and there are several.
    """
    for name in names:
        if name in arrays:
            return arrays[name]
    if len(arrays) == 1:
        return next(iter(arrays.values()))
    known = ", ".join(sorted(arrays))
    raise UserError(f"{path} holds {known}: expected one of them to be called {' or '.join(names)}")
