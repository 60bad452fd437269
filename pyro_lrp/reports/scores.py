"""Scores of a run: a metric's value with its protocol, from ``evaluation.json`` and ``summary.json``."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pyro_lrp.core.errors import UserError
from pyro_lrp.core.trees import leaves

__all__ = ["FINAL_TERMS", "Score", "read_final", "read_results", "requests"]

FINAL_TERMS = ("test/log_likelihood", "test/log_prior", "test/kl")
"""Terms of the last row of ``summary.json`` that count as metrics, in nats per image."""

_OUTCOMES = ("classifier_accuracy", "kept_images", "majority_accuracy", "non_finite", "non_finite_samples")
"""Entries of a protocol that say what came out, and not how it was computed."""

_LARGEST = 2**63


@dataclass(frozen=True)
class Score:
    """One metric of one run.

    Attributes:
        value: The value; None if it was not finite.
        n: The number of images or samples, if it is known.
        seed: The seed of the evaluation, if it is known.
        protocol: How the value was computed. Values of different protocols must not be compared.
    """

    value: float | None
    n: int | None = None
    seed: int | None = None
    protocol: Mapping[str, Any] = field(default_factory=dict)

    @property
    def terms(self) -> dict[str, str]:
        """The leaves of the protocol as text, by dotted keys, without those that are outcomes.

        >>> Score(1.0, protocol={"network": {"layer": 3}, "non_finite": 0}).terms
        {'network.layer': '3'}
        """
        terms = {}
        for path, leaf in leaves(self.protocol):
            key = ".".join(map(str, path))
            if key not in _OUTCOMES:
                terms[key] = _text(leaf)
        return terms

    @property
    def protocol_id(self) -> str:
        """Eight hexadecimal digits; equal protocols have equal ones."""
        text = json.dumps(self.terms, sort_keys=True)
        return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=4).hexdigest()


def read_results(content: Mapping[str, Any], path: Path, step: int) -> dict[str, Score]:
    """The scores in the content of an ``evaluation.json``.

    Args:
        content: The results by name.
        path: The file, for errors.
        step: The step of the run. A result of another step says so in its protocol.

    Raises:
        UserError: If an entry is not a result.
    """
    scores = {}
    for name, entry in content.items():
        if not isinstance(entry, dict) or not isinstance(entry.get("protocol"), dict):
            raise UserError(f"{path}: {name[:60]} is not a result of a metric: delete it, or the file")
        protocol = dict(entry["protocol"])
        for request in requests({name: entry}):
            if request.get("step") not in (None, step):
                protocol["step"] = request["step"]
            if request.get("data") is not None:
                protocol["evaluated on"] = f"images {request['data']}"
        scores[name] = Score(
            value=number(entry.get("value")),
            n=whole(entry.get("n")),
            seed=whole(entry.get("seed")),
            protocol=protocol,
        )
    return scores


def requests(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What was asked for each result of an ``evaluation.json`` that says so."""
    entries = [entry for entry in content.values() if isinstance(entry, dict)]
    asked = [entry.get("request") for entry in entries]
    return [request for request in asked if isinstance(request, dict)]


def read_final(summary: Mapping[str, Any]) -> dict[str, Score]:
    """The scores in the content of a ``summary.json``: those of :data:`FINAL_TERMS` that it has."""
    final = summary.get("final")
    images = summary.get("scored_images")
    if not isinstance(final, dict):
        return {}
    n = None
    if isinstance(images, dict):
        n = whole(images.get("test"))
    scores = {}
    for term in FINAL_TERMS:
        if final.get(term) is None:  # a deterministic encoder has no KL
            continue
        unit = "nats"
        if term == "test/log_likelihood":
            unit = str(summary.get("log_likelihood_unit", unit))
        scores[term] = Score(number(final[term]), n, protocol={"unit": unit})
    return scores


def number(value: Any) -> float | None:
    """A finite float, or None."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        finite = float(value)
    except OverflowError:
        return None
    if not math.isfinite(finite):
        return None
    return finite


def whole(value: Any) -> int | None:
    """A whole number of at most 64 bits, or None."""
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) >= _LARGEST:
        return None
    return value


def _text(leaf: Any) -> str:
    if isinstance(leaf, str):
        return leaf
    return json.dumps(leaf)
