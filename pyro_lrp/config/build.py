"""Building: the objects that the nodes of an identity describe, through the allow-list and within bounds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.errors import InstantiationException
from omegaconf import OmegaConf

from pyro_lrp.config import allowed
from pyro_lrp.config.bounds import Budget, check_sizes
from pyro_lrp.config.command import conf_dir
from pyro_lrp.core.errors import UserError
from pyro_lrp.core.randomness import seeded
from pyro_lrp.data import ImageData, condition_of, with_context
from pyro_lrp.models import Autoencoder, HierarchicalAutoencoder
from pyro_lrp.objectives import Game
from pyro_lrp.priors import Hierarchy, Prior

__all__ = [
    "PLACES", "build_autoencoder", "build_data", "build_game", "default_data_root", "needs_context", "places",
    "schedule", "settle",
]  # fmt: skip

FROM_DATA = ("context_dim", "image_shape")  # in a prior's node, null stands for what only the data can say
PLACES = ("root", "path", "images", "attributes", "index")  # keys of a data set that name files or folders


def default_data_root(identity: dict[str, Any]) -> str | None:
    """Where ``train`` would look for a run's data set if it is not told."""
    presets = {path.stem: path for path in (Path(conf_dir()) / "data").glob("*.yaml")}
    preset = presets.get(str(identity["presets"].get("data")))  # looked up by its name, never used as a path
    return None if preset is None else OmegaConf.select(OmegaConf.load(preset), "data.root")


def needs_context(identity: dict[str, Any]) -> bool:
    """Whether the prior's node leaves the length of a context to the data."""
    return any(key == "context_dim" and value is None for key, value in _leaves(identity["prior"]))


def settle(identity: dict[str, Any], data: ImageData) -> tuple[dict[str, Any], ImageData]:
    """The identity with what only the data can say, and the data with the contexts that it asks for.

    Raises:
        UserError: If the prior is conditional and there is no context.
    """
    data, condition = with_context(data, identity["context"])
    if identity["context"] is None and needs_context(identity):
        name = identity["presets"].get("prior")
        raise UserError(
            f"prior={name} is conditional: say on what, such as context=label or context=attributes"
        )
    known = {"image_shape": list(data.image_shape), "context_dim": len(condition) or None}
    settled = {
        "image_shape": known["image_shape"],
        "context": condition.record(),
        "prior": _filled(identity["prior"], known),
    }
    return {**identity, **settled}, data


def _leaves(node: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict):
        for name, value in node.items():
            yield from _leaves(value, name)
    elif isinstance(node, list):
        for value in node:
            yield from _leaves(value)
    else:
        yield key, node


def _filled(node: Any, known: dict[str, Any]) -> Any:
    """The node with the values that only the data can say in place of null."""
    if isinstance(node, list):
        return [_filled(value, known) for value in node]
    if not isinstance(node, dict):
        return node
    filled = {key: _filled(value, known) for key, value in node.items()}
    missing = [key for key in FROM_DATA if key in filled and filled[key] is None]
    return {**filled, **{key: known[key] for key in missing}}


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
        make = _autoencoder_class(identity, prior, allow_targets)
        try:
            built = make(encoder, decoder, prior, score)
        except (TypeError, ValueError) as error:
            raise UserError(f"prior: {error}") from error
        _refuse_wrong_context(identity, prior)
        return built


def _autoencoder_class(
    identity: dict[str, Any], prior: Prior, allow_targets: Sequence[str]
) -> Callable[..., Autoencoder]:
    if "autoencoder" in identity:
        return _instantiate(identity["autoencoder"], "autoencoder", allow_targets)
    # runs from before version 0.2 do not say
    return HierarchicalAutoencoder if isinstance(prior, Hierarchy) else Autoencoder


def _refuse_wrong_context(identity: dict[str, Any], prior: Prior) -> None:
    length = len(condition_of(identity.get("context")))
    if prior.context_dim == length:
        return
    if not length:
        raise UserError(
            f"prior: it is conditional on contexts of length {prior.context_dim}, and this run has none: "
            "say on what, with context="
        )
    if not prior.context_dim:
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
