"""Whether a prior over-fits the training codes, from the rows of the metrics."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

__all__ = ["advice", "overfitting"]

_LEAST = {"prior_only": 0.25, "joint": 1.0}
"""Nats by which the held-out score must fall in a phase. In the joint one some of a fall is the encoder's."""

_LEAST_SHARE = 0.05  # the same of a loss that is not in nats
_REMEDIES = {
    "prior_only": "prior_patience=2 (with data.validation=0.1) keeps the best; or prior_code_noise=0.2, "
    "or fewer prior_epochs",
    "joint": "fewer epochs, a smaller prior, or more images",
}


def overfitting(rows: Sequence[Mapping[str, Any]], phases: Collection[str]) -> dict[str, Any] | None:
    """The phase in which the score of held-out codes fell while that of training codes rose, if there is one.

    Without held-out codes those of test images are looked at: this is a warning and selects nothing.

    Args:
        rows: Of the metrics of a run, in order.
        phases: The names of those in which the prior learns.

    Returns:
        None, or the ``phase``, the ``split`` that stood for new codes, the ``score`` (``log_prior``, or
        ``fit_loss`` with the sign changed), its ``best`` value ``at_step`` and its ``last`` one, and the scores
        of training codes at the same steps, ``train_then`` and ``train_last``.

    >>> row = {"phase": "prior_only", "step": 1, "train/log_prior": -9.0, "test/log_prior": -9.5}
    >>> later = {**row, "step": 2, "train/log_prior": -8.0, "test/log_prior": -11.0}
    >>> found = overfitting([row, later], {"prior_only"})
    >>> found["split"], found["best"], found["at_step"], found["last"]
    ('test', -9.5, 1, -11.0)
    """
    for phase in ("prior_only", "joint"):
        if phase not in phases:
            continue
        scored = _scored(rows, phase, phases)
        found = _fall(scored, phase)
        if found is not None:
            return found
    return None


def _scored(rows: Sequence[Mapping[str, Any]], phase: str, phases: Collection[str]) -> list[Mapping[str, Any]]:
    """The rows of a phase that have scores; before those of the prior alone, the last one of joint training.

    That is of the same codes, for the encoder stays as it is from then on.
    """
    with_scores = [row for row in rows if _score_of(row) is not None]
    own = [row for row in with_scores if row["phase"] == phase]
    joint = [row for row in with_scores if row["phase"] == "joint"]
    if phase == "prior_only" and "joint" in phases:
        return joint[-1:] + own
    return own


def _score_of(row: Mapping[str, Any]) -> str | None:
    for score in ("log_prior", "fit_loss"):
        if all(_is_finite(row.get(f"{split}/{score}")) for split in ("train", "test")):
            return score
    return None


def _is_finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _fall(scored: list[Mapping[str, Any]], phase: str) -> dict[str, Any] | None:
    """The fall of the held-out score since its best value, if it is one and the training score rose."""
    if not scored:
        return None
    last = scored[-1]
    score = str(_score_of(last))
    split = "test"
    if _is_finite(last.get(f"validation/{score}")):
        split = "validation"
    new = f"{split}/{score}"
    sign = 1.0 if score == "log_prior" else -1.0
    comparable = [row for row in scored if _is_finite(row.get(new))]
    best = max(comparable, key=lambda row: sign * row[new])
    least = _LEAST[phase]
    if score != "log_prior":
        least = _LEAST_SHARE * abs(best[new])
    fell = sign * (best[new] - last[new]) > least
    rose = sign * (last[f"train/{score}"] - best[f"train/{score}"]) > 0
    if not (fell and rose):
        return None
    return {
        "phase": phase,
        "split": split,
        "score": score,
        "best": sign * best[new],
        "at_step": best["step"],
        "last": sign * last[new],
        "train_then": sign * best[f"train/{score}"],
        "train_last": sign * last[f"train/{score}"],
    }


def advice(found: Mapping[str, Any]) -> list[str]:
    """Lines for people that say what was found, and the remedies."""
    what = "log p(z)"
    if found["score"] != "log_prior":
        what = "minus the prior's loss"
    codes = "test codes"
    if found["split"] == "validation":
        codes = "held-out codes"
    fell = f"{found['best']:.2f} at step {found['at_step']} to {found['last']:.2f}"
    rose = f"{found['train_then']:.2f} to {found['train_last']:.2f}"
    return [
        f"the prior over-fits: in phase {found['phase']} {what} of {codes} fell from {fell},",
        f"  while that of training codes rose from {rose}",
        f"  remedies: {_REMEDIES[found['phase']]}",
    ]
