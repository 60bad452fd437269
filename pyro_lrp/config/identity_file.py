"""The ``config.yaml`` of a run, its identity: how it is written with a checksum, and read from a stranger."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from pyro_lrp.config.bounds import read_yaml
from pyro_lrp.config.build import PLACES
from pyro_lrp.config.kinds import holds_prior
from pyro_lrp.config.rules import Rule
from pyro_lrp.core.errors import UserError
from pyro_lrp.core.files import write_atomically
from pyro_lrp.core.seals import digest
from pyro_lrp.core.trees import leaves

__all__ = [
    "EXTENDABLE",
    "NEUTRAL",
    "PLACE_KEYS",
    "flat",
    "is_sealed",
    "plain_identity",
    "read_identity",
    "refuse_links",
    "stamp",
    "write_identity",
]

_FIRST_LINE = "# checksum: {} of what follows; delete this line after a change by hand\n"
_CHECKSUM = re.compile(rb"checksum: ([0-9a-f]{32}) of what follows; delete this line after a change by hand")
EXTENDABLE = ("epochs", "prior_epochs", "decoder_epochs")
"""Keys that ``extend=true`` may raise."""

NEUTRAL = {
    "decoder_epochs": 0,
    "decoder_code_noise": 0,
    "network.noise": "learned",
    "network.noise_floor": 0,
    "network.latent_norm": "none",
}
"""Keys that runs of earlier versions lack, and the value with which they were trained."""

PLACE_KEYS = tuple(f"data.{key}" for key in PLACES)  # the fingerprint tells data sets apart, not their places
"""Keys that say where data lie, and not which they are."""


# LibYAML's, where PyYAML has it, and for trusted values alone: the depth of a stranger's text could exhaust its
# stack. Files are written by the other one, so that their text does not depend on what is installed.
_FAST_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_FAST_DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
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
    _refuse_damage(path)
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


def write_identity(directory: Path, identity: Mapping[str, Any]) -> None:
    """Write the ``config.yaml`` of a run, with a checksum, atomically."""
    text = _dump(identity)
    first = _FIRST_LINE.format(digest(text))

    def write(path: Path) -> None:
        path.write_text(first + text, encoding="utf-8", newline="\n")

    write_atomically(directory / "config.yaml", write)


def stamp(identity: Mapping[str, Any]) -> str:
    """A digest of what an identity says about a model, for its checkpoints.

    The places of data and the lengths of phases, which may change, are left out, and so are keys that have the
    value with which runs of versions without them were trained.
    """
    entries = []
    for key, value in sorted(flat(plain_identity(identity)).items()):
        may_change = key in EXTENDABLE or key in PLACE_KEYS or key == "decoder_code_noise"
        if not may_change and (key not in NEUTRAL or value != NEUTRAL[key]):
            entries.append(f"{key}={value!r}")
    return digest("\n".join(entries))


def plain_identity(identity: Mapping[str, Any]) -> dict[str, Any]:
    """An identity as it is read from the file to which it is written."""
    text = yaml.dump(dict(identity), Dumper=_FAST_DUMPER, sort_keys=False)
    return yaml.load(text, Loader=_FAST_LOADER)


def is_sealed(directory: Path) -> bool:
    """Whether the ``config.yaml`` of a run has a checksum: those of earlier versions have none."""
    return _CHECKSUM.search((directory / "config.yaml").read_bytes()) is not None


def _refuse_damage(path: Path) -> None:
    """Refuse a file that does not match the checksum in it; without one, as of earlier versions, it may."""
    content = path.read_bytes()
    found = _CHECKSUM.search(content)
    if found is None:
        return
    expected = found.group(1).decode()
    rest = content[found.end() :].removeprefix(b"\r").removeprefix(b"\n")
    text = rest.decode("utf-8").replace("\r\n", "\n")
    if digest(text) != expected:
        raise UserError(
            f"{path} is damaged: it does not match its checksum; put back a copy, or, if you changed it "
            "yourself, delete its first line"
        )


def _dump(identity: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(identity), sort_keys=False, allow_unicode=True)


def flat(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by their dotted paths."""
    return {".".join(map(str, path)): leaf for path, leaf in leaves(tree)}
