"""Assembly: from a composed configuration to objects. The only module, with the commands, that knows Hydra.

A run's configuration has two parts. The *identity* decides what is computed and is kept in ``config.yaml``; the
*circumstances* (device, where data lie, logging) may change whenever a run is resumed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf

from pyro_lrp.config import allowed, rundir
from pyro_lrp.config.bounds import Budget, check_sizes
from pyro_lrp.config.command import conf_dir
from pyro_lrp.config.rules import check
from pyro_lrp.core import checkpoint
from pyro_lrp.core.errors import UserError
from pyro_lrp.core.randomness import seeded
from pyro_lrp.data import Contexts, ImageData, with_context
from pyro_lrp.models import Autoencoder, autoencoder
from pyro_lrp.objectives import Game
from pyro_lrp.priors import Hierarchy, Prior
from pyro_lrp.trainer import Phase, PriorPhase

__all__ = [
    "Plan", "build_autoencoder", "build_data", "build_game", "conf_dir", "contexts", "default_data_root",
    "load", "needs_context", "options", "optimizers", "phases", "places", "plan", "prior_phase", "schedule",
    "settle", "with_contexts",
]  # fmt: skip

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
FROM_DATA = ("context_dim", "image_shape")  # in a prior's node, null stands for what only the data can say
PLACES = ("root", "path", "images", "attributes", "index")  # keys of a data set that name files or folders
DATA_DEFAULTS = ("latent_dim", "lr", "flow", "epochs")  # values that other keys refer to


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
    chosen = {k: v for k, v in HydraConfig.get().runtime.choices.items() if "/" not in k and v is not None}
    groups = {group: str(name).replace("/", ".") for group, name in chosen.items()}  # names, not paths
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
    if tree["epochs"] is not None and tree["prior_epochs"] is not None:
        return
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
    presets = {path.stem: path for path in (Path(conf_dir()) / "data").glob("*.yaml")}
    preset = presets.get(str(identity["presets"].get("data")))  # looked up by its name, never used as a path
    return None if preset is None else OmegaConf.select(OmegaConf.load(preset), "data.root")


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


# --------------------------------------------------------------------- what the data say


def needs_context(identity: dict[str, Any]) -> bool:
    """Whether the prior's node leaves the length of a context to the data."""
    return any(key == "context_dim" and value is None for key, value in _leaves(identity["prior"]))


def settle(identity: dict[str, Any], data: ImageData) -> tuple[dict[str, Any], ImageData]:
    """The identity with what only the data can say, and the data with the contexts that it asks for.

    Raises:
        UserError: If the prior is conditional and there is no context.
    """
    said: dict[str, Any] = {"image_shape": list(data.image_shape), "context_dim": None}
    context = None
    if identity["context"] is not None:
        data, meaning = with_context(data, identity["context"])
        said["context_dim"] = len(meaning.names)
        context = {"kind": meaning.kind, "names": list(meaning.names)}
    elif needs_context(identity):
        name = identity["presets"].get("prior")
        raise UserError(
            f"prior={name} is conditional: say on what, such as context=label or context=attributes"
        )
    prior = _filled(identity["prior"], said)
    return {**identity, "image_shape": said["image_shape"], "context": context, "prior": prior}, data


def contexts(identity: dict[str, Any]) -> Contexts | None:
    """What the contexts of a run mean; None if its prior is not conditional."""
    said = identity.get("context")
    return None if said is None else Contexts(said["kind"], tuple(said["names"]))


def with_contexts(identity: dict[str, Any], data: ImageData) -> ImageData:
    """The data set of a trained run, with its contexts."""
    meaning = contexts(identity)
    if meaning is None:
        return data
    return with_context(data, meaning.names if meaning.kind == "attributes" else meaning.kind)[0]


def _leaves(node: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict):
        for name, value in node.items():
            yield from _leaves(value, name)
    elif isinstance(node, list):
        for value in node:
            yield from _leaves(value)
    else:
        yield key, node


