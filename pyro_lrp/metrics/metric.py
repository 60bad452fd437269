"""The definition of a metric: a function of a subject, its requirements and its results."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from pyro_lrp.features import obtainable
from pyro_lrp.metrics.subject import Results, Subject
from pyro_lrp.objectives.regularization import is_point

__all__ = [
    "Metric", "Requirement", "attributes", "density", "enough_images", "image_density", "labels",
    "labels_or_attributes", "result", "standard_error", "stochastic_encoder",
]  # fmt: skip

Requirement = Callable[[Subject], "str | None"]


@dataclass(frozen=True)
class Metric:
    """A metric.

    Attributes:
        compute: Maps a subject (a :class:`Subject`, or what takes its place where there are no images) to
            results by name; the names carry the protocol.
        needs: Requirements; each returns what a subject lacks, as the end of a sentence, or None.
        network: The pretrained network whose weights it needs.
        hours: Whether it takes hours on a CPU: there ``metrics=auto`` leaves it out.
    """

    compute: Callable[[Any], Results]
    needs: tuple[Requirement, ...] = ()
    network: str | None = None
    hours: bool = False

    def lacks(self, subject: Subject) -> str | None:
        """The first requirement that a subject does not meet, as ``needs ...``, or None."""
        for need in self.needs:
            reason = need(subject)
            if reason is not None:
                return reason
        return None

    def not_by_itself(self, subject: Subject) -> str | None:
        """The reason why ``metrics=auto`` leaves the metric out, or None."""
        reason = self.lacks(subject)
        if reason is not None:
            return reason
        if self.network is not None and not obtainable(self.network, subject.weights):
            return self.without_weights
        if self.hours and torch.device(subject.device).type == "cpu":
            return "takes an hour on a CPU: ask for it by name"
        return None

    @property
    def without_weights(self) -> str:
        """The reason to leave it out where its network is not at hand."""
        return f"needs weights.{self.network}=FILE, or to be asked for by name: then it is downloaded"


class Seeded(Protocol):
    """Whatever has the seed of all noise, such as a :class:`Subject`."""

    seed: int


def result(subject: Seeded, value: float, n: int, protocol: dict[str, Any], **more: Any) -> dict[str, Any]:
    """One result.

    Args:
        subject: The subject of the metric.
        value: The score.
        n: The number of images or samples that it was computed from.
        protocol: Everything that decides how it was computed.
        more: Further entries.
    """
    return {"value": value, **more, "n": n, "seed": subject.seed, "protocol": protocol}


def standard_error(values: Tensor) -> float:
    """Standard error of the mean of independent values, shape ``(n,)``; NaN for fewer than two."""
    if len(values) < 2:
        return math.nan
    return values.std().item() / math.sqrt(len(values))


def enough_images(least: int) -> Requirement:
    """The data set has so many training and so many test images, and so many are asked for."""

    def need(subject: Subject) -> str | None:
        data = subject.data
        fewest = min(len(subject.train), len(data.test))
        if fewest < least:
            return f"needs {least} training and test images at least, and the data set {data.name} has {fewest}"
        if subject.n is not None and subject.n < least:
            return f"needs n={least} at least, and n is {subject.n}"
        return None

    return need


def labels(subject: Subject) -> str | None:
    """The data set has class labels."""
    if not subject.has_labels:
        return f"needs class labels, and the data set {subject.data.name} has none"
    return None


def attributes(subject: Subject) -> str | None:
    """The data set has binary attributes."""
    if not subject.has_attributes:
        return f"needs binary attributes, and the data set {subject.data.name} has none"
    return None


def labels_or_attributes(subject: Subject) -> str | None:
    """The data set has targets that a classifier can be trained on."""
    if not subject.has_labels and not subject.has_attributes:
        return f"needs class labels or attributes, and the data set {subject.data.name} has none"
    return None


def density(subject: Subject) -> str | None:
    """The prior has a density."""
    prior = subject.autoencoder.prior
    if not prior.has_log_prob:
        return f"needs log p(z), and {type(prior).__name__} has no density"
    return None


def stochastic_encoder(subject: Subject) -> str | None:
    """The posterior q(z|x) has a density."""
    one = subject.on_device(subject.data.test[:1]).batch(slice(None))
    with torch.no_grad():
        posterior = subject.autoencoder.encode(one.x, one.context)
    if is_point(posterior):
        return "needs a stochastic encoder, and this run's is deterministic"
    return None


def image_density(subject: Subject) -> str | None:
    """The likelihood p(x|z) is a density of images."""
    likelihood = subject.autoencoder.likelihood
    if not likelihood.has_density:
        return f"needs a density p(x|z), and {type(likelihood).__name__} is none"
    return None
