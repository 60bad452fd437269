"""The values that a key may have, independently of the rest of a configuration."""

from __future__ import annotations

import math
import os
import unicodedata
from collections.abc import Callable
from pathlib import PurePath
from typing import Any, NamedTuple

from pyro_lrp.core.errors import UserError

__all__ = ["RULES", "Rule", "check"]


_LONGEST_NAME = 200  # bytes; file systems allow 255


class Rule(NamedTuple):
    """A condition on the value of a key.

    Attributes:
        holds: Whether a value satisfies the rule.
        expected: The values that do, in words, for the error.
    """

    holds: Callable[[Any], bool]
    expected: str

    def or_null(self) -> Rule:
        """The same rule, which null satisfies as well."""

        def holds(value: Any) -> bool:
            return value is None or self.holds(value)

        return Rule(holds, f"{self.expected}, or null")


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return math.isfinite(value)


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_count(value: Any, least: int) -> bool:
    if isinstance(value, bool) or not isinstance(value, int):
        return False
    return value >= least


def _is_indices(value: Any) -> bool:
    return _is_list(value, _is_index) and len(value) > 0


def _is_index(value: Any) -> bool:
    return _is_count(value, 0)


def _is_list(value: Any, holds: Callable[[Any], bool]) -> bool:
    return isinstance(value, list) and all(holds(item) for item in value)


def _is_threads(value: Any) -> bool:
    return value == "auto" or _is_count(value, 1)


def _is_compile(value: Any) -> bool:
    return value is False or value in ("auto", "off", "graph", "full")  # YAML reads off as false


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_name(value: Any) -> bool:
    """Whether a value names a folder below ``runs``; an empty text counts as none."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return False
    text = str(value)
    parts = PurePath(text).parts
    if PurePath(text).is_absolute() or ".." in parts or any(not part.strip() for part in parts):
        return False
    if text and not parts:
        return False
    has_control = any(unicodedata.category(letter) == "Cc" for letter in text)
    return not has_control and all(len(os.fsencode(part)) <= _LONGEST_NAME for part in parts)


def _is_prefixes(value: Any) -> bool:
    return _is_list(value, _is_text) and all(value)


def _is_names(value: Any) -> bool:
    return _is_text(value) or _is_list(value, _is_text)


def _is_files(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    return all(path is None or _is_text(path) for path in value.values())


def _is_node(value: Any) -> bool:
    return isinstance(value, dict)


def _is_pose(value: Any) -> bool:
    return _is_index(value) or _is_indices(value)


def _at_least(least: int) -> Rule:
    return Rule(lambda value: _is_count(value, least), f"a whole number of at least {least}")


def _share(expected: str) -> Rule:
    return Rule(lambda value: _is_number(value) and 0 <= value < 1, expected)


def _not_negative(expected: str) -> Rule:
    return Rule(lambda value: _is_number(value) and value >= 0, expected)


def _one_of(*values: str) -> Rule:
    *others, last = values
    expected = last
    if others:
        expected = f"{', '.join(others)} or {last}"
    return Rule(lambda value: value in values, expected)


_COUNT = _at_least(1)
_RATE = Rule(lambda value: _is_number(value) and value > 0, "a number above 0")
_FINITE = _not_negative("a finite number of at least 0")
_FLAG = Rule(_is_flag, "true or false")
RULES: dict[str, Rule] = {
    "beta": _FINITE,
    "seed": _at_least(0),
    "latent_dim": _COUNT,
    "batch_size": _COUNT.or_null(),
    "prior_batch_size": _COUNT.or_null(),
    "epochs": _at_least(0).or_null(),
    "prior_epochs": _at_least(0).or_null(),
    "decoder_epochs": _at_least(0),
    "decoder_code_noise": _FINITE,
    "order": _one_of("joint", "two_stage"),
    "prior_code_noise": _FINITE,
    "prior_ema": _share("a number of at least 0 and below 1"),
    "prior_weight_decay": _FINITE,
    "prior_patience": _COUNT.or_null(),
    "lr": _RATE,
    "likelihood.lr": _RATE.or_null(),
    "free_bits": _FINITE,
    "gan_loss": _one_of("minimax", "nonsaturating"),
    "weights": Rule(_is_files, "files by network, such as weights.vgg19=FILE"),
    "data.limit": _COUNT.or_null(),
    "data.crop": _COUNT.or_null(),
    "data.image_size": _COUNT.or_null(),
    "data.validation": _share("a share of at least 0 and below 1").or_null(),
    "trainer.optimizers": Rule(_is_node, "options by player, such as {prior: {lr: 1e-4}}"),
    "trainer.schedules": Rule(_is_node, "schedules by player, such as {prior: {_target_: NAME}}"),
    "trainer.report_every": _COUNT,
    "trainer.evaluations": _COUNT,
    "trainer.evaluation_images": _COUNT,
    "trainer.save_minutes": _not_negative("a number of at least 0"),
    "allow_targets": Rule(_is_prefixes, "a list of prefixes of dotted names, such as [my_package.]"),
    "metrics": Rule(_is_names, "auto, or a list of names"),
    "evaluate_with": Rule(_is_names, "auto, or a list of metrics").or_null(),
    "progress": _FLAG,
    "overwrite": _FLAG,
    "extend": _FLAG,
    "other_data": _FLAG,
    "sync_batch_norm": _FLAG,
    "devices": _COUNT,
    "nodes": _COUNT,
    "compile": Rule(_is_compile, "auto, off, graph or full"),
    "memory_format": _one_of("contiguous", "channels_last"),
    "threads": Rule(_is_threads, "auto, or a whole number of at least 1"),
    "parallel": _one_of("batched").or_null(),
    "logger": _one_of("none", "tensorboard", "wandb", "trackio"),
    "name": Rule(_is_name, "the name of a folder, of at most 200 letters and without ..").or_null(),
    "n": _COUNT.or_null(),
    "k": _COUNT.or_null(),
    "temperature": _RATE,
    "strength": Rule(_is_number, "a number"),
    "steps": _at_least(2),
    "speed": _one_of("even", "constant"),
    "port": _COUNT.or_null(),
    "space": Rule(
        lambda value: value in (None, "base", "latent", "both"),
        "base, latent, both, or null",
    ),
    "indices": Rule(_is_indices, "a list of numbers of test images, such as [0,1]").or_null(),
    "pose": Rule(_is_pose, "a number of a test image, a list of such").or_null(),
    "components": Rule(_is_indices, "a list of numbers of components, such as [0,1]").or_null(),
    "style": Rule(_is_names, "a style of matplotlib or a file .mplstyle, or a list of such").or_null(),
    "distance": _one_of("vgg16", "alexnet", "squeezenet", "classifier"),
}


def check(tree: dict[str, Any]) -> None:
    """Refuse a configuration with a value that its key cannot have.

    Raises:
        UserError: On the first such value; the message names the key.
    """
    for key, rule in RULES.items():
        node: Any = tree
        *parents, leaf = key.split(".")
        for parent in parents:
            node = node.get(parent) or {}
        if leaf in node and not rule.holds(node[leaf]):
            raise UserError(f"{key} must be {rule.expected}, got {node[leaf]!r}")
