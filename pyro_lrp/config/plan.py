"""Plans: a composed configuration split into the identity and the circumstances of a run.

The *identity* decides what is computed and is kept in ``config.yaml``. The *circumstances*, such as the device,
the place of the data and logging, may change whenever a run is resumed.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from pyro_lrp.config.folders import conf_dir
from pyro_lrp.config.rules import check
from pyro_lrp.core.errors import UserError

__all__ = ["Plan", "changed", "chosen", "options", "plan"]

OF_THE_TRAINER = (
    "device",
    "devices",
    "nodes",
    "sync_batch_norm",
    "progress",
    "threads",
    "compile",
    "memory_format",
)
CIRCUMSTANCES = (
    *OF_THE_TRAINER,
    "logger",
    "overwrite",
    "extend",
    "allow_targets",
    "data.root",
    "weights",
    "trainer.save_minutes",
    "evaluate_with",
    "parallel",
)
USED_BY = {
    "free_bits": ("elbo", 0.0),
    "gan_loss": ("gan_loss", "minimax"),
    "beta_schedule": ("beta_schedule", {"_target_": "pyro_lrp.schedules.Constant"}),
}
"""Root keys that an objective may read: the key of its node that does so, and the default value."""

GROUPS_NEEDED = (
    "data",
    "network",
    "likelihood",
    "prior",
    "objective",
    "trainer",
    "autoencoder",
    "family",
)
DATA_DEFAULTS = ("latent_dim", "lr", "flow", "epochs")
"""Keys of ``data`` that exist only for other keys to refer to."""


def options(cfg: DictConfig) -> dict[str, Any]:
    """A composed configuration as plain Python, checked.

    Raises:
        UserError: If a value is out of its range, or a file of weights does not exist.
    """
    tree = _checked(cfg)
    for network, file in (tree.get("weights") or {}).items():
        if file is not None and not Path(file).expanduser().is_file():
            raise UserError(f"weights.{network}: there is no file {file}")
    return tree


def _checked(cfg: DictConfig) -> dict[str, Any]:
    tree: Any = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    check(tree)
    return tree


def changed(tree: Mapping[str, Any], command: str, *, leave_out: Iterable[str]) -> dict[str, Any]:
    """The options of a command whose values are not those of its configuration file.

    Args:
        tree: The options.
        command: The name of the command.
        leave_out: Keys of options that do not count.
    """
    usual: Any = OmegaConf.to_container(OmegaConf.load(Path(conf_dir()) / f"{command}.yaml"))
    different = {}
    for key, value in tree.items():
        if key not in leave_out and value != usual.get(key):
            different[key] = value
    return different


def refuse_without_effect(changed: Iterable[str], used: Iterable[str], where: str) -> None:
    """Refuse options that have no effect.

    Args:
        changed: The options that are not the usual ones.
        used: Those that have an effect.
        where: With what, or on what they have none; for the message.

    Raises:
        UserError: If there is one.
    """
    unused = sorted({*changed} - {*used})
    if unused:
        raise UserError(f"{unused[0]} has no effect {where}; {', '.join(used)} have")


@dataclass(frozen=True)
class Plan:
    """A validated run that is about to be trained.

    Attributes:
        identity: The configuration that decides what the run computes.
        circumstances: The configuration that may change when the run is resumed.
        directory: The run directory.
    """

    identity: dict[str, Any]
    circumstances: dict[str, Any]
    directory: Path


def plan(cfg: DictConfig, choices: Mapping[str, str | None] | None = None) -> Plan:
    """Split a composed ``train`` configuration into identity and circumstances, with defaults filled in.

    Args:
        cfg: The configuration.
        choices: The files that were chosen, by group; None for those of the command that runs.
    """
    tree = _checked(cfg)  # the likelihood looks for its weights
    presets = _presets(choices or chosen(HydraConfig.get()))
    _refuse_unknown_keys(tree, presets)
    _refuse_empty_groups(tree)
    usual = _usual_epochs(tree, presets)
    _fill_milestones(tree, usual)
    _fill_epochs(tree, usual, presets)
    _refuse_decoder_phase(tree)
    _remove_objective_keys(tree)
    circumstances = {key: _pop(tree, key) for key in CIRCUMSTANCES}
    circumstances["evaluate_with"] = _known_metrics(circumstances["evaluate_with"])
    circumstances["compile"] = circumstances["compile"] or "off"  # which YAML reads as false
    for key in DATA_DEFAULTS:
        tree["data"].pop(key, None)
    name = tree.pop("name") or _default_name(presets, tree["beta"])
    directory = Path("runs") / str(name) / f"seed_{tree['seed']}"
    return Plan({"presets": presets, **tree}, circumstances, directory)


def chosen(hydra: Any) -> dict[str, Any]:
    """The files that were chosen, by group; of ``experiment=[A,B]``, which Hydra does not list, both.

    Args:
        hydra: The node of that name in a composed configuration.
    """
    choices = dict(hydra.runtime.choices)
    typed: Any = OmegaConf.to_container(hydra.overrides.task, resolve=False)
    for override in OverridesParser.create().parse_overrides(typed):
        value = override.value()
        if override.key_or_group == "experiment" and isinstance(value, list):
            choices["experiment"] = "+".join(str(name) for name in value)
    return choices


def _presets(choices: Mapping[str, str | None]) -> dict[str, str]:
    """The names of the files that were chosen, by group; a name is never a path."""
    presets = {}
    for group, choice in choices.items():
        if "/" not in group and choice is not None:
            presets[group] = str(choice).replace("/", ".")
    return presets


def _refuse_unknown_keys(tree: dict[str, Any], groups: Iterable[str]) -> None:
    known = _root_keys() | set(groups)
    unknown = sorted(str(key) for key in tree.keys() - known)
    if unknown:
        raise UserError(f"unknown key {unknown[0]}; see --help")


@functools.cache
def _root_keys() -> frozenset[str]:
    """The keys of the library's own ``train.yaml``, which is long to read."""
    return frozenset(OmegaConf.load(Path(conf_dir()) / "train.yaml"))