def _filled(node: Any, said: dict[str, Any]) -> Any:
    if isinstance(node, dict):
        return {k: said[k] if k in FROM_DATA and v is None else _filled(v, said) for k, v in node.items()}
    return [_filled(value, said) for value in node] if isinstance(node, list) else node


# --------------------------------------------------------------------- building


def build_data(
    identity: dict[str, Any], places: Mapping[str, str | None], allow_targets: Sequence[str] = ()
) -> ImageData:
    """The data set of a run, read where its user says.

    Args:
        identity: Of the run. The places in it are passed over: a stranger's run must not choose what is opened.
        places: Files and folders by their key, such as ``{"root": DIR}``; see :data:`PLACES`.
        allow_targets: As in :func:`load`.

    Raises:
        UserError: If the run was trained on a file of its user's and ``places`` has none.
    """
    recorded = identity["data"]
    node = {k: v for k, v in recorded.items() if k not in ("limit", "validation", *PLACES)}
    for key in PLACES:
        given = places.get(key)
        if given is not None:
            node[key] = given
        elif recorded.get(key) is not None and key != "root":
            raise UserError(
                f"data.{key}: this run was trained on {recorded[key]}; say data.{key}=... (a place that a run "
                "names is not opened unless it is typed)"
            )
        elif key in recorded:
            node[key] = None
    return _instantiate(node, "data", allow_targets)


def places(identity: dict[str, Any], typed: Mapping[str, str | None]) -> dict[str, str | None]:
    """Where the data set of a trained run lies: as typed, and else its root where ``train`` would look."""
    return {**typed, "root": typed.get("root") or default_data_root(identity)}


def build_autoencoder(
    identity: dict[str, Any], image_shape: Sequence[int], allow_targets: Sequence[str] = ()
) -> Autoencoder:
    """The untrained autoencoder of a run, initialised under its seed."""
    likelihood = {k: v for k, v in identity["likelihood"].items() if k != "lr"}
    sizes = {"image_shape": list(image_shape), "latent_dim": identity["latent_dim"]}
    for key, value in sizes.items():
        check_sizes(value, key)
    with seeded(identity["seed"], "init"), Budget("the model of this configuration"):
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
        score = _instantiate(likelihood, "likelihood", allow_targets)
        try:
            built = autoencoder(encoder, decoder, prior, score)
        except ValueError as error:
            raise UserError(f"prior: {error}") from error
        _refuse_wrong_context(identity, prior)
        return built


def _refuse_wrong_context(identity: dict[str, Any], prior: Prior) -> None:
    meaning = contexts(identity)
    length = None if meaning is None else len(meaning.names)
    if prior.context_dim == length:
        return
    if length is None:
        raise UserError(
            f"prior: it is conditional on contexts of length {prior.context_dim}, and this run has none: "
            f"say on what, such as context={'pose' if isinstance(prior, Hierarchy) else 'label'}"
        )
    if prior.context_dim is None:
        name = identity["presets"].get("prior")
        raise UserError(f"context has no effect: prior={name} takes none; try prior=conditional_flow")
    raise UserError(
        f"prior: expected a context_dim of {length}, the length of the contexts, got {prior.context_dim}"
    )


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
        allow_targets: Modules of yours (such as ``"my_package."``) that its configuration may name besides
            those of :mod:`pyro_lrp.config.allowed`. Nothing else is ever called.

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
    """Build a node of a configuration, once it is known that it names and asks for nothing it must not."""
    if "_target_" not in node:
        raise UserError(f"{name}: its configuration has no _target_")
    prefixes = (allow_targets,) if isinstance(allow_targets, str) else tuple(allow_targets)
    allowed.check_node(node, name, prefixes)
    check_sizes(node, name)
    try:
        return hydra.utils.instantiate(node, _convert_="all")
    except InstantiationException as error:
        cause = error.__cause__ or error
        if isinstance(cause, UserError):
            raise cause from error
        if isinstance(cause, (TypeError, ValueError, InstantiationException)):
            raise UserError(f"{name}: {' '.join(str(cause).split())}") from error
        raise
