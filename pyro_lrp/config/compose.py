"""The plan of a training that Python asks for, composed without a command line."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import open_dict
from omegaconf.errors import OmegaConfBaseException

from pyro_lrp.config.arguments import for_hydra, refuse_no_choice
from pyro_lrp.config.folders import conf_dir
from pyro_lrp.config.messages import one_line
from pyro_lrp.config.plan import Plan, plan
from pyro_lrp.core.errors import UserError

__all__ = ["compose_train"]

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
        arguments.append(_search(config_dir))
    try:
        with _hydra():
            cfg = compose("train", arguments, return_hydra_config=True)
        presets = cfg.hydra.runtime.choices
        with open_dict(cfg):
            del cfg.hydra
        return plan(cfg, presets)
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(one_line(error, "train")) from error


@contextmanager
def _hydra() -> Iterator[None]:
    """Within the block Hydra reads the library's files; afterwards its state is that of before."""
    with _one_at_a_time:
        outer = GlobalHydra.instance().hydra
        GlobalHydra.instance().clear()
        try:
            with initialize_config_dir(conf_dir(), version_base="1.3"):
                yield
        finally:
            GlobalHydra.instance().hydra = outer


def _refuse_flags(arguments: list[str]) -> None:
    for argument in arguments:
        if argument.startswith(("-", "=")) or not argument.partition("=")[1]:
            raise UserError(
                f"expected arguments key=value, got {argument!r}; a folder of files is config_dir=DIR"
            )


def _search(config_dir: str | Path) -> str:
    """The argument that adds a folder to Hydra's search path.

    Raises:
        UserError: If it is none, or holds a file of a name that the library's folder has, which would win.
    """
    own = Path(config_dir).expanduser().absolute()
    if not own.is_dir():
        raise UserError(f"config_dir: there is no folder {own}")
    for path in sorted(own.rglob("*.yaml")):
        name = path.relative_to(own)
        if (Path(conf_dir()) / name).is_file():
            raise UserError(f"config_dir: {name} is the name of a file of the library: rename {path}")
    place = str(own).replace("\\", "\\\\").replace("'", "\\'")
    return f"hydra.searchpath=['file://{place}']"
