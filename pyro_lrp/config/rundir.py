"""Run directories: their files, the run they belong to, and the identity and summary stored in them."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any

import yaml

from pyro_lrp.config.bounds import read_yaml
from pyro_lrp.config.rules import Rule
from pyro_lrp.core.errors import UserError
from pyro_lrp.core.files import read_json, remove_temporaries, write_atomically
from pyro_lrp.core.trees import leaves

__all__ = ["claim", "read_identity", "read_summary", "refuse_links"]

_PRESET = re.compile(r"\w[\w .+-]*")


def _is_integer(value: Any) -> bool:
    return isinstance(value, int)


def _is_count(value: Any) -> bool:
    return _is_integer(value) and not isinstance(value, bool) and value >= 1


def _is_shape(value: Any) -> bool:
    if not isinstance(value, list) or len(value) != 3:
        return False
    return all(_is_count(side) for side in value)


def _is_presets(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    return all(_is_preset(name) for name in value.values())


def _is_preset(value: Any) -> bool:
    if not isinstance(value, str):
        return False
    return _PRESET.fullmatch(value) is not None


def _is_node(value: Any) -> bool:
    return isinstance(value, dict)


def _is_context(value: Any) -> bool:
    if value is None:
        return True
    if not isinstance(value, dict) or not isinstance(value.get("kind"), str):
        return False
    names = value.get("names")
    if not isinstance(names, list):
        return False
    return all(isinstance(name, str) for name in names)


_NODE = Rule(_is_node, "a node")
_NEEDED = {
    "image_shape": Rule(_is_shape, "three whole numbers of at least 1"),
    "latent_dim": Rule(_is_count, "a whole number of at least 1"),
    "seed": Rule(_is_integer, "a whole number"),
    "presets": Rule(_is_presets, "names of presets, not paths"),
    "network": _NODE,
    "prior": _NODE,
    "likelihood": _NODE,
    "data": _NODE,
}
_CONTENTS = (
    "summary.json",  # deleted first: a run without a checkpoint must not look finished
    "checkpoints",
    "metrics.jsonl",
    "samples",
    "figures",
    "evaluation.json",
    "train.log",
    "tensorboard",
)
_DIFFERENCES_SHOWN = 6


def claim(directory: Path, identity: dict[str, Any], *, overwrite: bool) -> None:
    """Prepare a directory for a run, or check that it is the run's already.

    Args:
        directory: The run directory. It is not changed if it belongs to another run.
        identity: The identity of the run.
        overwrite: Whether to delete a run that the directory holds.

    Raises:
        UserError: If the directory holds a run with another identity, holds files but no run, or cannot be
            written.
    """
    try:
        if directory.exists():
            refuse_links(directory)
            _refuse_foreign_files(directory)
            if not overwrite:
                _refuse_another(directory, identity)
        directory.mkdir(parents=True, exist_ok=True)
        if overwrite:
            _empty(directory)
        _write_identity(directory, identity)
        for name in ("checkpoints", "samples", "figures"):
            (directory / name).mkdir(exist_ok=True)
        for folder in (directory, directory / "checkpoints"):
            remove_temporaries(folder)
    except OSError as error:
        raise UserError(f"run directory {directory} cannot be written ({error.strerror})") from error


def read_identity(directory: Path) -> dict[str, Any]:
    """The identity of a run, from its ``config.yaml``, which is not trusted.

    Raises:
        UserError: If there is no such file, it is not the configuration of a run, or the directory holds links
            that lead out of it.
    """
    path = directory / "config.yaml"
    if not path.is_file():
        raise UserError(f"run={directory} is not a run directory: it has no config.yaml")
    refuse_links(directory)
    identity = read_yaml(path)
    if not isinstance(identity, dict) or not identity.keys() >= _NEEDED.keys():
        raise UserError(f"{path} is not the configuration of a run")
    for key, rule in _NEEDED.items():
        if not rule.holds(identity[key]):
            raise UserError(f"{path}: {key} must be {rule.expected}")
    if not _is_context(identity.get("context")):
        raise UserError(f"{path}: context must have a kind and a list of names")
    return identity


def refuse_links(directory: Path) -> None:
    """Refuse a run with symbolic links that lead out of its directory: they could redirect writes.

    Raises:
        UserError: On the first such link; the message names it.
    """
    inside = directory.resolve()
    for folder, folders, files in os.walk(directory):
        for name in (*folders, *files):
            path = Path(folder, name)
            if path.is_symlink() and not path.resolve().is_relative_to(inside):
                raise UserError(f"{path} is a link that leads out of the run: delete it, or copy what it names")


def read_summary(directory: Path) -> dict[str, Any] | None:
    """The summary of a finished run, or None."""
    path = directory / "summary.json"
    if not path.is_file():
        return None
    return read_json(path)


def _write_identity(directory: Path, identity: dict[str, Any]) -> None:
    text = _dump(identity)

    def write(path: Path) -> None:
        path.write_text(text, encoding="utf-8")

    write_atomically(directory / "config.yaml", write)


def _refuse_foreign_files(directory: Path) -> None:
    if (directory / "config.yaml").is_file():
        return
    for path in directory.iterdir():
        left_by_a_killed_start = path.match(".config.yaml*.tmp")
        if not left_by_a_killed_start:
            raise UserError(f"{directory} holds files but no run: choose another name=…")


def _refuse_another(directory: Path, identity: dict[str, Any]) -> None:
    if not (directory / "config.yaml").is_file():
        return
    there = _flat(read_identity(directory))
    here = _flat(yaml.safe_load(_dump(identity)))
    differing = []
    for key in sorted(there.keys() | here.keys()):
        if there.get(key) != here.get(key):
            differing.append(f"{key} (there {there.get(key)}, here {here.get(key)})")
    if not differing:
        return
    shown = ", ".join(differing[:_DIFFERENCES_SHOWN])
    if len(differing) > _DIFFERENCES_SHOWN:
        shown += f" and {len(differing) - _DIFFERENCES_SHOWN} more"
    raise UserError(
        f"{directory} holds another run, which differs in {shown}: "
        "choose another name=…, or start anew with overwrite=true"
    )


def _empty(directory: Path) -> None:
    """Remove the files of a run and no others; ``config.yaml`` stays until the new one replaces it."""
    for name in _CONTENTS:
        path = directory / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _dump(identity: dict[str, Any]) -> str:
    return yaml.safe_dump(identity, sort_keys=False, allow_unicode=True)


def _flat(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by their dotted paths."""
    return {".".join(map(str, path)): leaf for path, leaf in leaves(tree)}
