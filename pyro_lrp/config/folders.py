"""The folders of configuration files: the library's, and the user's own, which goes before it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from pyro_lrp.core.errors import UserError, printable

__all__ = ["conf_dir", "groups", "note_replaced", "refuse_own_command"]


def conf_dir() -> str:
    """The configuration directory: inside an installed wheel, or beside the package in a checkout."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "conf"
    if installed.is_dir():
        return str(installed)
    return str(package.parent / "conf")


EXPERIMENTS = "reproduce"
"""The folder of the paper's experiments, which is no configuration group."""


def groups(*folders: str | Path | None) -> dict[str, list[str]]:
    """The files of each configuration group by name, of the library's folder and of further ones."""
    found: dict[str, set[str]] = {}
    for folder in (conf_dir(), *folders):
        if folder is None:
            continue
        for path in Path(folder).glob("*/*.yaml"):
            found.setdefault(path.parent.name, set()).add(path.stem)
    found.pop(EXPERIMENTS, None)
    return {group: sorted(names) for group, names in sorted(found.items())}


def refuse_own_command(own: str | Path) -> None:
    """Refuse a folder of the user that holds ``train.yaml`` or another command's whole configuration.

    Raises:
        UserError: If there is no such folder, or it holds such a file.
    """
    if not Path(own).is_dir():
        raise UserError(f"--config-dir {own}: there is no such folder")
    for path in sorted(Path(conf_dir()).glob("*.yaml")):
        mine = Path(own, path.name)
        if mine.exists():
            raise UserError(
                f"{mine} would replace the whole configuration of {path.stem}: give it another name, begin it "
                f"with `defaults: [{path.stem}, _self_]`, and choose it with --config-name NAME"
            )


def note_replaced(own: str | Path | None, choices: Mapping[str, str | None]) -> None:
    """Say on ``stderr`` which of the library's files are replaced by the user's of the same name.

    Args:
        own: The user's folder, if there is one.
        choices: The chosen file by group.
    """
    if own is None:
        return
    for group, choice in choices.items():
        name = f"{group}/{choice}.yaml"
        if Path(own, name).is_file() and Path(conf_dir(), name).is_file():
            print(printable(f"{name} is that of {own}, not the built-in one"), file=sys.stderr)
