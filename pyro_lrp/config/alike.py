"""Plans of runs of one shape, which may be trained as one computation."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pyro_lrp.config.plan import Plan
from pyro_lrp.core.trees import KeyPath, leaves

__all__ = ["groups_alike", "joint"]

_MAY_DIFFER = ("seed", "beta", "lr", "gamma")  # the last keys of their paths: none of them decides a shape
_SCHEDULES = ("schedule", "schedules")  # of the trainer: factors of learning rates


def joint(plan: Plan) -> bool:
    """Whether a plan asks to be trained with others, where it can be."""
    alone = plan.circumstances["devices"] == plan.circumstances["nodes"] == 1
    return plan.circumstances["parallel"] == "batched" and alone


def groups_alike(plans: Mapping[str, Plan]) -> list[list[str]]:
    """The names of plans, in groups of one shape and one data set.

    The plans of a group differ in seeds, learning rates and their schedules, the decoder's variance γ, or in a
    β above 0; with β = 0 exactly, other terms are computed.

    Args:
        plans: By name.
    """
    groups: dict[str, list[str]] = {}
    for name, plan in plans.items():
        groups.setdefault(_shape(plan), []).append(name)
    return list(groups.values())


def _shape(plan: Plan) -> str:
    """A text that is the same for all plans of a group."""
    parts = {"identity": plan.identity, "circumstances": plan.circumstances}
    entries = [[list(path), _kept(path, value)] for path, value in leaves(parts)]
    return json.dumps([entry for entry in entries if entry[1] is not _LEFT_OUT], default=str)


_LEFT_OUT: Any = object()


def _kept(path: KeyPath, value: Any) -> Any:
    """What a leaf adds to the shape of a plan."""
    if path[-1] == "beta":
        return value == 0
    if path[-1] in _MAY_DIFFER or path[1:3] in [("trainer", schedule) for schedule in _SCHEDULES]:
        return _LEFT_OUT
    return value
