"""Typed access to an identity, the configuration that decides what a run computes."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

from pyro_lrp.core.trees import leaves
from pyro_lrp.schedules import Phase
from pyro_lrp.trainer import PriorPhase

__all__ = ["Identity"]

Value = TypeVar("Value")
Node = dict[str, Any]


class Entry(Generic[Value]):
    """A key of an identity, read as an attribute of the same name.

    Args:
        default: The value where the key is missing; without it, a missing key is an error.
    """

    def __init__(self, *default: Value) -> None:
        self.default = default

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, identity: Identity, owner: type) -> Value:
        if self.default:
            return identity.entries.get(self.name, *self.default)
        return identity.entries[self.name]


class Identity:
    """A view of an identity, which itself stays the plain dict that ``config.yaml`` holds.

    Args:
        entries: The identity: values and nodes by key.
    """

    seed = Entry[int]()
    image_shape = Entry[list[int]]()
    latent_dim = Entry[int]()
    presets = Entry[dict[str, str]]()
    data = Entry[Node]()
    network = Entry[Node]()
    prior = Entry[Node]()
    likelihood = Entry[Node]()
    autoencoder = Entry[Node]()
    objective = Entry[Node]()
    beta = Entry[float]()
    trainer = Entry[Node]()
    order = Entry[str]()
    epochs = Entry[int]()
    prior_epochs = Entry[int]()
    decoder_epochs = Entry[int](0)  # that runs of earlier versions do not have
    decoder_code_noise = Entry[float](0.0)
    lr = Entry[float]()
    batch_size = Entry[Any]()  # null until it is settled
    prior_batch_size = Entry[int | None]()
    precision = Entry[Any]()
    prior_code_noise = Entry[float]()
    prior_ema = Entry[float]()
    prior_patience = Entry[int | None]()
    prior_weight_decay = Entry[float]()

    def __init__(self, entries: dict[str, Any]) -> None:
        self.entries = entries

    @property
    def context(self) -> Any:
        """The context that was asked for, or the record of the one in use; None without any."""
        return self.entries.get("context")

    @property
    def needs_context(self) -> bool:
        """Whether the prior is conditional on contexts whose length is taken from the data."""
        for path, value in leaves(self.prior):
            if path[-1] == "context_dim" and value is None:
                return True
        return False

    @property
    def lacks_context(self) -> bool:
        """Whether the prior needs a context and none was asked for."""
        return self.context is None and self.needs_context

    @property
    def limit(self) -> int | None:
        """The number of training images to use; None for all."""
        return self.data.get("limit")

    @property
    def fingerprint(self) -> str | None:
        """The fingerprint of the data set; None for a run from before there were any."""
        return self.data.get("fingerprint")

    @property
    def validation(self) -> float | None:
        """The share of the training images that is held out; None: a tenth, or the data set's own ones."""
        return self.data.get("validation", 0.0)

    @property
    def likelihood_lr(self) -> float:
        """The learning rate of the likelihood's parameters."""
        return self.likelihood.get("lr") or self.lr

    def preset(self, group: str) -> str | None:
        """The name of the file that was chosen from a configuration group."""
        return self.presets.get(group)

    def phases(self) -> list[Phase]:
        """The training phases.

        With two stages, the autoencoder trains as long as in joint training, and the prior on as many codes.
        The decoder alone comes before the prior alone, whose scores are then those of the final decoder.
        """
        first = Phase("joint", self.epochs)
        last = Phase("prior_only", self.prior_epochs)
        if self.order == "two_stage":
            first = Phase("autoencoder_only", self.epochs)
            last = Phase("prior_only", self.epochs + self.prior_epochs)
        if not self.decoder_epochs:
            return [first, last]
        return [first, Phase("decoder_only", self.decoder_epochs), last]

    def prior_phase(self) -> PriorPhase:
        """The options of the prior-only phase."""
        return PriorPhase(
            code_noise=self.prior_code_noise,
            ema=self.prior_ema,
            patience=self.prior_patience,
        )

    def optimizers(self) -> dict[str, dict[str, Any]]:
        """Options of the optimizers of single players."""
        options = self.trainer["optimizers"]
        if not self.prior_weight_decay:
            return options
        prior = {**options.get("prior", {}), "weight_decay": self.prior_weight_decay}
        return {**options, "prior": prior}
