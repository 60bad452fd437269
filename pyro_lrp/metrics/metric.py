"""What a metric is: a function of a subject, and what it needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from pyro_lrp.features import obtainable
from pyro_lrp.metrics.subject import Results, Subject

__all__ = [
    "Metric", "attributes", "density", "image_density", "labels", "labels_or_attributes", "result",
    "stochastic_encoder",
]  # fmt: skip

Requirement = Callable[[Subject], "str | None"]


@dataclass(frozen=True)
class Metric:
    """A metric by name.

    Attributes:
        compute: Its results, by name; the names carry the protocol.
        needs: Each says in a sentence's end what a subject lacks, or None.
        network: The pretrained network whose weights it needs.
        hours: Where it takes them on a CPU, ``metrics=auto`` leaves it to those who ask for it by name.
    """

    compute: Callable[[Subject], Results]
    needs: tuple[Requirement, ...] = ()
    network: str | None = None
    hours: bool = False

    def lacks(self, subject: Subject) -> str | None:
        """What keeps it from being computed at all: ``needs ...``."""
        return next((said for need in self.needs if (said := need(subject)) is not None), None)

    def not_by_itself(self, subject: Subject) -> str | None:
        """The same, and what keeps it from being computed unasked."""
        said = self.lacks(subject)
        if said is None and self.network is not None and not obtainable(self.network, subject.weights):
            said = f"needs weights.{self.network}=FILE, or to be asked for by name: then it is downloaded"
        if said is None and self.hours and torch.device(subject.device).type == "cpu":
            said = "takes an hour on a CPU: ask for it by name"
        return said


def result(subject: Subject, value: float, n: int, protocol: dict[str, Any], **more: Any) -> dict[str, Any]:
    """One result: its value, how many images or samples it is from, the seed and the protocol."""
    return {"value": value, **more, "n": n, "seed": subject.seed, "protocol": protocol}


def labels(subject: Subject) -> str | None:
    """The data set has class labels."""
    if subject.data.train.labels is None or subject.data.test.labels is None:
        return f"needs class labels, and data={subject.data.name} has none"
    return None


def attributes(subject: Subject) -> str | None:
    """The data set has binary attributes."""
    if subject.data.train.attributes is None or subject.data.test.attributes is None:
        return f"needs binary attributes, and data={subject.data.name} has none"
    return None


def labels_or_attributes(subject: Subject) -> str | None:
    """There is something that a classifier of the data set's own can be trained on."""
    if labels(subject) and attributes(subject):
        return f"needs class labels or attributes, and data={subject.data.name} has none"
    return None


def density(subject: Subject) -> str | None:
    """The prior can score codes."""
    if not subject.autoencoder.prior.has_log_prob:
        return f"needs log p(z), and {type(subject.autoencoder.prior).__name__} has no density"
    return None


def stochastic_encoder(subject: Subject) -> str | None:
    """q(z|x) has a density."""
    x = subject.data.test.batch(slice(0, 1)).x.to(subject.device)
    with torch.no_grad():
        _, scale = subject.autoencoder.encoder(x)
    return "needs a stochastic encoder, and this run's is deterministic" if scale is None else None


def image_density(subject: Subject) -> str | None:
    """p(x|z) is a density of images."""
    likelihood = subject.autoencoder.likelihood
    if not likelihood.has_density:
        return f"needs a density p(x|z), and {type(likelihood).__name__} is none"
    return None
