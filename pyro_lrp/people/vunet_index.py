"""A reader for the published index of the Variational U-Net, a pickle of NumPy arrays.

Unpickling can call any function that the file names. This reader reconstructs arrays, numbers, text, lists and
dicts itself, and refuses everything else.
"""

from __future__ import annotations

import os
import pickle
import pickletools
from pathlib import Path
from typing import IO, Any

import numpy as np

from pyro_lrp.core.errors import UserError

__all__ = ["as_text", "unpickle_arrays"]

_MEMO = ("PUT", "BINPUT", "LONG_BINPUT")  # operations that number what may be repeated
_MOST_PARTS = 2_000_000
_PLAIN_KINDS = "biufSUO"  # NumPy's kinds of numbers, text and objects


def unpickle_arrays(path: Path) -> Any:
    """Read the content of a pickle of Python 2 or 3, without calling anything that it names.

    Raises:
        UserError: If the file is broken or names anything other than NumPy's arrays.
    """
    try:
        with open(path, "rb") as file:
            _refuse_memo(file, os.fstat(file.fileno()).st_size)
            file.seek(0)
            content = _ArrayUnpickler(file, encoding="latin1").load()
        return _Plain()(content)
    except Exception as error:  # a broken pickle may raise anything
        reason = " ".join(str(error).split())
        if not reason:
            reason = type(error).__name__
        raise UserError(f"{path} is not unpickled: {reason}") from error


def as_text(value: Any) -> str:
    """A string, also from the bytes that Python 2 and NumPy may store instead."""
    if isinstance(value, bytes):
        return value.decode("latin1")
    if not isinstance(value, str):
        raise TypeError(f"expected text, found {type(value).__name__}")
    return str(value)


class _DtypeStandIn:
    """Replaces a pickled ``numpy.dtype``: only numbers, text and objects."""

    def __init__(self, code: Any, *_: Any) -> None:
        self.dtype = np.dtype(as_text(code))
        if self.dtype.kind not in _PLAIN_KINDS:
            raise pickle.UnpicklingError(f"an array of {self.dtype}")

    def __setstate__(self, state: tuple) -> None:
        is_big_endian = as_text(state[1]) == ">"
        if is_big_endian:
            self.dtype = self.dtype.newbyteorder(">")
        else:
            self.dtype = self.dtype.newbyteorder("<")


class _ArrayStandIn:
    """Replaces a pickled ``numpy.ndarray``, whose own reconstruction would trust addresses in the file."""

    def __init__(self, *_: Any) -> None:
        self.values = np.empty(0)

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, is_fortran, content = state
        if isinstance(content, list):
            values = np.empty(len(content), dtype=object)
            values[:] = content
        else:
            values = _from_bytes(content, dtype)
        if is_fortran:
            self.values = values.reshape(shape, order="F")
        else:
            self.values = values.reshape(shape)


def _from_bytes(content: bytes | str, dtype: _DtypeStandIn) -> np.ndarray:
    """A flat array of the values in a buffer; NumPy refuses to read objects this way."""
    if isinstance(content, str):
        content = content.encode("latin1")
    return np.frombuffer(content, dtype.dtype)


def _array_from_buffer(
    content: bytes, dtype: _DtypeStandIn, shape: tuple[int, ...], order: str
) -> _ArrayStandIn:
    array = _ArrayStandIn()
    is_fortran = order == "F"
    array.__setstate__((1, shape, dtype, is_fortran, content))
    return array


def _scalar(dtype: _DtypeStandIn, content: bytes | str) -> Any:
    return _from_bytes(content, dtype)[0]


def _encode(text: str, _: str) -> bytes:
    return text.encode("latin1")


_STAND_INS = {
    "numpy.ndarray": None,  # only ever an argument
    "numpy.dtype": _DtypeStandIn,
    "numpy.core.multiarray._reconstruct": _ArrayStandIn,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy.core.numeric._frombuffer": _array_from_buffer,
    "_codecs.encode": _encode,
}


class _ArrayUnpickler(pickle.Unpickler):
    """Resolves the names in a pickle to the stand-ins above, and to nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        target = f"{module}.{name}"
        target = target.replace("numpy._core.", "numpy.core.")
        if target not in _STAND_INS:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, and may hold only arrays and lists")
        return _STAND_INS[target]


def _refuse_memo(file: IO[bytes], size: int) -> None:
    """Refuse a pickle whose memo, the list of what it repeats, would be longer than the file."""
    for operation, argument, _ in pickletools.genops(file):
        if operation.name in _MEMO and argument is not None and int(argument) > size:
            raise pickle.UnpicklingError(f"it asks for a memo of {argument:,} entries")


class _Plain:
    """The same content with plain arrays, as nested lists where they hold objects.

    A pickle may repeat a list in lists any number of times, so parts are counted.
    """

    def __init__(self) -> None:
        self.parts = 0

    def __call__(self, value: Any) -> Any:
        self.parts += 1
        if self.parts > _MOST_PARTS:
            raise pickle.UnpicklingError(f"it holds more than {_MOST_PARTS:,} values")
        if isinstance(value, _ArrayStandIn):
            if value.values.dtype == object:
                return self(value.values.tolist())
            return value.values
        if isinstance(value, dict):
            return {key: self(part) for key, part in value.items()}
        if isinstance(value, (list, tuple)):
            return [self(part) for part in value]
        return value
