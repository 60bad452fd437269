"""Generative autoencoders whose prior is learned, written in Pyro.

A prior is a module that returns a Pyro distribution, a model is a Pyro ``model``/``guide`` pair, and training
is a game of players. The README gives an overview.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from pyro_lrp.core.aliases import Aliases

__version__ = "0.2.0"

_SUBMODULES = (
    "adapters",
    "config",
    "core",
    "data",
    "features",
    "figures",
    "fitting",
    "latents",
    "likelihoods",
    "metrics",
    "models",
    "networks",
    "objectives",
    "people",
    "priors",
    "reports",
    "schedules",
    "sharing",
    "testing",
    "trainer",
    "transforms",
)
_ALIASES = {  # earlier names of modules
    "checkpoint": "core.checkpoint",
    "errors": "core.errors",
    "gradients": "core.gradients",
}

__all__ = ["Run", "explore", "export", "fit", "load", "train", *_SUBMODULES, *_ALIASES]

sys.meta_path.append(Aliases({f"pyro_lrp.{old}": f"pyro_lrp.{new}" for old, new in _ALIASES.items()}))


def load(folder: str | Path, **options: Any) -> Any:
    """What a folder holds: the autoencoder of a run, or the prior that ``fit`` left.

    Args:
        folder: A run directory, or a folder of ``fit``; or ``hf:OWNER/NAME``, a run on the Hugging Face hub.
        **options: ``allow_targets`` and, of a run, ``into``: see :func:`pyro_lrp.config.load` and
            :func:`pyro_lrp.fitting.load`.

    Returns:
        An :class:`~pyro_lrp.models.Autoencoder` in eval mode, or a :class:`~pyro_lrp.fitting.Fitted`.

    Raises:
        UserError: If there is neither, or it is damaged.
    """
    from pyro_lrp.config.kinds import holds_prior

    module = "config"
    if holds_prior(folder):
        module = "fitting"
    return importlib.import_module(f"pyro_lrp.{module}").load(folder, **options)


def __getattr__(name: str) -> Any:
    """Import submodules, classes and functions on first use, so that ``import pyro_lrp`` is fast."""
    if name == "Run":
        return importlib.import_module("pyro_lrp.config").Run
    if name in ("explore", "export", "fit", "train", *_SUBMODULES, *_ALIASES):  # four are commands
        module = _ALIASES.get(name, name)
        return importlib.import_module(f"pyro_lrp.{module}")
    raise AttributeError(f"module 'pyro_lrp' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
