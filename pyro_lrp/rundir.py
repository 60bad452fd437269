"""Run directories: who they belong to, what lies where, and what a summary says."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from pyro_lrp.bounds import read_yaml
from pyro_lrp.checkpoint import remove_temporaries, write_atomically
from pyro_lrp.errors import UserError
from pyro_lrp.history import plain

__all__ = ["claim", "read_identity", "read_json", "read_summary", "refuse_links", "write_json"]

_PRESET = re.compile(r"\w[\w .+-]*")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_shape(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(_is_count(side) for side in value)


def _is_presets(value: Any) -> bool:
    return isinstance(value, dict) and all(_is_preset(name) for name in value.values())


def _is_preset(value: Any) -> bool:
    return isinstance(value, str) and _PRESET.fullmatch(value) is not None


def _is_node(value: Any) -> bool:
    return isinstance(value, dict)


def _is_context(value: Any) -> bool:
    if not isinstance(value, dict) or not isinstance(value.get("kind"), str):
        return False
    names = value.get("names")
    return isinstance(names, list) and all(isinstance(name, str) for name in names)


_NODE = (_is_node, "a node")
_NEEDED: dict[str, tuple[Callable[[Any], bool], str]] = {
    "image_shape": (_is_shape, "three whole numbers of at least 1"),
    "latent_dim": (_is_count, "a whole number of at least 1"),
    "seed": (lambda value: isinstance(value, int), "a whole number"),
    "presets": (_is_presets, "names of presets, not paths"),
    "network": _NODE,
    "prior": _NODE,
    "likelihood": _NODE,
    "data": _NODE,
}
_CONTENTS = (  # the summary goes first: without a checkpoint a run must not look finished
    "summary.json", "checkpoints", "metrics.jsonl", "samples", "figures", "evaluation.json", "train.log",
    "tensorboard",
)  # fmt: skip


def claim(directory: Path, identity: dict[str, Any], *, overwrite: bool) -> None:
    """Make the directory this run's, or find that it already is; refuse if it is another's, touching nothing.

    Raises:
        UserError: If it holds another identity, or files of nobody's run, or cannot be written.
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
        write_atomically(
            directory / "config.yaml", lambda path: path.write_text(_dump(identity), encoding="utf-8")
        )
        for name in ("checkpoints", "samples", "figures"):
            (directory / name).mkdir(exist_ok=True)
        for folder in (directory, directory / "checkpoints"):
            remove_temporaries(folder)
    except OSError as error:
        raise UserError(f"run directory {directory} cannot be written ({error.strerror})") from error


def read_identity(directory: Path) -> dict[str, Any]:
    """The identity of a run, from its ``config.yaml``, which may come from a stranger.

    Raises:
        UserError: If there is none, it cannot be a run's, or the directory holds links that lead out of it.
    """
    path = directory / "config.yaml"
    if not path.is_file():
        raise UserError(f"run={directory} is not a run directory: it has no config.yaml")
    refuse_links(directory)
    identity = read_yaml(path)
    if not isinstance(identity, dict) or not identity.keys() >= _NEEDED.keys():
        raise UserError(f"{path} is not the configuration of a run")
    for key, (holds, expected) in _NEEDED.items():
        if not holds(identity[key]):
            raise UserError(f"{path}: {key} must be {expected}")
    context = identity.get("context")
    if context is not None and not _is_context(context):
        raise UserError(f"{path}: context must have a kind and a list of names")
    return identity


def refuse_links(directory: Path) -> None:
    """Refuse a run with symbolic links that lead out of its directory: they could redirect what is written.

    Raises:
        UserError: On the first such link, by its name.
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
    return read_json(path) if path.is_file() else None


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


def _refuse_foreign_files(directory: Path) -> None:
    strange = [
        path for path in directory.iterdir() if not path.match(".config.yaml*.tmp")
    ]  # of a killed start
    if strange and not (directory / "config.yaml").is_file():
        raise UserError(f"{directory} holds files but no run: choose another name=…")


def _refuse_another(directory: Path, identity: dict[str, Any]) -> None:
    if not (directory / "config.yaml").is_file():
        return
    theirs = _flat(read_identity(directory))
    ours = _flat(yaml.safe_load(_dump(identity)))
    differing = sorted(key for key in theirs.keys() | ours.keys() if theirs.get(key) != ours.get(key))
    if differing:
        shown = ", ".join(f"{k} (there {theirs.get(k)}, here {ours.get(k)})" for k in differing[:6])
        more = f" and {len(differing) - 6} more" if len(differing) > 6 else ""
        raise UserError(
            f"{directory} holds another run, which differs in {shown}{more}: "
            "choose another name=…, or start anew with overwrite=true"
        )


def _empty(directory: Path) -> None:
    """Remove what a run writes, and nothing else; its configuration stays until the new one replaces it."""
    for name in _CONTENTS:
        path = directory / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _dump(identity: dict[str, Any]) -> str:
    return yaml.safe_dump(identity, sort_keys=False, allow_unicode=True)


def _flat(node: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(node, dict):
        return {k: v for key, value in node.items() for k, v in _flat(value, f"{prefix}{key}.").items()}
    if isinstance(node, list):
        return {k: v for i, value in enumerate(node) for k, v in _flat(value, f"{prefix}{i}.").items()}
    return {prefix.rstrip("."): node}
