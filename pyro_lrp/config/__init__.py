"""From words to a run: the command line, plans, building with an allow-list, run directories."""

from pyro_lrp.config.build import (
    PLACES,
    Plan,
    build_autoencoder,
    build_data,
    build_game,
    contexts,
    default_data_root,
    load,
    needs_context,
    optimizers,
    options,
    phases,
    places,
    plan,
    prior_phase,
    schedule,
    settle,
    with_contexts,
)
from pyro_lrp.config.command import conf_dir

__all__ = [
    "PLACES", "Plan", "build_autoencoder", "build_data", "build_game", "conf_dir", "contexts", "default_data_root",
    "load", "needs_context", "optimizers", "options", "phases", "places", "plan", "prior_phase", "schedule",
    "settle", "with_contexts",
]  # fmt: skip
