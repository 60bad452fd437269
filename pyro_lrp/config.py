"""Assembly: from a composed configuration to objects. The only module, with the commands, that knows Hydra.

A run's configuration has two parts. The *identity* decides what is computed and is kept in ``config.yaml``; the
*circumstances* (device, where data lie, logging) may change whenever a run is resumed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf

from pyro_lrp import checkpoint, rundir
from pyro_lrp.cli import conf_dir
from pyro_lrp.data import ImageData
from pyro_lrp.errors import UserError
from pyro_lrp.models import Autoencoder
from pyro_lrp.objectives import Game
from pyro_lrp.priors import Prior
from pyro_lrp.randomness import seeded
from pyro_lrp.trainer import Phase

__all__ = [
    "Plan", "build_autoencoder", "build_data", "build_game", "conf_dir", "default_data_root", "load",
    "options", "phases", "plan", "schedule",
]  # fmt: skip

ALLOWED_TARGETS = (
    "pyro_lrp.data.", "pyro_lrp.likelihoods.", "pyro_lrp.models.", "pyro_lrp.networks.", "pyro_lrp.objectives.",
    "pyro_lrp.priors.", "pyro_lrp.schedules.", "pyro_lrp.transforms.", "pyro.distributions.", "pyro.nn.",
    "torch.nn.", "torch.distributions.",
)  # fmt: skip
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
GROUPS_NEEDED = ("data", "network", "likelihood", "prior", "objective", "trainer")
DATA_DEFAULTS = ("latent_dim", "lr", "flow", "epochs")  # values that other keys refer to


# ------------------------------------------------------------------- validation


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_count(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


_COUNT = (lambda v: _is_count(v, 1), "a whole number of at least 1")
_COUNT_OR_NULL = (lambda v: v is None or _is_count(v, 1), "a whole number of at least 1, or null")
_EPOCHS = (lambda v: v is None or _is_count(v, 0), "a whole number of at least 0, or null")
_RATE = (lambda v: _is_number(v) and v > 0, "a number above 0")
_RATE_OR_NULL = (lambda v: v is None or (_is_number(v) and v > 0), "a number above 0, or null")
_FLAG = (lambda v: isinstance(v, bool), "true or false")
_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "beta": (lambda v: _is_number(v) and v >= 0, "a finite number of at least 0"),
    "seed": (lambda v: _is_count(v, 0), "a whole number of at least 0"),
    "latent_dim": _COUNT,
    "batch_size": _COUNT,
    "prior_batch_size": _COUNT_OR_NULL,
    "epochs": _EPOCHS,
    "prior_epochs": _EPOCHS,
    "lr": _RATE,
    "likelihood.lr": _RATE_OR_NULL,
    "free_bits": (lambda v: _is_number(v) and v >= 0, "a finite number of at least 0"),
    "gan_loss": (lambda v: v in ("minimax", "nonsaturating"), "minimax or nonsaturating"),
    "weights": (
        lambda v: isinstance(v, dict) and all(path is None or isinstance(path, str) for path in v.values()),
        "files by network, such as weights.vgg19=FILE",
    ),
    "data.limit": _COUNT_OR_NULL,
    "data.crop": _COUNT_OR_NULL,
    "data.image_size": _COUNT_OR_NULL,
    "data.validation": (lambda v: _is_number(v) and 0 <= v < 1, "a share of at least 0 and below 1"),
    "trainer.report_every": _COUNT,
    "trainer.evaluations": _COUNT,
    "trainer.evaluation_images": _COUNT,
    "trainer.save_minutes": (lambda v: _is_number(v) and v >= 0, "a number of at least 0"),
    "allow_targets": (
        lambda v: isinstance(v, list) and all(isinstance(p, str) and p for p in v),
        "a list of prefixes of dotted names, such as [my_package.]",
    ),
    "metrics": (lambda v: isinstance(v, list) and all(isinstance(m, str) for m in v), "a list of names"),
    "progress": _FLAG,
    "overwrite": _FLAG,
    "logger": (lambda v: v in ("none", "tensorboard"), "none or tensorboard"),
    "name": (lambda v: v is None or isinstance(v, (str, int, float)), "text"),
    "n": _COUNT,
    "temperature": _RATE,
}


def check(tree: dict[str, Any]) -> None:
    """Refuse values that no run can have, by the name of their key."""
    for key, (holds, expected) in _RULES.items():
        node: Any = tree
        *parents, leaf = key.split(".")
        for parent in parents:
            node = node.get(parent) or {}
        if leaf in node and not holds(node[leaf]):
            raise UserError(f"{key} must be {expected}, got {node[leaf]!r}")


def options(cfg: DictConfig) -> dict[str, Any]:
    """A composed configuration as plain Python, checked."""
    tree: Any = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    check(tree)
    return tree


# --------------------------------------------------------------------- planning


@dataclass(frozen=True)
class Plan:
    """A validated run: what it computes, under which circumstances, and where it is written."""

    identity: dict[str, Any]
    circumstances: dict[str, Any]
    directory: Path


def plan(cfg: DictConfig) -> Plan:
    """Split a composed ``train`` configuration into identity and circumstances, with defaults filled in."""
    tree = options(cfg)
    groups = {k: v for k, v in HydraConfig.get().runtime.choices.items() if "/" not in k and v is not None}
    known = set(OmegaConf.load(Path(conf_dir()) / "train.yaml")) | set(groups)
    stray = sorted(str(key) for key in tree.keys() - known)
    if stray:
        raise UserError(f"unknown key {stray[0]}; see --help")
    empty = [key for key in GROUPS_NEEDED if not isinstance(tree.get(key), dict)]
    if empty:
        raise UserError(f"{empty[0]} must be one of its files; see --help")
    _fill_epochs(tree)
    _hand_to_objective(tree)
    circumstances = {key: _pop(tree, key) for key in CIRCUMSTANCES}
    for key in DATA_DEFAULTS:
        tree["data"].pop(key, None)
    if not isinstance(tree["trainer"].get("schedule"), dict):
        raise UserError("trainer.schedule must be a schedule with a _target_")
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


def _fill_epochs(tree: dict[str, Any]) -> None:
    family = tree.pop("family")
    try:
        usual = tree["data"]["epochs"][family]
    except (KeyError, TypeError) as error:
        raise UserError(
            f"data.epochs of this data set has no row {family!r}: give epochs and prior_epochs"
        ) from error
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


def default_data_root(identity: dict[str, Any]) -> str | None:
    """Where ``train`` would look for a run's data set if it is not told."""
    preset = Path(conf_dir()) / "data" / f"{identity['presets'].get('data')}.yaml"
    return OmegaConf.select(OmegaConf.load(preset), "data.root") if preset.is_file() else None


