"""Runs on the Hugging Face hub: ``hf:OWNER/NAME`` in place of a run directory."""

from __future__ import annotations

import os
import re
import secrets
import shutil
from pathlib import Path

from pyro_lrp.core.errors import UserError
from pyro_lrp.core.files import cache_dir

__all__ = ["located"]

_PREFIX = "hf:"
_NAME = re.compile(r"(\w[\w.-]*)/(\w[\w.-]*)(?:@(\w[\w./-]*))?", flags=re.ASCII)
_FILES = (  # of a run; a repository's other files are not fetched
    "config.yaml",
    "checkpoints/last.safetensors",
    "summary.json",
    "evaluation.json",
    "metrics.jsonl",
    "trained_on.npz",
)


def located(run: str | Path) -> Path:
    """The directory of a run.

    Args:
        run: A path; or ``hf:OWNER/NAME``, perhaps with ``@REVISION``, a repository of the Hugging Face hub. It
            is downloaded to the hub's own cache, and a copy of the run is kept in the cache of this library,
            so that results of ``evaluate`` stay.

    Raises:
        UserError: If such a repository cannot be had or holds no run, or huggingface_hub is not installed.
    """
    text = str(run)
    if not text.startswith(_PREFIX):
        return Path(run).expanduser()
    match = _NAME.fullmatch(text.removeprefix(_PREFIX))
    if match is None:
        raise UserError(
            f"{text} is no repository: expected {_PREFIX}OWNER/NAME, or {_PREFIX}OWNER/NAME@REVISION"
        )
    owner, name, revision = match.groups()
    snapshot = _snapshot(text, f"{owner}/{name}", revision)
    if not (snapshot / "config.yaml").is_file():
        raise UserError(f"{text} holds no run of this library: it has no config.yaml")
    copy = cache_dir("hub") / f"{owner}--{name}" / snapshot.name
    if not copy.is_dir():
        _copy(snapshot, copy)
    return copy


def _snapshot(text: str, repository: str, revision: str | None) -> Path:
    """The folder of the hub's cache that holds a revision, named by its commit."""
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise UserError(f"{text} needs a package: pip install 'pyro_lrp[hub]'") from error
    try:
        path = snapshot_download(repository, revision=revision, allow_patterns=list(_FILES))
    except Exception as error:  # of the hub, of its network library or of the system
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(f"{text} cannot be fetched from the Hugging Face hub: {lines[0]}") from error
    return Path(path)


def _copy(snapshot: Path, folder: Path) -> None:
    """Copy the files of a run, complete or not at all: those of the hub's cache are links."""
    folder.parent.mkdir(exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.{secrets.token_hex(8)}.tmp")
    try:
        for name in _FILES:
            if (snapshot / name).is_file():
                (temporary / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(snapshot / name, temporary / name)
        os.replace(temporary, folder)
    except OSError:
        if not folder.is_dir():  # another process was not faster
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
