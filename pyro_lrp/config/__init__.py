"""Configuration: the command line, plans, building through an allow-list, runs and their directories."""

from pyro_lrp.config.build import (
    PLACES,
    build_autoencoder,
    build_data,
    build_game,
    default_data_root,
    needs_context,
    schedule,
    schedules,
    settle,
)
from pyro_lrp.config.command import conf_dir
from pyro_lrp.config.compose import compose_train
from pyro_lrp.config.loading import load
from pyro_lrp.config.plan import Plan, options, plan
from pyro_lrp.config.run import Run

__all__ = [
    "PLACES",
    "Plan",
    "Run",
    "build_autoencoder",
    "build_data",
    "build_game",
    "compose_train",
    "conf_dir",
    "default_data_root",
    "load",
    "needs_context",
    "options",
    "plan",
    "schedule",
    "schedules",
    "settle",
]