def _refuse_empty_groups(tree: dict[str, Any]) -> None:
    for group in GROUPS_NEEDED:
        if not isinstance(tree.get(group), dict):
            raise UserError(f"{group} must be one of its files; see --help")
    if not isinstance(tree["trainer"].get("schedule"), dict):
        raise UserError("trainer.schedule must be a schedule with a _target_")


def _pop(tree: dict[str, Any], key: str) -> Any:
    *parents, leaf = key.split(".")
    for parent in parents:
        tree = tree[parent]
    return tree.pop(leaf, None)


def _known_metrics(names: Any) -> Any:
    """The metrics that follow the training, as a list, ``"auto"`` or None; one that is unknown is refused."""
    if names is None:
        return None
    from pyro_lrp.metrics.evaluation import known_metrics  # needs torch, which --help does not wait for

    return known_metrics(names, "evaluate_with")


def _default_name(presets: dict[str, str], beta: float) -> str:
    name = f"{presets['model']}-{presets['prior']}-{presets['data']}-beta_{beta:g}"
    if "experiment" in presets:
        return f"{presets['experiment']}-{name}"
    return name


def _usual_epochs(tree: dict[str, Any], presets: dict[str, str]) -> dict[str, Any] | None:
    """The usual numbers of epochs of the family on the data set, if there are any.

    ``data.epochs.FAMILY`` takes precedence over the table of the family.
    """
    family = presets.get("family")
    table = tree.pop("family", {}).get("epochs", {})
    of_data = tree["data"].get("epochs") or {}
    return of_data.get(family) or table.get(presets.get("data")) or table.get("default")


def _fill_milestones(tree: dict[str, Any], usual: dict[str, Any] | None) -> None:
    """Fill in the milestones of a schedule that has them and leaves them to the family."""
    schedule = tree["trainer"]["schedule"]
    if schedule.get("milestones", ()) is None:
        schedule["milestones"] = (usual or {}).get("halvings", [])


def _fill_epochs(tree: dict[str, Any], usual: dict[str, Any] | None, presets: dict[str, str]) -> None:
    """Fill in the lengths of the phases; a joint phase of another length rescales the prior's."""
    if tree["epochs"] is not None and tree["prior_epochs"] is not None:
        return
    if usual is None:
        family = presets.get("family")
        data = presets.get("data")
        raise UserError(f"family={family} has no epochs for data={data}: give epochs and prior_epochs")
    if tree["epochs"] is None:
        tree["epochs"] = usual["joint"]
    if tree["prior_epochs"] is None:
        tree["prior_epochs"] = round(tree["epochs"] * usual["prior"] / usual["joint"])


def _refuse_decoder_phase(tree: dict[str, Any]) -> None:
    """Refuse a decoder-only phase of an untrained encoder, and noise of a phase that there is not."""
    if tree["decoder_epochs"] and not tree["epochs"]:
        raise UserError("decoder_epochs needs a trained encoder: epochs must be above 0")
    if tree["decoder_code_noise"] and not tree["decoder_epochs"]:
        raise UserError("decoder_code_noise has no effect without decoder_epochs")


def _remove_objective_keys(tree: dict[str, Any]) -> None:
    """Remove the root keys that objectives read, and refuse one that this objective ignores."""
    for key, (place, default) in USED_BY.items():
        value = tree.pop(key)
        if value != default and place not in tree["objective"]:
            target = tree["objective"].get("_target_")
            raise UserError(f"{key} has no effect here: {target} does not take it")
