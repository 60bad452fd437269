"""Which values a key may have, whatever else a configuration says."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from pyro_lrp.core.errors import UserError

__all__ = ["RULES", "check"]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_count(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_counts(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 0 and all(_is_count(item, 0) for item in value)


_COUNT = (lambda v: _is_count(v, 1), "a whole number of at least 1")
_COUNT_OR_NULL = (lambda v: v is None or _is_count(v, 1), "a whole number of at least 1, or null")
_EPOCHS = (lambda v: v is None or _is_count(v, 0), "a whole number of at least 0, or null")
_RATE = (lambda v: _is_number(v) and v > 0, "a number above 0")
_RATE_OR_NULL = (lambda v: v is None or (_is_number(v) and v > 0), "a number above 0, or null")
_NOT_NEGATIVE = (lambda v: _is_number(v) and v >= 0, "a finite number of at least 0")
_FLAG = (lambda v: isinstance(v, bool), "true or false")
RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "beta": _NOT_NEGATIVE,
    "seed": (lambda v: _is_count(v, 0), "a whole number of at least 0"),
    "latent_dim": _COUNT,
    "batch_size": _COUNT,
    "prior_batch_size": _COUNT_OR_NULL,
    "epochs": _EPOCHS,
    "prior_epochs": _EPOCHS,
    "order": (lambda v: v in ("joint", "two_stage"), "joint or two_stage"),
    "prior_code_noise": _NOT_NEGATIVE,
    "prior_ema": (lambda v: _is_number(v) and 0 <= v < 1, "a number of at least 0 and below 1"),
    "prior_weight_decay": _NOT_NEGATIVE,
    "prior_patience": _COUNT_OR_NULL,
    "lr": _RATE,
    "likelihood.lr": _RATE_OR_NULL,
    "free_bits": _NOT_NEGATIVE,
    "gan_loss": (lambda v: v in ("minimax", "nonsaturating"), "minimax or nonsaturating"),
    "weights": (
        lambda v: isinstance(v, dict) and all(path is None or isinstance(path, str) for path in v.values()),
        "files by network, such as weights.vgg19=FILE",
    ),
    "data.limit": _COUNT_OR_NULL,
    "data.crop": _COUNT_OR_NULL,
    "data.image_size": _COUNT_OR_NULL,
    "data.validation": (lambda v: _is_number(v) and 0 <= v < 1, "a share of at least 0 and below 1"),
    "trainer.report_every": _COUNT,
    "trainer.evaluations": _COUNT,
    "trainer.evaluation_images": _COUNT,
    "trainer.save_minutes": (lambda v: _is_number(v) and v >= 0, "a number of at least 0"),
    "allow_targets": (
        lambda v: isinstance(v, list) and all(isinstance(p, str) and p for p in v),
        "a list of prefixes of dotted names, such as [my_package.]",
    ),
    "metrics": (
        lambda v: isinstance(v, str) or (isinstance(v, list) and all(isinstance(m, str) for m in v)),
        "auto, or a list of names",
    ),
    "progress": _FLAG,
    "overwrite": _FLAG,
    "logger": (lambda v: v in ("none", "tensorboard"), "none or tensorboard"),
    "name": (lambda v: v is None or isinstance(v, (str, int, float)), "text"),
    "n": _COUNT_OR_NULL,
    "k": _COUNT_OR_NULL,
    "temperature": _RATE,
    "strength": (_is_number, "a number"),
    "steps": (lambda v: _is_count(v, 2), "a whole number of at least 2"),
    "speed": (lambda v: v in ("even", "constant"), "even or constant"),
    "space": (lambda v: v in (None, "base", "latent", "both"), "base, latent, both, or null"),
    "indices": (
        lambda v: v is None or _is_counts(v),
        "a list of numbers of test images, such as [0,1], or null",
    ),
    "pose": (
        lambda v: v is None or _is_count(v, 0) or _is_counts(v),
        "a number of a test image, a list of such, or null",
    ),
    "components": (
        lambda v: v is None or _is_counts(v),
        "a list of numbers of components, such as [0,1], or null",
    ),
    "distance": (
        lambda v: v in ("vgg16", "alexnet", "squeezenet", "classifier"),
        "vgg16, alexnet, squeezenet or classifier",
    ),
}


def check(tree: dict[str, Any]) -> None:
    """Refuse values that no run can have, by the name of their key."""
    for key, (holds, expected) in RULES.items():
        node: Any = tree
        *parents, leaf = key.split(".")
        for parent in parents:
            node = node.get(parent) or {}
        if leaf in node and not holds(node[leaf]):
            raise UserError(f"{key} must be {expected}, got {node[leaf]!r}")
