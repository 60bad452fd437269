"""Building the objects that the nodes of an identity describe, through the allow-list and within bounds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.errors import InstantiationException
from omegaconf import OmegaConf

from pyro_lrp.config import allowed
from pyro_lrp.config.bounds import Budget, check_sizes
from pyro_lrp.config.folders import conf_dir
from pyro_lrp.config.identity import Identity
from pyro_lrp.config.plan import Plan
from pyro_lrp.config.sizes import NETWORK_SIZES, batch_size_for, network_sizes, size_notes
from pyro_lrp.core.errors import MISTAKES, UserError
from pyro_lrp.core.randomness import seeded
from pyro_lrp.core.trees import KeyPath, leaves, map_leaves
from pyro_lrp.data import ImageData, condition_kinds, condition_of, with_context
from pyro_lrp.models import Autoencoder, HierarchicalAutoencoder
from pyro_lrp.networks import with_noise
from pyro_lrp.objectives import Game
from pyro_lrp.priors import Hierarchy, Prior

__all__ = [
    "PLACES",
    "build_autoencoder",
    "build_data",
    "build_game",
    "build_prior",
    "default_data_root",
    "needs_context",
    "places",
    "schedule",
    "schedules",
    "settle",
]

PLACES = ("root", "path", "images", "attributes", "index")
"""The keys of a data set that name files or folders."""

FROM_DATA = {
    "prior": ("context_dim", "image_shape"),
    "network": tuple(NETWORK_SIZES),
}
"""Keys of a node whose value is taken from the data set if it is null."""

NOT_ARGUMENTS = ("limit", "validation", "fingerprint", *PLACES)
"""Keys of ``data`` that are not arguments of the data set, or that are passed separately."""


NOISE = ("noise", "noise_floor", "latent_norm")
"""Keys of ``network`` that any encoder has, apart from its own arguments."""


def default_data_root(identity: dict[str, Any]) -> str | None:
    """The folder in which ``train`` looks for a run's data set by default."""
    folder = Path(conf_dir()) / "data"
    presets = {path.stem: path for path in folder.glob("*.yaml")}
    # the name is looked up and never used as a path
    preset = presets.get(str(Identity(identity).preset("data")))
    if preset is None:
        return None
    return OmegaConf.select(OmegaConf.load(preset), "data.root")


def needs_context(identity: dict[str, Any]) -> bool:
    """Whether the prior is conditional on contexts whose length is taken from the data."""
    return Identity(identity).needs_context


def settle(identity: dict[str, Any], data: ImageData) -> tuple[dict[str, Any], ImageData]:
    """Complete an identity from its data set, and give the data set the contexts that the identity asks for.

    Sizes that the identity leaves null become those that suit the number of training images, and notes of the
    data set say so.

    Raises:
        UserError: If the prior is conditional and no context is asked for.
    """
    planned = Identity(identity)
    data, condition = with_context(data, planned.context)
    if planned.lacks_context:
        raise UserError(
            f"prior={planned.preset('prior')} is conditional: say on what, "
            "such as context=label or context=attributes"
        )
    images = data.trained_on(planned.validation)
    image_shape = list(data.image_shape)
    from_data = {
        "image_shape": image_shape,
        "context_dim": len(condition) or None,
        **network_sizes(images),
    }
    batch_size = None
    if planned.batch_size is None:
        batch_size = batch_size_for(images)
    network, sizes = _filled(planned.network, "network", from_data)
    prior, _ = _filled(planned.prior, "prior", from_data)
    settled = {
        "image_shape": image_shape,
        "context": condition.record(),
        "network": network,
        "prior": prior,
        "batch_size": batch_size or planned.batch_size,
    }
    return {**identity, **settled}, data.noted(*size_notes(images, batch_size, sizes))


