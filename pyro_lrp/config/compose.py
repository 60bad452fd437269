"""The plan of a training that Python asks for, composed without a command line."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, open_dict
from omegaconf.errors import OmegaConfBaseException

from pyro_lrp.config.arguments import for_hydra, refuse_no_choice
from pyro_lrp.config.folders import conf_dir, note_replaced, refuse_own_command
from pyro_lrp.config.messages import one_line, uncomposed
from pyro_lrp.config.plan import Plan, chosen, plan
from pyro_lrp.core.errors import MISTAKES, UserError

__all__ = ["compose_train", "members_of"]

_one_at_a_time = threading.Lock()  # Hydra's state is global to the process


def compose_train(*overrides: str, config_dir: str | Path | None = None) -> Plan:
    """The plan of the command ``train`` for the arguments ``key=value``; Hydra's own state stays as it was.

    Args:
        *overrides: What is typed after the command, such as ``"data=digits"``.
        config_dir: A folder of further configuration files, as of the flag ``--config-dir``.

    Raises:
        UserError: If an argument is unknown or has an impossible value.

    >>> compose_train("data=digits", "seed=3").directory.name
    'seed_3'
    """
    arguments = [for_hydra(argument) for argument in overrides]
    _refuse_flags(arguments)
    refuse_no_choice(arguments, config_dir)
    if config_dir is not None:
        refuse_own_command(Path(config_dir).expanduser())
    try:
        with _hydra(config_dir):
            cfg = compose("train", arguments, return_hydra_config=True)
            presets = chosen(cfg.hydra)
            note_replaced(config_dir, presets)
            with _hydra_knows(cfg):  # a name may hold ${hydra:runtime.choices.prior}
                return plan(cfg, presets)
    except UserError:
        raise
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(one_line(error, "train")) from error
    except MISTAKES as error:
        raise uncomposed(error) from error


def members_of(sweep: Sequence[str]) -> list[tuple[str, ...]]:
    """The arguments of each member of a sweep, the last one changing fastest, as Hydra's sweeper has them.

    >>> members_of(["model=vae", "beta=0,1", "seed=0,1"])[1:3]
    [('model=vae', 'beta=0', 'seed=1'), ('model=vae', 'beta=1', 'seed=0')]
    """
    overrides = OverridesParser.create().parse_overrides(list(sweep))
    (members,) = BasicSweeper.split_arguments(overrides, None)
    return [tuple(member) for member in members]


@contextmanager
def _hydra(own: str | Path | None) -> Iterator[None]:
    """Within the block Hydra reads the library's files, and before them those of a folder of the user's.

    Afterwards Hydra's state is that of before.
    """
    with _one_at_a_time:
        outer = GlobalHydra.instance().hydra
        GlobalHydra.instance().clear()
        try:
            with initialize_config_dir(conf_dir(), version_base="1.3"):
                if own is not None:
                    _search_first(Path(own).expanduser().absolute())
                yield
        finally:
            GlobalHydra.instance().hydra = outer


@contextmanager
def _hydra_knows(cfg: DictConfig) -> Iterator[None]:
    """Within the block Hydra's own configuration is that of ``cfg``, which loses it."""
    instance = HydraConfig.instance()
    outer = instance.cfg
    instance.set_config(cfg)
    with open_dict(cfg):
        del cfg.hydra
    try:
        yield
    finally:
        instance.cfg = outer


def _refuse_flags(arguments: list[str]) -> None:
    for argument in arguments:
        if argument.startswith(("-", "=")) or not argument.partition("=")[1]:
            raise UserError(
                f"expected arguments key=value, got {argument!r}; a folder of files is config_dir=DIR"
            )


def _search_first(own: Path) -> None:
    """Put a folder before the library's: a search path that is typed would come after it."""
    places = create_config_search_path(conf_dir())
    places.prepend(provider="pyro_lrp", path=f"file://{own}")
    GlobalHydra.instance().clear()
    Hydra.create_main_hydra2("train", places)
