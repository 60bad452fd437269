"""Run directories: their files, the run they belong to, and the identity and summary stored in them."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from torch import Tensor

from pyro_lrp.config.bounds import read_yaml
from pyro_lrp.config.build import PLACES
from pyro_lrp.config.kinds import holds_prior
from pyro_lrp.config.rules import Rule
from pyro_lrp.core.errors import UserError
from pyro_lrp.core.files import read_json, read_npz, remove_temporaries, write_atomically
from pyro_lrp.core.locks import one_writer
from pyro_lrp.core.trees import leaves
from pyro_lrp.data.fingerprint import TrainedOn

__all__ = [
    "NEUTRAL",
    "autoencoder_state",
    "claimed",
    "evaluating",
    "read_identity",
    "read_summary",
    "read_trained_on",
    "refuse_links",
    "write_trained_on",
]

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
_HARMLESS = (f"{_LOCK}*", ".config.yaml*.tmp")  # left by a start that was refused or killed
_DIFFERENCES_SHOWN = 6
_EXTENDABLE = ("epochs", "prior_epochs", "decoder_epochs")
NEUTRAL = {
    "decoder_epochs": 0,
    "decoder_code_noise": 0,
    "network.noise": "learned",
    "network.noise_floor": 0,
    "network.latent_norm": "none",
}
"""Keys that runs of earlier versions lack, and the value with which they were trained."""

_PLACES = tuple(f"data.{key}" for key in PLACES)  # the fingerprint tells data sets apart, not their places


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
    _write_identity(directory, identity)
    for name in ("checkpoints", "samples", "figures"):
        (directory / name).mkdir(exist_ok=True)
    for folder in (directory, directory / "checkpoints"):
        remove_temporaries(folder)


@contextmanager
def evaluating(directory: Path) -> Iterator[None]:
    """Within the block this process alone adds to a run's evaluation; others wait, and say for which process.

    A directory that cannot be written is not locked.
    """
    path = directory / "evaluation.json"
    with ExitStack() as stack:
        with suppress(OSError):
            stack.enter_context(one_writer(directory / _EVALUATION_LOCK, what=str(path), wait=True))
        yield


def read_identity(directory: Path) -> dict[str, Any]:
    """The identity of a run, from its ``config.yaml``, which is not trusted.

    Raises:
        UserError: If there is no such file, it is not the configuration of a run, or the directory holds links
            that lead out of it.
    """
    path = directory / "config.yaml"
    if not path.is_file():
        raise UserError(f"run={directory} is not a run directory: {_why_no_run(directory)}")
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


def _why_no_run(directory: Path) -> str:
    """What a folder without a configuration is, and what to name or to do instead."""
    if not directory.exists():
        return "there is no such folder"
    if holds_prior(directory):
        return "it holds a prior of codes, without networks: sample, evaluate, check and pyro_lrp.load read it"
    if (directory / "checkpoints").is_dir():
        return (
            "it has no config.yaml, so it was trained from Python: build the model with the same code, and "
            f"fill it by pyro_lrp.load({str(directory)!r}, into=autoencoder)"
        )
    below = sorted(path.parent for path in directory.glob("*/config.yaml"))
    if below:
        return f"it has no config.yaml; {below[0]} has one"
    return "it has no config.yaml"


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
    return TrainedOn(arrays.get("seen", none), arrays.get("held_out", none))


def _write_identity(directory: Path, identity: dict[str, Any]) -> None:
    text = _dump(identity)

    def write(path: Path) -> None:
        path.write_text(text, encoding="utf-8")

    write_atomically(directory / "config.yaml", write)


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
    there = {**NEUTRAL, **_flat(read_identity(directory))}
    here = {**NEUTRAL, **_flat(yaml.safe_load(_dump(identity)))}
    ignored: tuple[str, ...] = ()
    if there.get("data.fingerprint") is not None:
        ignored = _PLACES
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
    if not differing or not differing.keys() <= set(_EXTENDABLE):
        return False
    return all(_is_integer(there) and there <= here for there, here in differing.values())


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


def autoencoder_state(whole: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of the autoencoder, by their names in it, of a checkpoint, which has those of the game."""
    state = {}
    for key, value in whole.get("game", {}).items():
        owner, _, name = key.partition(".")
        if owner == "autoencoder":
            state[name] = value
    return state
