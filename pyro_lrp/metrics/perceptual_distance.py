"""The distances of images that path lengths, diversity and perceptual change are measured with."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_lrp.features import LPIPS
from pyro_lrp.metrics.attribute_classifier import attribute_classifier
from pyro_lrp.metrics.classifier import class_classifier, domain_extractor
from pyro_lrp.metrics.metric import labels
from pyro_lrp.metrics.subject import CHUNK, Subject

__all__ = ["Distance", "Judge", "at_once", "classifier_judge", "lpips_judge", "place", "standard_error"]

Distance = Callable[[Tensor, Tensor], Tensor]

_PIXELS = 200_000  # in all images of a chunk: what the wide first layers of a trunk make of them fits in memory


@dataclass(frozen=True)
class Judge:
    """A distance of images.

    Attributes:
        distance: Of two batches of images in [0, 1], ``(B, C, H, W)``: ``(B,)``, in float64 if they are.
        record: Its part of a protocol; the key ``surrogate``, if there, says why it is one.
        any_size: Whether it takes images of another size than the data set's.
    """

    distance: Distance
    record: Mapping[str, Any]
    any_size: bool


def lpips_judge(subject: Subject, network: str) -> Judge:
    """LPIPS v0.1 with a trunk of torchvision."""

    def make() -> Judge:
        distance = LPIPS(network, subject.weights.get(network)).to(place(subject))
        return Judge(distance, distance.record, any_size=True)

    return subject.memo(("lpips", network), make)


def classifier_judge(subject: Subject) -> Judge:
    """The squared distance in features of the data set's own classifier, in float64; a surrogate for LPIPS."""

    def make() -> Judge:
        record = domain_extractor(subject).record
        own = class_classifier(subject) if labels(subject) is None else attribute_classifier(subject)
        network = copy.deepcopy(own).to(place(subject)).double()

        def distance(x: Tensor, y: Tensor) -> Tensor:
            return (network.features(x.double()) - network.features(y.double())).square().sum(1)

        return Judge(distance, {**record, "distance": "squared, of features"}, any_size=False)

    return subject.memo(("classifier_judge",), make)


def place(subject: Subject) -> torch.device:
    """Where to compute in float64: the subject's device, or the CPU in place of ``mps``, which has none."""
    device = torch.device(subject.device)
    return torch.device("cpu") if device.type == "mps" else device


def at_once(subject: Subject) -> int:
    """How many images a network is given at once: fewer of large ones."""
    height, width = (max(side, 64) for side in subject.data.image_shape[1:])
    return max(1, min(CHUNK, _PIXELS // (height * width)))


def standard_error(values: Tensor) -> float:
    """Of the mean of independent values, shape ``(n,)``; NaN for fewer than two."""
    return values.std().item() / math.sqrt(len(values)) if len(values) > 1 else math.nan
