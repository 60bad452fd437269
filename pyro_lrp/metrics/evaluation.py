"""Which metrics to compute, whether a stored result can be reused, and the table of results."""

from __future__ import annotations

from typing import Any

from pyro_lrp.core.errors import UserError
from pyro_lrp.features import sha256
from pyro_lrp.metrics import METRICS
from pyro_lrp.metrics.subject import Subject

__all__ = ["choose", "request", "table"]


def choose(subject: Subject, metrics: str | list[str]) -> tuple[list[str], dict[str, str]]:
    """The metrics to compute, and those that ``auto`` leaves out, with the reasons.

    Args:
        subject: The subject to evaluate.
        metrics: ``"auto"``, or names of metrics.

    Raises:
        UserError: If a metric that is named cannot be computed.
    """
    if metrics != "auto":
        for name in metrics:
            reason = METRICS[name].lacks(subject)
            if reason:
                raise UserError(f"metrics: {name} {reason}")
        return list(metrics), {}
    chosen = []
    left_out = {}
    for name, metric in METRICS.items():
        reason = metric.not_by_itself(subject)
        if reason:
            left_out[name] = reason
        else:
            chosen.append(name)
    return chosen, left_out


def request(name: str, subject: Subject) -> dict[str, Any]:
    """The request that a stored result must match to be reused."""
    asked = {
        "metric": name,
        "n": subject.n,
        "k": subject.k,
        "quick": subject.quick,
        "seed": subject.seed,
    }
    network = METRICS[name].network
    if network is None:
        return asked
    file = subject.weights.get(network)
    if file is None:
        return {**asked, "weights": "official"}
    return {**asked, "weights": sha256(network, file)}


def table(results: dict[str, Any]) -> str:
    """Results as lines of text: name, value, error, number of images, remarks."""
    width = max(map(len, results), default=0) + 2
    lines = [f"{name:<{width}}{_row(one)}".rstrip() for name, one in results.items()]
    for name, one in results.items():
        if "verdict" in one:
            lines.append(f"{name}: {one['verdict']}")
    return "\n".join(lines)


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
