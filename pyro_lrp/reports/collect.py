"""Finding and reading runs: their keys, scores and curves, and what is wrong with those that cannot be read."""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pyro_lrp.config import rundir
from pyro_lrp.config.build import PLACES
from pyro_lrp.core.errors import UserError
from pyro_lrp.core.files import read_json
from pyro_lrp.reports.scores import Score, number, read_final, read_results, requests, whole
from pyro_lrp.trainer.history import read_rows

__all__ = ["CURVES", "Collection", "ReportedRun", "collect", "folders"]

CURVES = (
    "log_likelihood",
    "test/log_likelihood",
    "log_prior",
    "test/log_prior",
)
"""The terms of ``metrics.jsonl`` that are drawn, in nats per image: of training batches, and of test images."""

Curve = tuple[tuple[int, float], ...]
"""Steps and values, in order."""

_LARGEST_DRAWN = 1e12  # nats; what is beyond is no likelihood, and axes overflow
_REMAINS = ("metrics.jsonl", "summary.json", "checkpoints")  # a folder with one of them was a run
_INSIDE = (  # folders of a run that hold no runs
    "checkpoints", "samples", "figures", "tensorboard", "wandb", "trackio", "report"
)  # fmt: skip
_EARLIER = {  # further keys that runs of the first versions lack, which cannot be resumed
    "beta_schedule": "constant",
    "order": "joint",
    "prior_code_noise": 0,
    "prior_ema": 0,
    "prior_weight_decay": 0,
    "objective.latent_reconstruction": 0,
    **rundir.NEUTRAL,
}
_HIDDEN_KEYS = ("seed", "data.fingerprint", *(f"data.{place}" for place in PLACES))


@dataclass(frozen=True)
class ReportedRun:
    """One run, as far as a report needs it.

    Attributes:
        name: The path of its directory, relative to the folder that holds all runs of the collection.
        seed: Its seed.
        keys: What it was trained with, but for the seed, the data's fingerprint and their places: leaves of the
            identity by the name that a user types, such as ``prior``, ``beta`` and ``prior.width``. A list is
            one value. Keys without a value are left out.
        scores: Its metrics by name.
        step: The last training step that it recorded.
        finished: Whether training is complete: there is a ``summary.json``, or, of a published run without the
            files of its training, results of ``evaluate`` that say so.
        evaluated: Whether it has results of ``evaluate``.
        curves: Terms of training over steps, by name; see :data:`CURVES`.
        directory: The run directory; None for a run that was read from a CSV file.
        identity: The whole identity, as in ``config.yaml``; empty for a run that was read from a CSV file.
    """

    name: str
    seed: int
    keys: Mapping[str, Any]
    scores: Mapping[str, Score] = field(default_factory=dict)
    step: int = 0
    finished: bool = True
    evaluated: bool = False
    curves: Mapping[str, Curve] = field(default_factory=dict)
    directory: Path | None = None
    identity: Mapping[str, Any] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str | None:
        """The fingerprint of the images; None for a run of an earlier version."""
        data = self.identity.get("data", {})
        return data.get("fingerprint")

    @property
    def picture(self) -> Path | None:
        """Where its grid of prior samples lies, if it has one."""
        if self.directory is None:
            return None
        return self.directory / "figures" / "samples.png"


@dataclass(frozen=True)
class Collection:
    """The runs of a report.

    Attributes:
        runs: The runs that could be read, in the order of their names.
        broken: What is wrong with each of the others, in one sentence that names it.
    """

    runs: tuple[ReportedRun, ...]
    broken: tuple[str, ...] = ()


def collect(paths: Iterable[str | Path]) -> Collection:
    """Read the runs that lie in some folders.

    Nothing of a run is executed, unpickled or followed out of its directory. A run that cannot be read does not
    stop the others: :attr:`Collection.broken` names it.

    Args:
        paths: Run directories, folders that hold runs at any depth, or patterns such as ``runs/*beta*``. A path
            that does not exist, or holds no run, counts as broken.

    Example:
        >>> collect(["no such folder"])
        Collection(runs=(), broken=('no such folder: there is no such folder',))
    """
    found: dict[Path, Path] = {}  # as it was typed, by its real place
    broken = []
    for folder in folders(paths):
        below, links = _below(folder)
        broken += [f"{link} is a link that leads out of {folder}: name it itself" for link in links]
        if not below and not links:
            broken.append(f"{folder}: {_why_none(folder)}")
        for directory in below:
            found.setdefault(directory.resolve(), directory)
    base = _base(found)
    runs = []
    names = {os.path.relpath(place, base).replace(os.sep, "/"): place for place in found}
    for name, place in sorted(names.items()):
        directory = found[place]
        try:
            runs.append(_read(directory, name))
        except (ValueError, OSError, RecursionError) as error:
            broken.append(_sentence(error, directory))
    return Collection(tuple(runs), tuple(broken))


