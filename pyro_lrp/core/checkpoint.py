"""Atomic, checksummed save and load of nested state: tensors in safetensors, the rest in plain JSON.

Nothing is pickled, so a checkpoint from an untrusted source can be loaded safely.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import time
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pyro_lrp.core.errors import UserError
from pyro_lrp.core.files import write_atomically
from pyro_lrp.core.trees import KeyPath, map_leaves

__all__ = [
    *("finish_rotation", "latest", "load", "load_into", "load_latest", "load_to_resume"),
    *("rotate_and_save", "save"),
]

_KEY = "pyro_lrp"  # a single metadata entry: safetensors writes several in no fixed order
_TENSOR = "tensor:"  # prefix of the text that stands for a tensor in the JSON tree
_LOAD_ERRORS = (
    SafetensorError,
    KeyError,
    TypeError,
    ValueError,
    OSError,
    RuntimeError,  # of a file that another process replaced after it was found, and of trees too deep
    MemoryError,
    AttributeError,
)
_TRIES = 20  # to read a checkpoint that others replace meanwhile


def save(path: str | Path, state: dict[str, Any]) -> None:
    """Write ``state``, a tree of dicts and lists with tensors and JSON values at its leaves.

    Equal states give equal bytes. Dictionary keys become strings.
    """
    tree, tensors = _split_off_tensors(state)
    record = {"tree": tree, "sha256": _digest(tree, tensors)}
    metadata = {_KEY: json.dumps(record, sort_keys=True)}

    def write(target: Path) -> None:
        try:
            save_file(tensors, target, metadata)
        except SafetensorError as error:
            raise _as_os_error(error) from error

    write_atomically(Path(path), write)


def _as_os_error(error: SafetensorError) -> OSError:
    """The error of the system, of which safetensors keeps the number in words."""
    number = re.search(r"os error (\d+)", str(error))
    if number is None:
        return OSError(errno.EIO, str(error))
    code = int(number.group(1))
    return OSError(code, os.strerror(code))


def load(path: str | Path) -> dict[str, Any]:
    """Read a file that :func:`save` wrote; tensors are on the CPU.

    Raises:
        UserError: If the file is missing, truncated, changed, or not a checkpoint of this library.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no checkpoint at {path}")
    try:
        with open(path, "rb"):  # safetensors would call a file of another user truncated
            pass
    except OSError as error:
        raise UserError(f"checkpoint {path} cannot be read ({error.strerror})") from error
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            record = json.loads(metadata[_KEY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        tree = record["tree"]
        intact = record["sha256"] == _digest(tree, tensors)
        state = _insert_tensors(tree, tensors)
    except _LOAD_ERRORS as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"checkpoint {path} is truncated or is not a checkpoint ({reason})") from error
    if not intact:
        raise UserError(f"checkpoint {path} is damaged: its contents do not match their checksum")
    return state


def load_latest(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """The newest checkpoint of a folder and its path, or None; another process may save meanwhile.

    Raises:
        UserError: If it is damaged; the message says whether the one before it is intact.
    """
    for _ in range(_TRIES):
        path = latest(folder)
        if path is None:
            return None
        before = _version(path)
        try:
            return path, load(path)
        except UserError as error:
            if before is not None and before == _version(path):
                if isinstance(error.__cause__, PermissionError):
                    raise  # it may be intact
                raise UserError(f"{error}{_remedy(path)}") from error
        time.sleep(0.01)
    raise UserError(f"checkpoints in {folder} are replaced faster than they can be read: try again")


def _version(path: Path) -> tuple[int, int] | None:
    """What tells a file from the next one of its name; None if there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns


def _remedy(damaged: Path) -> str:
    """What to do about a damaged checkpoint, if the one before it is intact."""
    previous = damaged.with_name("previous.safetensors")
    if damaged == previous:
        return ""
    try:
        load(previous)
    except UserError:
        return ""
    return f": delete it to go on from {previous.name}, which is intact"


def load_to_resume(path: Path) -> dict[str, Any]:
    """:func:`load` for the newest checkpoint of a run; if it is damaged, the error names the remedies."""
    try:
        return load(path)
    except UserError as error:
        remedy = _remedy(path)
        link = ", or" if remedy else ":"
        raise UserError(f"{error}{remedy}{link} start anew with overwrite=true") from error


def load_into(module: torch.nn.Module, state: dict[str, Tensor], origin: str | Path) -> None:
    """``module.load_state_dict(state)``, with a one-sentence error if the architectures differ.

    Args:
        module: The module to fill.
        state: Its parameters and buffers by name.
        origin: The file they were read from, for the error.

    Raises:
        UserError: If a name or a shape differs.
    """
    expected = module.state_dict()
    missing = expected.keys() - state.keys()
    unexpected = state.keys() - expected.keys()
    shared = expected.keys() & state.keys()
    reshaped = [name for name in shared if expected[name].shape != state[name].shape]
    if missing or unexpected or reshaped:
        example = sorted([*missing, *unexpected, *reshaped])[0]
        raise UserError(
            f"checkpoint {origin} is of another architecture: {len(missing)} tensors are missing, "
            f"{len(unexpected)} unknown, {len(reshaped)} of another shape (for example {example})"
        )
    module.load_state_dict(state)


def rotate_and_save(folder: Path, state: dict[str, Any]) -> None:
    """Save as ``last`` after renaming ``last`` to ``previous``; a complete checkpoint exists at all times."""
    folder.mkdir(exist_ok=True)
    last = folder / "last.safetensors"
    previous = folder / "previous.safetensors"
    fresh = folder / "fresh.safetensors"
    save(fresh, state)
    if last.exists():
        os.replace(last, previous)
    os.replace(fresh, last)


def finish_rotation(folder: Path) -> None:
    """Name ``last`` what :func:`rotate_and_save` left as ``fresh``, since it was killed between its renames."""
    last = folder / "last.safetensors"
    fresh = folder / "fresh.safetensors"
    if fresh.exists() and not last.exists():
        os.replace(fresh, last)


def latest(folder: Path) -> Path | None:
    """The newest checkpoint of a folder that :func:`rotate_and_save` writes to, if there is one."""
    # a process killed between the two renames leaves a complete "fresh"
    for name in ("last", "fresh", "previous"):
        path = folder / f"{name}.safetensors"
        if path.exists():
            return path
    return None


def _split_off_tensors(state: Any) -> tuple[Any, dict[str, Tensor]]:
    """The state with references in place of its tensors, and the tensors by name."""
    tensors: dict[str, Tensor] = {}

    def replace(path: KeyPath, leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        name = "/".join(str(key) for key in path)
        tensors[name] = leaf.detach().cpu().contiguous().clone()
        return _TENSOR + name

    return map_leaves(replace, state), tensors


def _insert_tensors(tree: Any, tensors: dict[str, Tensor]) -> Any:
    """The inverse of :func:`_split_off_tensors`."""

    def replace(_: KeyPath, leaf: Any) -> Any:
        if isinstance(leaf, str) and leaf.startswith(_TENSOR):
            return tensors[leaf.removeprefix(_TENSOR)]
        return leaf

    return map_leaves(replace, tree)


def _digest(tree: Any, tensors: dict[str, Tensor]) -> str:
    """The SHA-256 of a tree and its tensors: their names, types, shapes and bytes."""
    text = json.dumps(tree, sort_keys=True)
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        header = f"{name} {tensor.dtype} {tuple(tensor.shape)}"
        digest.update(header.encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