def phases(identity: dict[str, Any]) -> list[Phase]:
    """The phases of a run."""
    return [Phase("joint", identity["epochs"]), Phase("prior_only", identity["prior_epochs"])]


# --------------------------------------------------------------------- building


def build_data(
    identity: dict[str, Any], root: str | None, path: str | None = None, allow_targets: Sequence[str] = ()
) -> ImageData:
    """The data set of a run, looked for at ``root`` (or, for a file of the user's, at ``path``)."""
    node = {k: v for k, v in identity["data"].items() if k not in ("limit", "validation")}
    if root is not None:
        node["root"] = root
    if path is not None:
        node["path"] = path
    return _instantiate(node, "data", allow_targets)


def build_autoencoder(
    identity: dict[str, Any], image_shape: Sequence[int], allow_targets: Sequence[str] = ()
) -> Autoencoder:
    """The untrained autoencoder of a run, initialised under its seed."""
    likelihood = {k: v for k, v in identity["likelihood"].items() if k != "lr"}
    with seeded(identity["seed"], "init"):
        network = _instantiate(identity["network"], "network", allow_targets)
        try:
            encoder, decoder = network(image_shape=tuple(image_shape), latent_dim=identity["latent_dim"])
        except (TypeError, ValueError, RuntimeError, IndexError) as error:
            raise UserError(f"network: {' '.join(str(error).split())}") from error
        prior = _instantiate(identity["prior"], "prior", allow_targets)
        expected = (identity["latent_dim"],)
        if not isinstance(prior, Prior) or tuple(prior.event_shape) != expected:
            found = tuple(prior.event_shape) if isinstance(prior, Prior) else type(prior).__name__
            raise UserError(f"prior: expected a Prior over codes of shape {expected} (latent_dim), got {found}")
        return Autoencoder(encoder, decoder, prior, _instantiate(likelihood, "likelihood", allow_targets))


