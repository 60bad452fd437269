"""Hydra, ready to compose what was typed after a command."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import version
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_automatic_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import DictConfig

from pyro_lrp.config.arguments import Typed
from pyro_lrp.config.folders import conf_dir

__all__ = ["VERSION", "Engine", "engine"]

VERSION = "1.3"  # of Hydra's behaviour


@dataclass(frozen=True)
class Engine:
    """Hydra, ready to compose.

    Attributes:
        hydra: Hydra's entrance.
        config_name: The name of the configuration.
        overrides: The arguments ``key=value``.
    """

    hydra: Hydra
    config_name: str
    overrides: list[str]

    @property
    def loader(self) -> Any:
        """What composes configurations."""
        return self.hydra.config_loader

    def compose(self, *more: str) -> DictConfig:
        """The configuration of a whole sweep."""
        overrides = [*self.overrides, "hydra.mode=MULTIRUN", *more]
        return self.hydra.compose_config(self.config_name, overrides, run_mode=RunMode.MULTIRUN)

    def run(self, job: Callable[[DictConfig], None]) -> None:
        """Call a function of the composed configuration.

        ``hydra.main`` does the same, but composes the configuration first to learn that it is of no sweep.
        """
        self.hydra.run(self.config_name, job, [*self.overrides, "hydra.mode=RUN"])


@contextmanager
def engine(name: str, typed: Typed) -> Iterator[Engine]:
    """Hydra for a command, which reads the library's files and, before them, those of the user's own folder.

    Args:
        name: The name of the command.
        typed: Its arguments.
    """
    version.setbase(VERSION)
    parsed = typed.parsed()
    places = create_automatic_config_search_path(None, None, parsed.config_path or conf_dir())
    if parsed.config_dir is not None:
        folder = Path(parsed.config_dir).expanduser().absolute()
        before = SearchPathQuery(provider="schema")
        places.prepend(provider="command-line", path=f"file://{folder}", anchor=before)
    hydra = Hydra.create_main_hydra2(name, places)
    try:
        yield Engine(hydra, parsed.config_name or name, parsed.overrides)
    finally:
        GlobalHydra.instance().clear()
