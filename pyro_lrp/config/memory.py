"""What this user's runs were trained with: places of data, and targets that were allowed.

A run directory may come from a stranger, so its configuration neither opens files nor allows targets. For a
run of the user's own, what was typed once lies in the user's cache, under a hash of the run's identity. A
stranger's run with the very same identity names the same targets, so it gains nothing but what the user typed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pyro_lrp.config.build import PLACES
from pyro_lrp.core.errors import UserError
from pyro_lrp.core.files import cache_dir, read_json, write_json
from pyro_lrp.core.trees import leaves

__all__ = ["Memory", "recall", "remember"]


@dataclass(frozen=True)
class Memory:
    """What a run was trained with.

    Attributes:
        places: Absolute paths of the data, by key.
        allow_targets: Prefixes of targets that the user allowed.
    """

    places: Mapping[str, str] = field(default_factory=dict)
    allow_targets: Sequence[str] = ()


def remember(identity: dict[str, Any], places: Mapping[str, Any], allow_targets: Sequence[str]) -> bool:
    """Keep what a run is trained with; returns False if the cache cannot be written."""
    absolute = {}
    for key, place in places.items():
        if place is not None:
            absolute[key] = str(Path(place).expanduser().resolve())
    content = {"places": absolute, "allow_targets": list(allow_targets)}
    try:
        write_json(_path(identity), content)
    except (OSError, UserError):
        return False
    return True


def recall(identity: dict[str, Any]) -> Memory:
    """What a run of this identity was trained with by this user; empty if there was none."""
    with suppress(OSError, UserError, ValueError, TypeError, KeyError, AttributeError):
        content = read_json(_path(identity))
        places = {str(key): str(place) for key, place in content["places"].items()}
        return Memory(places, [str(prefix) for prefix in content["allow_targets"]])
    return Memory()


def _path(identity: dict[str, Any]) -> Path:
    """The file of a run: its name depends on the identity, but not on where the data lie."""
    entries = []
    for path, leaf in leaves(identity):
        of_place = path[0] == "data" and path[-1] in PLACES
        if not of_place:
            entries.append([".".join(map(str, path)), leaf])
    text = json.dumps(sorted(entries, key=str), default=str)
    return cache_dir("runs") / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"
