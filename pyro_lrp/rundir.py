"""Run directories: who they belong to, what lies where, and what a summary says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import yaml

from pyro_lrp.checkpoint import write_atomically
from pyro_lrp.errors import UserError
from pyro_lrp.history import plain

__all__ = ["claim", "read_identity", "read_json", "read_summary", "write_json"]

_NEEDED = {"image_shape", "latent_dim", "seed", "network", "prior", "likelihood", "data", "presets"}
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
    except OSError as error:
        raise UserError(f"run directory {directory} cannot be written ({error.strerror})") from error


def read_identity(directory: Path) -> dict[str, Any]:
    """What ``config.yaml`` says a run computes."""
    path = directory / "config.yaml"
    if not path.is_file():
        raise UserError(f"run={directory} is not a run directory: it has no config.yaml")
    try:
        identity = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not readable YAML") from error
    if not isinstance(identity, dict) or not identity.keys() >= _NEEDED:
        raise UserError(f"{path} is not the configuration of a run")
    return identity


def read_summary(directory: Path) -> dict[str, Any] | None:
    """The summary of a finished run, or None."""
    path = directory / "summary.json"
    return read_json(path) if path.is_file() else None


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object, or one sentence that names the file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not readable JSON: mend it or delete it") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is not a JSON object: mend it or delete it")
    return content


def write_json(path: Path, content: Any) -> None:
    """Write JSON for people to read, atomically."""
    text = json.dumps(plain(content), indent=2, allow_nan=False) + "\n"
    write_atomically(path, lambda target: target.write_text(text, encoding="utf-8"))


def _refuse_foreign_files(directory: Path) -> None:
    strange = [path for path in directory.iterdir() if path.name != ".config.yaml.tmp"]  # of a killed start
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
