"""An evaluation: which metrics to compute, their results in a file, what failed, and the table of results."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from pyro_lrp.core.errors import UserError
from pyro_lrp.core.files import read_json, write_json
from pyro_lrp.features import sha256
from pyro_lrp.metrics import METRICS, Metric
from pyro_lrp.metrics.meanings import GROUPS, arrow, group
from pyro_lrp.metrics.subject import Subject

__all__ = [
    "Evaluation", "choose", "known_metrics", "missing", "refuse_uncomputable", "request", "sentence", "table",
    "verdicts",
]  # fmt: skip

Results = dict[str, dict[str, Any]]

_LEGEND = "↓ smaller is better, ↑ larger; a surrogate compares with others of the same classifier alone"


def known_metrics(names: str | list[str], key: str, metrics: Mapping[str, Metric] = METRICS) -> str | list[str]:
    """The names of metrics as a list, or ``"auto"``.

    Args:
        names: The names, one of them, or ``"auto"``.
        key: The key that names them, for messages.
        metrics: Those that there are.

    Raises:
        UserError: If one is unknown.
    """
    if names == "auto":
        return names
    names = [names] if isinstance(names, str) else names
    known = ", ".join(metrics)
    for name in names:
        if name not in metrics:
            raise UserError(f"{key}: {name} is unknown; the known ones are: auto, or of [{known}]")
    return names


def refuse_uncomputable(subject: Subject, names: str | list[str], key: str) -> None:
    """Refuse metrics of a model that is about to be trained, if it or its data lack what one of them needs.

    Args:
        subject: The model, not trained, and its data.
        names: The names of metrics; of ``"auto"``, none is refused.
        key: The key that names them, for messages.

    Raises:
        UserError: If one cannot be computed; the message says what it lacks.
    """
    if names == "auto":
        return
    for name in names:
        reason = METRICS[name].lacks(subject)
        if reason is not None:
            raise UserError(f"{key}: {name} {reason}")


def choose(subject: Subject, metrics: str | list[str]) -> tuple[list[str], dict[str, str]]:
    """The metrics to compute, and those that are left out, with what they need.

    Args:
        subject: The subject to evaluate.
        metrics: ``"auto"``, or names of metrics.

    Raises:
        UserError: If none of the metrics that are named can be computed.
    """
    chosen = []
    left_out = {}
    by_itself = metrics == "auto"
    names = METRICS if by_itself else metrics
    for name in names:
        reason = METRICS[name].lacks(subject)
        if by_itself:
            reason = METRICS[name].not_by_itself(subject)
        if reason:
            left_out[name] = reason
        else:
            chosen.append(name)
    if not by_itself and not chosen:
        raise UserError(f"metrics: {sentence(left_out)}")
    return chosen, left_out


class Evaluation:
    """Metrics of one subject, computed one after another; a failure ends none but its own.

    Args:
        subject: The subject.
        path: The file of results; those that it holds of the same request are kept.
        stamp: Further entries of a request, such as the training step.
        overwrite: Whether to compute again what is there.
        metrics: The metrics by name.

    Attributes:
        shown: The results that were asked for, computed or kept.
        errors: The error by name of a metric that could not be computed.
        unwritten: The error of the last attempt to write the file, or None.
    """

    def __init__(
        self,
        subject: Any,
        path: Path,
        stamp: dict[str, Any],
        *,
        overwrite: bool,
        metrics: Mapping[str, Metric] = METRICS,
    ) -> None:
        self.subject = subject
        self.metrics = metrics
        self.path = path
        self.stamp = stamp
        self.overwrite = overwrite
        self.shown: Results = {}
        self.errors: dict[str, Exception] = {}
        self.unwritten: OSError | None = None
        self._stored: dict[str, Any] = {}
        if path.is_file():
            self._stored = read_json(path)

    def compute(self, name: str, progress: Callable[[str], AbstractContextManager]) -> None:
        """Compute a metric, or take its stored results; add them to the file at once.

        Args:
            name: The name of the metric.
            progress: Makes the block in which a metric of some name is computed.
        """
        try:
            asked = request(name, self.subject, self.metrics[name].network) | self.stamp
            results = self._kept(asked)
            if self.overwrite or not results:
                with progress(name):
                    computed = self.metrics[name].compute(self.subject)
                results = {key: {**result, "request": asked} for key, result in computed.items()}
                self._store(results)
        except Exception as error:  # whatever it is, the others are worth computing
            self.errors[name] = error
        else:
            self.shown |= results

    @property
    def failed(self) -> dict[str, str]:
        """The reason by name of a metric that could not be computed."""
        return {name: _reason(error) for name, error in self.errors.items()}

    def _kept(self, asked: dict[str, Any]) -> Results:
        """The stored results of the same request."""
        results = {key: result for key, result in self._stored.items() if isinstance(result, dict)}
        return {key: result for key, result in results.items() if result.get("request") == asked}

    def _store(self, results: Results) -> None:
        self._stored |= results
        try:
            write_json(self.path, self._stored)
        except OSError as error:  # the results are shown all the same
            self.unwritten = error
        else:
            self.unwritten = None


def _reason(error: Exception) -> str:
    if isinstance(error, UserError):
        return str(error)
    text = " ".join(str(error).split())[:300]
    return f"ended with {type(error).__name__}: {text}"


def sentence(reasons: dict[str, str]) -> str:
    """Names of metrics, each with its reason, in one line."""
    return "; ".join(f"{name} {reason}" for name, reason in reasons.items())


def request(name: str, subject: Any, network: str | None) -> dict[str, Any]:
    """The request that a stored result must match to be reused.

    Args:
        name: The name of the metric.
        subject: The subject.
        network: The pretrained network that the metric needs.
    """
    asked = {
        "metric": name,
        "n": subject.n,
        "k": subject.k,
        "quick": subject.quick,
        "seed": subject.seed,
    }
    if network is None:
        return asked
    file = subject.weights.get(network)
    if file is None:
        return {**asked, "weights": "official"}
    return {**asked, "weights": sha256(network, file)}


def missing(reasons: Mapping[str, str], metrics: Mapping[str, Metric] = METRICS) -> list[str]:
    """A line for each metric that was not computed, with the reason; one for all that lack their weights.

    Args:
        reasons: The reasons by name.
        metrics: The metrics by name.
    """
    without: dict[str, list[str]] = {}  # by network
    lines = []
    for name, reason in reasons.items():
        metric = metrics.get(name)
        if metric is not None and metric.network and reason == metric.without_weights:
            without.setdefault(metric.network, []).append(name)
        else:
            lines.append(f"not computed: {name} {reason}")
    if sum(map(len, without.values())) == 1:
        ((network, (name,)),) = without.items()
        lines.insert(0, f"not computed: {name} {metrics[name].without_weights}")
    elif without:
        needing = [f"{', '.join(names)} (weights.{network})" for network, names in without.items()]
        lines.insert(
            0,
            f"not computed without weights.NAME=FILE, unless they are asked for by name, which downloads: "
            f"{', '.join(needing)}",
        )
    return lines


def table(results: dict[str, Any]) -> str:
    """Results as lines of text by group: name, arrow towards better values, value, error, number of images."""
    width = max(map(len, results), default=0) + 2
    groups: dict[str, list[str]] = {name: [] for name in GROUPS}
    for name, one in results.items():
        groups[group(name)].append(f"{name:<{width}}{arrow(name)} {_row(one)}".rstrip())
    filled = {heading: rows for heading, rows in groups.items() if rows}
    lines = []
    for heading, rows in filled.items():
        if len(filled) > 1:
            lines += ["", f"{heading}:"]
        lines += rows
    if any(arrow(name).strip() for name in results):
        lines += ["", _LEGEND]
    return "\n".join(lines).strip("\n")


def verdicts(results: dict[str, Any]) -> list[str]:
    """A sentence of each result that has one."""
    return [f"{name}: {one['verdict']}" for name, one in results.items() if "verdict" in one]


def _row(one: dict[str, Any]) -> str:
    """A line of the table without the name."""
    number = f"{'not finite':>12}"
    if one["value"] is not None:
        number = f"{one['value']:>12.4g}"
    spread = one.get("standard_error", one.get("standard_deviation"))
    error = ""
    if spread is not None:
        error = f" ± {spread:.2g}"
    notes = []
    if "surrogate" in one["protocol"]:
        notes.append("surrogate")
    if "warning" in one:
        notes.append(one["warning"])
    return f"{number}{error:<10}  n = {one['n']:<8}{'; '.join(notes)}"