def folders(paths: Iterable[str | Path]) -> list[Path]:
    """The paths, with those that patterns stand for in their place; a pattern for nothing stays as it is."""
    expanded = []
    for typed in paths:
        path = Path(typed).expanduser()
        matches: list[str] = []
        if not path.exists():
            matches = sorted(glob.glob(str(path), recursive=True))
        expanded += [Path(match) for match in matches if Path(match).is_dir()] or [path]
    return expanded


def _below(folder: Path) -> tuple[list[Path], list[Path]]:
    """The directories of runs, whole or not, in a folder, and links that lead to runs elsewhere.

    Hidden folders are left out, and links are not followed.
    """
    runs = []
    links = []
    inside = folder.resolve()
    for place, subfolders, files in os.walk(folder):
        entries = {*subfolders, *files}
        if "config.yaml" in entries or entries & {*_REMAINS}:
            runs.append(Path(place))
        subfolders[:] = [name for name in subfolders if not name.startswith(".") and name not in _INSIDE]
        for name in subfolders:
            path = Path(place, name)
            leads_out = path.is_symlink() and not path.resolve().is_relative_to(inside)
            if leads_out and (path / "config.yaml").is_file():
                links.append(path)
    return runs, links


def _why_none(folder: Path) -> str:
    """Why no run was found at a path."""
    if folder.is_dir():
        return "it holds no run"
    if folder.exists():
        return "it is no folder"
    return "there is no such folder"


def _base(places: Iterable[Path]) -> Path:
    """The folder relative to which runs are named: the deepest that holds all; of a lone run, two above it."""
    parents = [place.parent for place in places]
    if not parents:
        return Path()
    common = Path(os.path.commonpath(parents))
    if len(parents) == 1:
        return common.parent
    return common


def _sentence(error: BaseException, directory: Path) -> str:
    """What is wrong with a run, in words that name its directory."""
    if isinstance(error, UserError):
        return str(error).removeprefix("run=")
    if isinstance(error, OSError):
        return f"{error.filename or directory}: {error.strerror}"
    if isinstance(error, RecursionError):
        return f"{directory}: a file is nested too deeply"
    return f"{directory}: {error}"


def _read(directory: Path, name: str) -> ReportedRun:
    """Read one run.

    Raises:
        UserError: If its configuration or a JSON file is damaged, or links lead out of it.
    """
    identity = rundir.read_identity(directory)
    summary = rundir.read_summary(directory)
    history = directory / "metrics.jsonl"
    results = directory / "evaluation.json"
    evaluation: dict[str, Any] = {}
    if results.is_file():
        evaluation = read_json(results)
    rows = read_rows(history).rows
    asked = requests(evaluation)
    finished = summary is not None
    if summary is None and not history.is_file():  # a published run, without the files of its training
        finished = bool(evaluation) and all(request.get("finished", True) for request in asked)
    steps = [row["step"] for row in rows] or [whole(request.get("step")) or 0 for request in asked]
    step = _final_step(summary or {}) or max(steps, default=0)
    scores = read_final(summary or {}) | read_results(evaluation, results, step)
    json.dumps(identity)  # a number of too many digits is found here, and below what is nested too deeply
    for score in scores.values():
        _ = score.protocol_id
    return ReportedRun(
        name=name,
        seed=identity["seed"],
        keys=_keys(identity),
        scores=scores,
        step=step,
        finished=finished,
        evaluated=bool(evaluation),
        curves={term: _curve(rows, term) for term in CURVES},
        directory=directory,
        identity=identity,
    )


def _final_step(summary: Mapping[str, Any]) -> int | None:
    final = summary.get("final")
    if not isinstance(final, dict):
        return None
    return whole(final.get("step"))


def _keys(identity: Mapping[str, Any]) -> dict[str, Any]:
    """The leaves of an identity by the names that users type, presets first; see :class:`ReportedRun`."""
    presets = identity["presets"]
    chosen: dict[str, Any] = {str(group): name for group, name in presets.items()}
    others = {key: node for key, node in identity.items() if key != "presets"}
    merged = {**chosen, **dict(_leaves(others))}
    for key, value in _EARLIER.items():
        merged.setdefault(key, value)
    return {key: value for key, value in merged.items() if value is not None and key not in _HIDDEN_KEYS}


def _leaves(node: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The values of nested dicts by their dotted keys; lists are values."""
    for key, value in node.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _curve(rows: list[dict[str, Any]], term: str) -> Curve:
    points = []
    for row in rows:
        value = number(row.get(term))
        if value is not None and abs(value) < _LARGEST_DRAWN:
            points.append((row["step"], value))
    return tuple(points)