def build_game(identity: dict[str, Any], autoencoder: Autoencoder, allow_targets: Sequence[str] = ()) -> Game:
    """The game of a run: its objective over its autoencoder."""
    try:
        with seeded(identity["seed"], "init", "game"):
            return _instantiate(identity["objective"], "objective", allow_targets)(autoencoder)
    except (TypeError, ValueError) as error:
        raise UserError(f"objective: {error}") from error


def schedule(identity: dict[str, Any], allow_targets: Sequence[str] = ()) -> Callable[..., float]:
    """The learning-rate schedule of a run."""
    return _instantiate(identity["trainer"]["schedule"], "trainer.schedule", allow_targets)


def load(run: str | Path, *, allow_targets: Sequence[str] = ()) -> Autoencoder:
    """The trained autoencoder of a run directory, wherever it lies, on the CPU and in eval mode.

    Args:
        run: A run directory.
        allow_targets: Prefixes of dotted names (such as ``"my_package."``) that its configuration may name
            besides this library, Pyro's distributions and torch's modules. Nothing else is ever called.

    Raises:
        UserError: If there is no such run, its checkpoint is damaged, or its configuration names a target that
            is not allowed.
    """
    directory = Path(run).expanduser()
    identity = rundir.read_identity(directory)
    path = checkpoint.latest(directory / "checkpoints")
    if path is None:
        raise UserError(f"run {directory} has no checkpoint yet: train it first")
    autoencoder = build_autoencoder(identity, identity["image_shape"], allow_targets)
    prefix = "autoencoder."
    game = checkpoint.load(path).get("game", {})
    state = {k.removeprefix(prefix): v for k, v in game.items() if k.startswith(prefix)}
    checkpoint.load_into(autoencoder, state, path)
    return autoencoder.eval()


def _instantiate(node: Any, name: str, allow_targets: Sequence[str]) -> Any:
    if "_target_" not in node:
        raise UserError(f"{name}: its configuration has no _target_")
    prefixes = (allow_targets,) if isinstance(allow_targets, str) else tuple(allow_targets)
    _refuse_foreign_targets(node, name, prefixes)
    try:
        return hydra.utils.instantiate(node, _convert_="all")
    except InstantiationException as error:
        cause = error.__cause__ or error
        if isinstance(cause, UserError):
            raise cause from error
        if isinstance(cause, (TypeError, ValueError, InstantiationException)):
            raise UserError(f"{name}: {' '.join(str(cause).split())}") from error
        raise


def _refuse_foreign_targets(node: Any, name: str, allow_targets: tuple[str, ...]) -> None:
    """A configuration can name any callable, so one from a stranger must not get to call what it likes."""
    if isinstance(node, str) and "${" in node:  # already resolved: what is left could make a node of its own
        raise UserError(f"{name}: {node!r} is an interpolation, which a run's configuration must not hold")
    if isinstance(node, dict):
        target = node.get("_target_")
        if target is not None:
            _check_target(str(target), name, allow_targets)
        for key, value in node.items():
            _refuse_foreign_targets(str(key), f"{name}.{key}", allow_targets)
            _refuse_foreign_targets(value, f"{name}.{key}", allow_targets)
    elif isinstance(node, (list, tuple)):
        for index, value in enumerate(node):
            _refuse_foreign_targets(value, f"{name}.{index}", allow_targets)


def _check_target(target: str, name: str, allow_targets: tuple[str, ...]) -> None:
    data_only = () if name == "data" else ("pyro_lrp.data.",)  # its functions read files and may download
    allowed = tuple(p for p in ALLOWED_TARGETS if p not in data_only) + allow_targets
    refusal = UserError(
        f"{name}: _target_ {target} is not allowed; if you trust it, add its module to allow_targets"
    )
    private = any(part.startswith("_") for part in target.split("."))
    if private or not target.startswith(allowed):
        raise refusal
    try:
        found = hydra.utils.get_object(target)
    except Exception as error:
        raise UserError(
            f"{name}: _target_ {target} cannot be imported ({' '.join(str(error).split())})"
        ) from error
    # a module's attribute may be another module's function: pyro_lrp.data.urllib... must not slip through
    home = f"{getattr(found, '__module__', None) or type(found).__module__}."
    if not callable(found) or not home.startswith(allowed):
        raise refusal
