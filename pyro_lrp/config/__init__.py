"""Configuration: the command line, plans, building through an allow-list, runs and their directories."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from pyro_lrp.config.compose import compose_train
from pyro_lrp.config.folders import conf_dir
from pyro_lrp.config.plan import Plan, changed, options, plan, refuse_without_effect

if TYPE_CHECKING:
    from pyro_lrp.config.build import (
        PLACES,
        build_autoencoder,
        build_data,
        build_game,
        build_prior,
        default_data_root,
        needs_context,
        planned_data,
        schedule,
        schedules,
        settle,
    )
    from pyro_lrp.config.loading import load
    from pyro_lrp.config.run import Run

__all__ = [
    "PLACES",
    "Plan",
    "Run",
    "build_autoencoder",
    "build_data",
    "build_game",
    "build_prior",
    "changed",
    "compose_train",
    "conf_dir",
    "default_data_root",
    "load",
    "needs_context",
    "options",
    "plan",
    "refuse_without_effect",
    "planned_data",
    "schedule",
    "schedules",
    "settle",
]


_OWNERS = {"Run": "run", "load": "loading"}


def __getattr__(name: str) -> Any:
    """Import on first use what needs torch: ``--help`` does not wait for it."""
    if name not in __all__:
        raise AttributeError(f"module 'pyro_lrp.config' has no attribute {name!r}")
    owner = _OWNERS.get(name, "build")
    module = importlib.import_module(f"pyro_lrp.config.{owner}")
    return getattr(module, name)
