"""Which metrics to compute, whether a stored result can be reused, and the table of results."""

from __future__ import annotations

from typing import Any

from pyro_lrp.core.errors import UserError
from pyro_lrp.features import sha256
from pyro_lrp.metrics import METRICS
from pyro_lrp.metrics.subject import Subject

__all__ = ["choose", "request", "table"]


def choose(subject: Subject, metrics: str | list[str]) -> tuple[list[str], dict[str, str]]:
    """The metrics to compute, and of ``auto`` those that cannot be, with what each needs.

    Raises:
        UserError: If one that was asked for by name cannot be computed.
    """
    if metrics == "auto":
        reasons = {name: metric.not_by_itself(subject) for name, metric in METRICS.items()}
        return [name for name, said in reasons.items() if not said], {k: v for k, v in reasons.items() if v}
    for name in metrics:
        said = METRICS[name].lacks(subject)
        if said:
            raise UserError(f"metrics: {name} {said}")
    return list(metrics), {}


def request(name: str, subject: Subject) -> dict[str, Any]:
    """The request that a stored result must match to be reused."""
    network = METRICS[name].network
    file = None if network is None else subject.weights.get(network)
    weights = {} if network is None else {"weights": "official" if file is None else sha256(network, file)}
    counts = {"n": subject.n, "k": subject.k, "quick": subject.quick}
    return {"metric": name, **counts, "seed": subject.seed, **weights}


def table(results: dict[str, Any]) -> str:
    """Results as lines of text: name, value, error, number of images, remarks."""
    width = max(map(len, results), default=0) + 2
    lines = []
    for key, found in results.items():
        spread = found.get("standard_error", found.get("standard_deviation"))
        notes = ["surrogate"] if "surrogate" in found["protocol"] else []
        notes += [found["warning"]] if "warning" in found else []
        if found["value"] is None:
            number = f"{'not finite':>12}"
        else:
            number = f"{found['value']:>12.4g}"
        plus = "" if spread is None else f" ± {spread:.2g}"
        lines.append(f"{key:<{width}}{number}{plus:<10}  n = {found['n']:<8}{'; '.join(notes)}".rstrip())
    return "\n".join(lines + [f"{key}: {r['verdict']}" for key, r in results.items() if "verdict" in r])