def _filled(node: Any, group: str, from_data: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The node with values of ``from_data`` in place of null, and the values that were filled in, by key."""
    filled = {}

    def fill(path: KeyPath, leaf: Any) -> Any:
        key = path[-1]
        if leaf is not None or key not in FROM_DATA[group] or key not in from_data:
            return leaf
        filled[str(key)] = from_data[str(key)]
        return filled[str(key)]

    return map_leaves(fill, node), filled


def build_data(
    identity: dict[str, Any], places: Mapping[str, str | None], allow_targets: Sequence[str] = ()
) -> ImageData:
    """The data set of a run, read from places that the user names.

    Args:
        identity: The identity of the run. The places in it are ignored, because a run from an untrusted source
            must not choose which files are opened.
        places: Files and folders by their key, such as ``{"root": DIR}``; see :data:`PLACES`.
        allow_targets: As in :func:`load`.

    Raises:
        UserError: If the run was trained on the user's own file and ``places`` does not name it.
    """
    recorded = Identity(identity).data
    node = {key: value for key, value in recorded.items() if key not in NOT_ARGUMENTS}
    for key in PLACES:
        place = places.get(key)
        if place is not None:
            node[key] = place
        elif recorded.get(key) is not None and key != "root":
            raise UserError(
                f"data.{key}: this run was trained on {recorded[key]}; say data.{key}=... "
                "(a place that a run names is not opened unless it is typed)"
            )
        elif key in recorded:
            node[key] = None
    data = _instantiate(node, "data", allow_targets)
    if not isinstance(data, ImageData):
        raise UserError(f"data: its _target_ must return an ImageData, got {type(data).__name__}")
    return data


def planned_places(plan: Plan) -> dict[str, str | None]:
    """The places of the data set of a run that is about to be trained, as they were typed."""
    node = Identity(plan.identity).data
    places = {key: node.get(key) for key in PLACES}
    return {**places, "root": plan.circumstances["data.root"]}


def planned_data(plan: Plan) -> ImageData:
    """The data set of a run that is about to be trained."""
    return build_data(plan.identity, planned_places(plan), plan.circumstances["allow_targets"])


def places(identity: dict[str, Any], typed: Mapping[str, str | None]) -> dict[str, str | None]:
    """The places of a trained run's data set: those the user typed, and the default root if none is typed."""
    root = typed.get("root") or default_data_root(identity)
    return {**typed, "root": root}


def build_autoencoder(
    identity: dict[str, Any], image_shape: Sequence[int], allow_targets: Sequence[str] = ()
) -> Autoencoder:
    """The untrained autoencoder of a run, initialised with the run's seed."""
    run = Identity(identity)
    check_sizes(list(image_shape), "image_shape")
    check_sizes(run.latent_dim, "latent_dim")
    with seeded(run.seed, "init"), Budget("the model of this configuration"):
        encoder, decoder = _build_networks(run, image_shape, allow_targets)
        prior = _build_prior(run, allow_targets)
        likelihood = _build_likelihood(run, allow_targets)
        autoencoder = _autoencoder_class(run, prior, allow_targets)
        try:
            built = autoencoder(encoder, decoder, prior, likelihood)
        except MISTAKES as error:
            raise UserError(f"prior: {_in_one_line(error)}") from error
        _refuse_wrong_context(run, prior)
        return built


def build_prior(identity: dict[str, Any], context_dim: int = 0, allow_targets: Sequence[str] = ()) -> Prior:
    """The untrained prior of an identity alone, for codes with contexts of some length.

    Raises:
        UserError: If it is conditional and there are no contexts, or the other way round.
    """
    run = Identity(identity)
    check_sizes(run.latent_dim, "latent_dim")
    node, _ = _filled(run.prior, "prior", {"context_dim": context_dim or None})
    if any(path[-1] == "image_shape" and value is None for path, value in leaves(node)):
        raise UserError(
            f"prior={run.preset('prior')} computes with an encoder: it cannot be fitted to codes alone"
        )
    if context_dim == 0 and run.needs_context:
        raise UserError(f"prior={run.preset('prior')} is conditional, and there is no context")
    with seeded(run.seed, "init"), Budget("the prior of this configuration"):
        prior = _build_prior(Identity({**identity, "prior": node}), allow_targets)
    if context_dim and not prior.context_dim:
        raise UserError(
            f"context has no effect: prior={run.preset('prior')} takes none; try prior=conditional_flow"
        )
    return prior


def _build_networks(run: Identity, image_shape: Sequence[int], allow_targets: Sequence[str]) -> Any:
    """The encoder and the decoder."""
    node = dict(run.network)
    noise = {key: node.pop(key) for key in NOISE if key in node}
    network = _instantiate(node, "network", allow_targets)
    try:
        encoder, decoder = network(image_shape=tuple(image_shape), latent_dim=run.latent_dim)
        encoder = with_noise(encoder, run.latent_dim, **noise)
    except MISTAKES as error:
        raise UserError(f"network: {_in_one_line(error)}") from error
    return encoder, decoder


def _build_prior(run: Identity, allow_targets: Sequence[str]) -> Prior:
    prior = _instantiate(run.prior, "prior", allow_targets)
    expected = (run.latent_dim,)
    actual: Any = type(prior).__name__
    if isinstance(prior, Prior):
        actual = tuple(prior.event_shape)
    if actual != expected:
        raise UserError(f"prior: expected a Prior over codes of shape {expected} (latent_dim), got {actual}")
    return prior


def _build_likelihood(run: Identity, allow_targets: Sequence[str]) -> Any:
    node = dict(run.likelihood)
    node.pop("lr", None)
    return _instantiate(node, "likelihood", allow_targets)


def _autoencoder_class(run: Identity, prior: Prior, allow_targets: Sequence[str]) -> Callable[..., Autoencoder]:
    if "autoencoder" in run.entries:
        return _instantiate(run.autoencoder, "autoencoder", allow_targets)
    # runs from before version 0.2 do not record it
    if isinstance(prior, Hierarchy):
        return HierarchicalAutoencoder
    return Autoencoder


def _refuse_wrong_context(run: Identity, prior: Prior) -> None:
    length = len(condition_of(run.context))
    if prior.context_dim == length:
        return
    if not length:
        kinds = " or ".join(f"context={kind}" for kind in condition_kinds())
        raise UserError(
            f"prior: it is conditional on contexts of length {prior.context_dim}, "
            f"and this run has none: say on what, with {kinds}"
        )
    if not prior.context_dim:
        name = run.preset("prior")
        raise UserError(f"context has no effect: prior={name} takes none; try prior=conditional_flow")
    raise UserError(
        f"prior: expected a context_dim of {length}, the length of the contexts, got {prior.context_dim}"
    )


def build_game(identity: dict[str, Any], autoencoder: Autoencoder, allow_targets: Sequence[str] = ()) -> Game:
    """The game of a run: its objective, applied to its autoencoder."""
    run = Identity(identity)
    try:
        with seeded(run.seed, "init", "game"):
            objective = _instantiate(run.objective, "objective", allow_targets)
            return objective(autoencoder)
    except MISTAKES as error:
        raise UserError(f"objective: {_in_one_line(error)}") from error


def schedule(identity: dict[str, Any], allow_targets: Sequence[str] = ()) -> Callable[..., float]:
    """The learning-rate schedule of a run."""
    node = Identity(identity).trainer["schedule"]
    return _instantiate(node, "trainer.schedule", allow_targets)


def schedules(identity: dict[str, Any], allow_targets: Sequence[str] = ()) -> dict[str, Callable[..., float]]:
    """The learning-rate schedules of single players, by name."""
    own = Identity(identity).trainer.get("schedules", {})
    return {
        player: _instantiate(node, f"trainer.schedules.{player}", allow_targets) for player, node in own.items()
    }


def _instantiate(node: Any, name: str, allow_targets: Sequence[str]) -> Any:
    """Build a node of a configuration after checking its targets and sizes."""
    if "_target_" not in node:
        raise UserError(f"{name}: its configuration has no _target_")
    if isinstance(allow_targets, str):
        allow_targets = (allow_targets,)
    allowed.check_node(node, name, tuple(allow_targets))
    check_sizes(node, name)
    try:
        return hydra.utils.instantiate(node, _convert_="all")
    except InstantiationException as error:
        cause = error.__cause__ or error
        if isinstance(cause, UserError):
            raise cause from error
        raise UserError(f"{name}: {_in_one_line(cause)}") from error
    except UserError:
        raise
    except MISTAKES as error:
        raise UserError(f"{name}: {_in_one_line(error)}") from error


def _in_one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())[:400]
    if isinstance(error, (TypeError, ValueError, InstantiationException)):
        return text
    return f"{type(error).__name__} {text}"  # a KeyError says no more than the key
