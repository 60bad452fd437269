"""Plans: a composed configuration as the identity and the circumstances of a run.

The *identity* decides what is computed and is kept in ``config.yaml``; the *circumstances* (device, where data
lie, logging) may change whenever a run is resumed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from pyro_lrp.config.command import conf_dir
from pyro_lrp.config.rules import check
from pyro_lrp.core.errors import UserError
from pyro_lrp.schedules import Phase
from pyro_lrp.trainer import PriorPhase

__all__ = ["Plan", "options", "optimizers", "phases", "plan", "prior_phase"]

CIRCUMSTANCES = (
    "device",
    "logger",
    "progress",
    "overwrite",
    "allow_targets",
    "data.root",
    "weights",
    "trainer.save_minutes",
)
USED_BY = {  # root keys that an objective takes over: where they stand in its node, and what they mean unset
    "free_bits": ("elbo", 0.0),
    "gan_loss": ("gan_loss", "minimax"),
    "beta_schedule": ("beta_schedule", {"_target_": "pyro_lrp.schedules.Constant"}),
}
GROUPS_NEEDED = ("data", "network", "likelihood", "prior", "objective", "trainer", "autoencoder", "family")
DATA_DEFAULTS = ("latent_dim", "lr", "flow", "epochs")  # values that other keys refer to


def options(cfg: DictConfig) -> dict[str, Any]:
    """A composed configuration as plain Python, checked."""
    tree: Any = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    check(tree)
    return tree


@dataclass(frozen=True)
class Plan:
    """A validated run: what it computes, under which circumstances, and where it is written."""

    identity: dict[str, Any]
    circumstances: dict[str, Any]
    directory: Path


def plan(cfg: DictConfig) -> Plan:
    """Split a composed ``train`` configuration into identity and circumstances, with defaults filled in."""
    tree = options(cfg)
    chosen = {k: v for k, v in HydraConfig.get().runtime.choices.items() if "/" not in k and v is not None}
    groups = {group: str(name).replace("/", ".") for group, name in chosen.items()}  # names, not paths
    known = set(OmegaConf.load(Path(conf_dir()) / "train.yaml")) | set(groups)
    stray = sorted(str(key) for key in tree.keys() - known)
    if stray:
        raise UserError(f"unknown key {stray[0]}; see --help")
    empty = [key for key in GROUPS_NEEDED if not isinstance(tree.get(key), dict)]
    if empty:
        raise UserError(f"{empty[0]} must be one of its files; see --help")
    if not isinstance(tree["trainer"].get("schedule"), dict):
        raise UserError("trainer.schedule must be a schedule with a _target_")
    _fill_epochs(tree, groups)
    _hand_to_objective(tree)
    circumstances = {key: _pop(tree, key) for key in CIRCUMSTANCES}
    for key in DATA_DEFAULTS:
        tree["data"].pop(key, None)
    name, seed = tree.pop("name"), tree["seed"]
    directory = Path("runs") / str(name or _default_name(groups, tree["beta"])) / f"seed_{seed}"
    return Plan({"presets": groups, **tree}, circumstances, directory)


def _pop(tree: dict[str, Any], key: str) -> Any:
    *parents, leaf = key.split(".")
    for parent in parents:
        tree = tree[parent]
    return tree.pop(leaf, None)


def _default_name(groups: dict[str, str], beta: float) -> str:
    experiment = f"{groups['experiment']}-" if "experiment" in groups else ""
    return f"{experiment}{groups['model']}-{groups['prior']}-{groups['data']}-beta_{beta:g}"


def _fill_epochs(tree: dict[str, Any], groups: dict[str, str]) -> None:
    """Give the phases, and a schedule that asks for them, the usual numbers of the family and the data set.

    A row of the data set's own, ``data.epochs.FAMILY``, stands before the family's table.
    """
    family, data = groups.get("family"), groups.get("data")
    table = tree.pop("family", {}).get("epochs", {})
    own = tree["data"].get("epochs") or {}
    usual = own.get(family) or table.get(data) or table.get("default")
    if tree["trainer"].get("schedule", {}).get("milestones", ()) is None:
        tree["trainer"]["schedule"]["milestones"] = (usual or {}).get("halvings", [])
    if tree["epochs"] is not None and tree["prior_epochs"] is not None:
        return
    if usual is None:
        raise UserError(f"family={family} has no epochs for data={data}: give epochs and prior_epochs")
    joint, prior = usual["joint"], usual["prior"]
    if tree["prior_epochs"] is None:
        given = joint if tree["epochs"] is None else tree["epochs"]
        tree["prior_epochs"] = round(given * prior / joint)
    if tree["epochs"] is None:
        tree["epochs"] = joint


def _hand_to_objective(tree: dict[str, Any]) -> None:
    """Root keys that only some objectives take into their node: one that would do nothing is refused."""
    for key, (place, unset) in USED_BY.items():
        if tree.pop(key) != unset and place not in tree["objective"]:
            raise UserError(f"{key} has no effect here: {tree['objective'].get('_target_')} does not take it")


def phases(identity: dict[str, Any]) -> list[Phase]:
    """The phases of a run. In two stages each player still sees as many codes; the prior, frozen ones."""
    joint, prior = identity["epochs"], identity["prior_epochs"]
    if identity["order"] == "two_stage":
        return [Phase("autoencoder_only", joint), Phase("prior_only", joint + prior)]
    return [Phase("joint", joint), Phase("prior_only", prior)]


def prior_phase(identity: dict[str, Any]) -> PriorPhase:
    """What a run's prior-only phase does besides descending its loss."""
    patience = identity["prior_patience"]
    return PriorPhase(code_noise=identity["prior_code_noise"], ema=identity["prior_ema"], patience=patience)


def optimizers(identity: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Options of single players' optimizers."""
    given = identity["trainer"]["optimizers"]
    if not identity["prior_weight_decay"]:
        return given
    return {**given, "prior": {**given.get("prior", {}), "weight_decay": identity["prior_weight_decay"]}}
