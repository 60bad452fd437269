"""Run directories: their files, the run they belong to, and the identity and summary stored in them."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from pyro_lrp.config.identity_file import (
    EXTENDABLE,
    NEUTRAL,
    PLACE_KEYS,
    flat,
    is_sealed,
    plain_identity,
    read_identity,
    refuse_links,
    stamp,
    write_identity,
)
from pyro_lrp.core import checkpoint
from pyro_lrp.core.errors import UserError
from pyro_lrp.core.files import read_json, read_npz, remove_temporaries, write_atomically, write_json
from pyro_lrp.core.locks import one_writer
from pyro_lrp.core.seals import CHECKSUM, is_intact, sealed
from pyro_lrp.data.fingerprint import TrainedOn
from pyro_lrp.trainer.snapshots import refuse_another

__all__ = [
    "NEUTRAL",
    "autoencoder_state",
    "claimed",
    "evaluating",
    "read_checkpoint",
    "read_identity",
    "read_summary",
    "read_trained_on",
    "refuse_links",
    "stamp",
    "write_identity",
    "write_summary",
    "write_trained_on",
]

_EVALUATION_LOCK = ".evaluation.lock"
_TRAINED_ON = "trained_on.npz"
_CONTENTS = (
    "summary.json",  # deleted first: a run without a checkpoint must not look finished
    "checkpoints",
    "metrics.jsonl",
    "metrics.damaged.jsonl",
    _TRAINED_ON,
    "samples",
    "figures",
    "evaluation.json",
    "train.log",
    "tensorboard",
    "wandb",
    "trackio",
)
_LOCK = ".lock"
_ASIDE = ".overwritten."  # and a token: a folder of what overwrite=true deletes
_HARMLESS = (f"{_LOCK}*", f".{_LOCK}*.tmp", ".config.yaml*.tmp")  # left by a start that was refused or killed
_DIFFERENCES_SHOWN = 6


@contextmanager
def claimed(
    directory: Path, identity: dict[str, Any], *, overwrite: bool = False, extend: bool = False
) -> Iterator[None]:
    """Prepare a directory for a run, or check that it is the run's already, and hold its lock within the block.

    Args:
        directory: The run directory. It is not changed if it belongs to another run.
        identity: The identity of the run.
        overwrite: Whether to delete a run that the directory holds.
        extend: Whether a run that the directory holds, with fewer epochs, is to go on to those of ``identity``.

    Raises:
        UserError: If the directory holds a run with another identity, holds files but no run, is held by
            another process, or cannot be written.
    """

    def refuse() -> None:
        refuse_links(directory)
        _refuse_foreign_files(directory)
        if not overwrite:
            _refuse_another(directory, identity, extend=extend)

    with ExitStack() as stack:
        try:
            if directory.exists():
                refuse()  # before anything is written
            directory.mkdir(parents=True, exist_ok=True)
            stack.enter_context(one_writer(directory / _LOCK, what=str(directory)))
            refuse()  # once more, now that no other process can write
            _prepare(directory, identity, overwrite=overwrite, extend=extend)
        except OSError as error:
            raise UserError(f"run directory {directory} cannot be written ({error.strerror})") from error
        yield


def _prepare(directory: Path, identity: dict[str, Any], *, overwrite: bool, extend: bool) -> None:
    """Write the identity of a run that is about to be trained, and remove what it must not find."""
    if overwrite:
        _empty(directory)
    elif extend and (directory / "config.yaml").is_file() and _grown(directory, identity):
        (directory / "summary.json").unlink(missing_ok=True)  # first: the run is no longer finished
    write_identity(directory, identity)
    for name in ("checkpoints", "samples", "figures"):
        (directory / name).mkdir(exist_ok=True)
    for folder in (directory, directory / "checkpoints"):
        remove_temporaries(folder)
    for aside in directory.glob(f"{_ASIDE}*"):  # of a process that was killed while it deleted them
        shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def evaluating(path: Path) -> Iterator[None]:
    """Within the block this process alone adds to a file of results; others wait, and say for which process.

    Where files cannot be locked, the file is not.

    Raises:
        UserError: If its folder cannot be written, before anything is computed.
    """
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error.strerror}): out=FILE.json keeps the results elsewhere"
        ) from error
    with ExitStack() as stack:
        with suppress(OSError, NotImplementedError):
            stack.enter_context(one_writer(path.parent / _EVALUATION_LOCK, what=str(path), wait=True))
        yield


def read_summary(directory: Path) -> dict[str, Any] | None:
    """The summary of a finished run, or None.

    Raises:
        UserError: If the file is no summary, or does not match its checksum.
    """
    path = directory / "summary.json"
    if not path.is_file():
        return None
    summary = read_json(path)
    remedy = "delete it, and train the run again: it goes on from its last checkpoint, and writes it anew"
    if not is_intact(summary):
        raise UserError(f"{path} is damaged: it does not match its checksum; {remedy}")
    if not isinstance(summary.get("final"), dict):
        raise UserError(f"{path} is not the summary of a run: it has no final row; {remedy}")
    summary.pop(CHECKSUM, None)
    return summary


def read_checkpoint(directory: Path, identity: Mapping[str, Any]) -> dict[str, Any]:
    """The newest checkpoint of a run, also while it is trained.

    Raises:
        UserError: If there is none, it is damaged, or it is of a run with another configuration.
    """
    newest = checkpoint.load_latest(directory / "checkpoints")
    if newest is None:
        raise UserError(f"run {directory} has no checkpoint yet: train it first")
    path, state = newest
    if is_sealed(directory):  # and was not changed by hand since
        refuse_another(state, stamp(identity), path)
    return state


def write_summary(directory: Path, summary: Mapping[str, Any]) -> None:
    """Write the summary of a finished run, with a checksum."""
    write_json(directory / "summary.json", sealed(summary))


def write_trained_on(directory: Path, images: TrainedOn) -> None:
    """Record the images that a run is trained on."""

    def write(path: Path) -> None:
        with open(path, "wb") as file:
            np.savez(file, seen=images.seen, held_out=images.held_out)

    write_atomically(directory / _TRAINED_ON, write)


def read_trained_on(directory: Path) -> TrainedOn:
    """The images that a run was trained on; none if it does not say.

    Raises:
        UserError: If the file is damaged.
    """
    path = directory / _TRAINED_ON
    none = np.zeros(0, dtype=np.int64)
    if not path.is_file():
        return TrainedOn(none, none)
    arrays = read_npz(path)
    if arrays.keys() != {"seen", "held_out"}:  # a zip whose directory is damaged may lose an entry
        raise UserError(f"{path} is damaged: it must hold the arrays seen and held_out")
    return TrainedOn(**arrays)


def _refuse_foreign_files(directory: Path) -> None:
    if (directory / "config.yaml").is_file():
        return
    for path in directory.iterdir():
        if not any(path.match(pattern) for pattern in _HARMLESS):
            raise UserError(f"{directory} holds files but no run: choose another name=…")


def _refuse_another(directory: Path, identity: dict[str, Any], *, extend: bool) -> None:
    """Refuse a directory whose run has another identity, unless the run is to be extended."""
    if not (directory / "config.yaml").is_file():
        return
    differing = _differences(directory, identity)
    if not differing:
        return
    longer = _grown(directory, identity)
    if longer and extend:
        return
    remedy = "choose another name=…, or start anew with overwrite=true"
    if longer:
        remedy = f"extend=true goes on to them, or {remedy}"
    elif list(differing) == ["data.fingerprint"]:
        raise UserError(f"{directory} was trained on other images than the data set holds now: {remedy}")
    shown = [_difference(key, there, here) for key, (there, here) in differing.items()]
    text = ", ".join(shown[:_DIFFERENCES_SHOWN])
    if len(shown) > _DIFFERENCES_SHOWN:
        text += f" and {len(shown) - _DIFFERENCES_SHOWN} more"
    raise UserError(f"{directory} holds another run, which differs in {text}: {remedy}")


def _difference(key: str, there: Any, here: Any) -> str:
    """A difference in words."""
    if key == "data.fingerprint":
        return "the images of the data set"
    return f"{key} (there {there}, here {here})"


def _differences(directory: Path, identity: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The values there and here, by key, in which the run of a directory differs from an identity."""
    there = {**NEUTRAL, **flat(read_identity(directory))}
    here = {**NEUTRAL, **flat(plain_identity(identity))}
    ignored: tuple[str, ...] = ()
    if there.get("data.fingerprint") is not None:
        ignored = PLACE_KEYS
    elif "data.fingerprint" in here:
        del here["data.fingerprint"]  # a run from before there were fingerprints
    differing = {}
    for key in sorted(there.keys() | here.keys()):
        if there.get(key) != here.get(key) and key not in ignored:
            differing[key] = (there.get(key), here.get(key))
    return differing


