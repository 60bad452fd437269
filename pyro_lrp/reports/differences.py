"""What differs between runs: the columns of a report, and groups of runs that differ in their seed alone."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from string import ascii_uppercase
from typing import Any

from pyro_lrp.core.trees import map_leaves
from pyro_lrp.reports.collect import ReportedRun

__all__ = ["IMAGES", "Keys", "canonical", "columns", "grouped", "labelled", "letter", "shown"]

IMAGES = "images"
"""The column that tells different images of the same data preset apart."""

Keys = dict[str, Any]


def labelled(runs: Sequence[ReportedRun]) -> list[Keys]:
    """The keys of each run, with a letter for its images where runs of one data preset have different ones."""
    prints: dict[Any, set[str]] = {}
    for run in runs:
        if run.fingerprint is not None:
            prints.setdefault(run.keys.get("data"), set()).add(str(run.fingerprint))
    keys = []
    for run in runs:
        own = dict(run.keys)
        known = sorted(prints.get(own.get("data"), ()))
        if len(known) > 1 and run.fingerprint is not None:
            own[IMAGES] = letter(known.index(str(run.fingerprint)))
        keys.append(own)
    return keys


def columns(keys: Sequence[Keys]) -> list[str]:
    """The keys that differ between runs: presets and root keys before nested ones.

    A nested key, such as ``prior.width``, counts only if it differs among runs with the same presets of the
    groups that it names, and does not repeat a root key, as ``prior.dim`` repeats ``latent_dim``.

    Args:
        keys: The keys of each run.

    >>> flow = {"prior": "flow", "beta": 0, "prior.width": 8}
    >>> columns([flow, {**flow, "beta": 1}, {"prior": "mixture", "beta": 0, "prior.components": 5}])
    ['prior', 'beta']
    >>> columns([flow, {**flow, "prior.width": 16}])
    ['prior.width']
    """
    ordered: dict[str, None] = {}
    for own in keys:
        ordered.update(dict.fromkeys(own))
    roots = [key for key in ordered if "." not in key]
    nested = [key for key in ordered if "." in key]
    differing = [key for key in roots if _differs(key, keys)]
    for key in nested:
        if _differs_within_preset(key, keys) and not _repeats(key, differing, keys):
            differing.append(key)
    return differing


def _differs(key: str, keys: Iterable[Keys]) -> bool:
    return len({canonical(own.get(key)) for own in keys}) > 1


def _differs_within_preset(key: str, keys: Sequence[Keys]) -> bool:
    """Whether a nested key differs among runs with the same presets of its groups."""
    return any(_differs(key, alike) for alike in _by_preset(key, keys))


def _by_preset(key: str, keys: Sequence[Keys]) -> list[list[Keys]]:
    """The runs by their presets of the groups that a nested key names."""
    groups = key.split(".")[:-1]
    alike: dict[tuple[str, ...], list[Keys]] = {}
    for own in keys:
        presets = tuple(canonical(own.get(group)) for group in groups)
        alike.setdefault(presets, []).append(own)
    return list(alike.values())


def _repeats(key: str, others: Sequence[str], keys: Sequence[Keys]) -> bool:
    """Whether a nested key has the value of one of the root keys among others, wherever its presets have it."""
    having = []
    for alike in _by_preset(key, keys):
        some = [own for own in alike if key in own]
        if some and len(some) < len(alike):  # to have it or not is a difference
            return False
        having += some
    roots = [other for other in others if "." not in other]
    return any(all(canonical(own[key]) == canonical(own.get(root)) for own in having) for root in roots)


def grouped(keys: Sequence[Keys], names: Sequence[str]) -> list[list[int]]:
    """The indices of runs with equal keys, in the order of the values in some columns.

    Args:
        keys: The keys of each run.
        names: The columns; runs that differ differ in one of them.
    """
    groups: dict[tuple[str, ...], list[int]] = {}
    for index, own in enumerate(keys):
        values = tuple(canonical(own.get(name)) for name in names)
        groups.setdefault(values, []).append(index)

    def place(indices: list[int]) -> list[tuple[int, float, str]]:
        first = keys[indices[0]]
        return [_order(first.get(name)) for name in names]

    return sorted(groups.values(), key=place)


def _order(value: Any) -> tuple[int, float, str]:
    """The place of a value in its column: none, then numbers, then text."""
    if value is None:
        return 0, 0.0, ""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            size = float(value)
        except OverflowError:
            size = math.copysign(math.inf, value)
        if not math.isnan(size):
            return 1, size, str(value)
    return 2, 0.0, canonical(value)


def canonical(value: Any) -> str:
    """A text that two values share only if they are equal; 1 and 1.0 are.

    >>> canonical(1.0) == canonical(1), canonical(True) == canonical(1), canonical("1") == canonical(1)
    (True, False, False)
    """
    return json.dumps(map_leaves(lambda _, leaf: _plain(leaf), value), sort_keys=True)


def _plain(leaf: Any) -> Any:
    if isinstance(leaf, float) and leaf.is_integer():
        return int(leaf)
    return leaf


def shown(value: Any) -> str:
    """A value as a user types it, for tables.

    >>> shown(0.1), shown(None), shown(True), shown([1, 28]), shown("flow")
    ('0.1', '', 'true', '[1,28]', 'flow')
    """
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return f"{value:g}"
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def letter(index: int) -> str:
    """A, B, ..., Z, AA, AB and so on."""
    letters = ""
    index += 1
    while index:
        index, place = divmod(index - 1, len(ascii_uppercase))
        letters = ascii_uppercase[place] + letters
    return letters
