"""What a CUDA graph cannot hold, found while a step runs eagerly.

A graph that fails while it is recorded leaves the generators of the device unusable. Hence a step is examined
before it is recorded.
"""

from __future__ import annotations

import sysconfig
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["Watch", "obstacle", "watched"]

_READS = "reads a value on the host"
_SIZES = "has a size that depends on values"
_MOVES = "copies between the host and the device"
_WAITS = "makes the host wait for the device"
_WARNING = "called a synchronizing CUDA operation"

_READING = (
    "aten::normal.Tensor_Tensor",  # to check the smallest deviation
    "aten::normal.float_Tensor",
    "aten::_linalg_check_errors",
)
"""Operations whose kernels read a value and do not say so by a tag."""

_INDEXING = (
    "aten::index.Tensor",
    "aten::_unsafe_index.Tensor",
    "aten::index_put",
    "aten::index_put_",
    "aten::_index_put_impl_",
    "aten::_unsafe_index_put",
)

_PACKAGE = Path(__file__).parents[1]
_LIBRARIES = tuple(sysconfig.get_paths()[name] for name in ("stdlib", "purelib", "platlib"))


class Watch(TorchDispatchMode):
    """Notes the first operation of a step that no graph can hold.

    Args:
        caught: The warnings of the block so far, among them those of torch that the host waited.

    Attributes:
        found: The operation, the line of code that asks for it, and the reason; None as long as there is none.

    >>> with Watch() as watch:
    ...     mask = torch.ones(3) > 0
    >>> watch.found is None
    True
    >>> with Watch() as watch:
    ...     size = torch.ones(3).sum().item()
    >>> watch.found.endswith("reads a value on the host")
    True
    """

    def __init__(self, caught: Sequence[warnings.WarningMessage] = ()) -> None:
        super().__init__()
        self.found: str | None = None
        self._caught = caught

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if self.found is None:
            inputs = _tensors((args, kwargs))
            reason = obstacle(func, inputs, _tensors(result))
            if reason is None and any(_WARNING in str(warning.message) for warning in self._caught):
                reason = _WAITS
            if reason:
                self.found = f"{func.name()}{_line()} {reason}"
        return result


@contextmanager
def watched(device: torch.device) -> Iterator[Watch]:
    """Watch the operations of a block; on CUDA also for waits of the host that no operation shows."""
    if device.type != "cuda":
        with Watch() as watch:
            yield watch
        return
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with Watch(caught) as watch:
                yield watch
        finally:
            torch.cuda.set_sync_debug_mode(before)


def obstacle(func: Any, inputs: list[Tensor], outputs: list[Tensor]) -> str | None:
    """Why no graph can hold a call of an operation; None if one can.

    Args:
        func: The operation, as a dispatch mode receives it.
        inputs: Its tensors.
        outputs: The tensors it returned.
    """
    name = func.name()
    if torch.Tag.data_dependent_output in func.tags or name in _READING:
        return _READS
    if name in _INDEXING:
        if _selects_by_mask(name, inputs):
            return _SIZES
    elif torch.Tag.dynamic_output_shape in func.tags:
        return _SIZES
    if _moves(name, inputs, outputs):
        return _MOVES
    return None


def _selects_by_mask(name: str, inputs: list[Tensor]) -> bool:
    """Whether rows are chosen by booleans, other than to fill them with one number."""
    indices = inputs[1:]
    fills = False
    if "put" in name:
        *indices, values = indices
        fills = values.dim() == 0 and values.device.type == "cpu"
    by_mask = any(index.dtype in (torch.bool, torch.uint8) for index in indices)
    return by_mask and not fills


def _moves(name: str, inputs: list[Tensor], outputs: list[Tensor]) -> bool:
    """Whether data go from one device to another; a single number on the host is an argument of a kernel."""
    if name == "aten::lift_fresh":  # a tensor made of Python numbers
        return outputs[0].device.type != "cpu"
    copies = name in ("aten::copy_", "aten::_to_copy")
    tensors = [*inputs, *outputs]
    if not copies:
        tensors = [tensor for tensor in tensors if tensor.dim() > 0 or tensor.device.type != "cpu"]
    return len({tensor.device for tensor in tensors}) > 1


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _line() -> str:
    """The innermost line of the present call that is in this package or in a user's file."""
    for frame in reversed(traceback.extract_stack()):
        path = Path(frame.filename)
        ours = path.is_relative_to(_PACKAGE)
        if path == Path(__file__) or (frame.filename.startswith(_LIBRARIES) and not ours):
            continue
        place = path.name
        if ours:
            place = path.relative_to(_PACKAGE.parent).as_posix()
        return f" at {place}:{frame.lineno} ({frame.name})"
    return ""  # in a thread of autograd
