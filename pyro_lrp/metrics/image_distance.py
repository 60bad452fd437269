"""The distances of images that path lengths, diversity and perceptual change are measured with."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_lrp.features import LPIPS
from pyro_lrp.metrics.classifiers import domain_network
from pyro_lrp.metrics.subject import CHUNK, Subject

__all__ = ["Distance", "ImageDistance", "batch_size", "classifier_distance", "float64_device", "lpips_distance"]

Distance = Callable[[Tensor, Tensor], Tensor]

_PIXELS = 200_000  # in all images of a batch: bounds the activations of a trunk's wide first layers


@dataclass(frozen=True)
class ImageDistance:
    """A distance of images and its protocol.

    Attributes:
        distance: Maps two batches of images in [0, 1], ``(B, C, H, W)``, to distances ``(B,)``, in float64 if
            the images are.
        record: The entries of a protocol; the key ``surrogate``, if present, says why the distance is one.
        any_size: Whether it takes images of another size than the data set's.
    """

    distance: Distance
    record: Mapping[str, Any]
    any_size: bool


def lpips_distance(subject: Subject, network: str) -> ImageDistance:
    """LPIPS v0.1.

    Args:
        subject: The subject, whose files of weights are used.
        network: The trunk, a network of torchvision.
    """

    def load() -> ImageDistance:
        lpips = LPIPS(network, subject.weights.get(network))
        lpips = lpips.to(float64_device(subject))
        return ImageDistance(lpips, lpips.record, any_size=True)

    return subject.memo(("lpips", network), load)


def classifier_distance(subject: Subject) -> ImageDistance:
    """The squared distance in features of the data set's own classifier, in float64; a surrogate for LPIPS."""

    def load() -> ImageDistance:
        own, record = domain_network(subject)
        network = copy.deepcopy(own).to(float64_device(subject)).double()

        def distance(x: Tensor, y: Tensor) -> Tensor:
            difference = network.features(x.double()) - network.features(y.double())
            return difference.square().sum(1)

        protocol = {**record, "distance": "squared, of features"}
        return ImageDistance(distance, protocol, any_size=False)

    return subject.memo(("classifier_distance",), load)


def float64_device(subject: Subject) -> torch.device:
    """The device for float64: that of the subject, or the CPU in place of ``mps``, which has no float64."""
    device = torch.device(subject.device)
    if device.type == "mps":
        return torch.device("cpu")
    return device


def batch_size(subject: Subject) -> int:
    """The number of images that a network sees at once: fewer of large ones."""
    _, height, width = subject.data.image_shape
    pixels = max(height, 64) * max(width, 64)
    return max(1, min(CHUNK, _PIXELS // pixels))
