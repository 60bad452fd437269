"""Atomic, checksummed save and load of nested state: tensors in safetensors, the rest in plain JSON.

Nothing is ever pickled, so a checkpoint from a stranger can be loaded without trust.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pyro_lrp.core.errors import UserError
from pyro_lrp.core.files import write_atomically

__all__ = ["latest", "load", "load_into", "load_to_resume", "rotate_and_save", "save"]

_KEY = "pyro_lrp"  # one metadata entry: with several, safetensors would not write them in a fixed order
_TENSOR = "tensor:"


def save(path: str | Path, state: dict[str, Any]) -> None:
    """Write ``state``, a tree of dicts and lists with tensors and JSON values at its leaves.

    The same state gives the same bytes. Dictionary keys become strings.
    """
    tensors: dict[str, Tensor] = {}
    tree = _take_tensors(state, "", tensors)
    metadata = {_KEY: json.dumps({"tree": tree, "sha256": _digest(tree, tensors)}, sort_keys=True)}
    write_atomically(Path(path), lambda target: save_file(tensors, target, metadata))


def load(path: str | Path) -> dict[str, Any]:
    """Read what :func:`save` wrote; tensors are on the CPU.

    Raises:
        UserError: If the file is missing, truncated, changed, or not a checkpoint of this library.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no checkpoint at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            record = json.loads((file.metadata() or {})[_KEY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        tree, checksum = record["tree"], record["sha256"]
    except (SafetensorError, KeyError, TypeError, ValueError, OSError, RecursionError) as error:
        raise UserError(f"checkpoint {path} is truncated or is not a checkpoint ({error})") from error
    if checksum != _digest(tree, tensors):
        raise UserError(f"checkpoint {path} is damaged: its contents do not match their checksum")
    return _put_tensors(tree, tensors)


def load_to_resume(path: Path) -> dict[str, Any]:
    """:func:`load` of the newest checkpoint of a run; if it is damaged, the error says the ways out."""
    try:
        return load(path)
    except UserError as error:
        previous = path.with_name("previous.safetensors")
        way_out = f"delete it to go on from {previous.name}, or start" if previous.exists() else "start"
        raise UserError(f"{error}: {way_out} anew with overwrite=true") from error


def load_into(module: torch.nn.Module, state: dict[str, Tensor], origin: str | Path) -> None:
    """``module.load_state_dict(state)``, with one sentence if the two are of different architectures."""
    own = module.state_dict()
    missing, unexpected = own.keys() - state.keys(), state.keys() - own.keys()
    reshaped = [k for k in own.keys() & state.keys() if own[k].shape != state[k].shape]
    if missing or unexpected or reshaped:
        example = sorted([*missing, *unexpected, *reshaped])[0]
        raise UserError(
            f"checkpoint {origin} is of another architecture: {len(missing)} tensors are missing, "
            f"{len(unexpected)} unknown, {len(reshaped)} of another shape (for example {example})"
        )
    module.load_state_dict(state)


def rotate_and_save(folder: Path, state: dict[str, Any]) -> None:
    """Save as ``last``; what was ``last`` becomes ``previous``. At no moment is there neither."""
    folder.mkdir(exist_ok=True)
    last, previous, fresh = (folder / f"{name}.safetensors" for name in ("last", "previous", "fresh"))
    save(fresh, state)
    if last.exists():
        os.replace(last, previous)
    os.replace(fresh, last)


def latest(folder: Path) -> Path | None:
    """The newest checkpoint of a folder that :func:`rotate_and_save` writes to, if there is one."""
    names = ("last", "fresh", "previous")  # a kill between the two renames leaves a whole "fresh"
    return next((p for name in names if (p := folder / f"{name}.safetensors").exists()), None)


def _take_tensors(node: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(node, Tensor):
        tensors[path] = node.detach().cpu().contiguous().clone()
        return _TENSOR + path
    if isinstance(node, dict):
        return {str(k): _take_tensors(v, f"{path}/{k}" if path else str(k), tensors) for k, v in node.items()}
    if isinstance(node, (list, tuple)):
        return [_take_tensors(v, f"{path}/{i}", tensors) for i, v in enumerate(node)]
    return node


def _put_tensors(node: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(node, str) and node.startswith(_TENSOR):
        return tensors[node.removeprefix(_TENSOR)]
    if isinstance(node, dict):
        return {k: _put_tensors(v, tensors) for k, v in node.items()}
    if isinstance(node, list):
        return [_put_tensors(v, tensors) for v in node]
    return node


def _digest(tree: Any, tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256(json.dumps(tree, sort_keys=True).encode())
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)}".encode())
        digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
