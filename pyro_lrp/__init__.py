"""Generative autoencoders whose prior is learned, written in Pyro.

A prior is a module that returns a Pyro distribution; a model is a Pyro ``model``/``guide`` pair; training is
a game of players. See the README for a tour.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.2.0"

_SUBMODULES = (
    "config", "core", "data", "features", "figures", "latents", "likelihoods", "metrics", "models", "networks",
    "objectives", "people", "priors", "schedules", "testing", "trainer", "transforms",
)  # fmt: skip
_ALIASES = {"checkpoint": "core.checkpoint", "explore": "latents.views", "gradients": "core.gradients"}

__all__ = ["load", *_SUBMODULES, *_ALIASES]


def __getattr__(name: str) -> Any:
    """Import submodules (and ``load``) on first use, so that ``import pyro_lrp`` is quick."""
    if name == "load":
        return importlib.import_module("pyro_lrp.config").load
    if name in (*_SUBMODULES, *_ALIASES):
        return importlib.import_module(f"pyro_lrp.{_ALIASES.get(name, name)}")
    raise AttributeError(f"module 'pyro_lrp' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