def _grown(directory: Path, identity: dict[str, Any]) -> bool:
    """Whether an identity differs from that of a directory's run in longer phases alone."""
    differing = _differences(directory, identity)
    decoder_epochs, _ = differing.get("decoder_epochs", (None, None))
    if decoder_epochs == 0:
        differing.pop("decoder_code_noise", None)  # of a phase that has not begun
    if not differing or not differing.keys() <= set(EXTENDABLE):
        return False
    return all(isinstance(there, int) and there <= here for there, here in differing.values())


def _empty(directory: Path) -> None:
    """Remove the files of a run and no others; ``config.yaml`` stays until the new one replaces it.

    They are renamed into a hidden folder first, and deleted when all are there: if one cannot be moved, the
    others are put back, and the run is as it was.
    """
    aside = directory / f"{_ASIDE}{secrets.token_hex(8)}"
    aside.mkdir()
    moved = []
    try:
        for name in _CONTENTS:
            if os.path.lexists(directory / name):
                os.rename(directory / name, aside / name)
                moved.append(name)
    except OSError:
        for name in reversed(moved):
            os.rename(aside / name, directory / name)
        aside.rmdir()
        raise
    shutil.rmtree(aside, ignore_errors=True)


def autoencoder_state(whole: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of the autoencoder, by their names in it, of a checkpoint, which has those of the game."""
    state = {}
    for key, value in whole.get("game", {}).items():
        owner, _, name = key.partition(".")
        if owner == "autoencoder":
            state[name] = value
    return state
