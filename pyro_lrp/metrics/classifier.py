"""A small classifier, trained here on the data set itself: features for a Fréchet distance on small images.

Inception's features say little about 28x28 digits, and its weights need a download. This network is a
surrogate: its distances compare models with each other, never with published FIDs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_lrp.core.errors import UserError
from pyro_lrp.core.randomness import seeded
from pyro_lrp.data import ImageData, Split
from pyro_lrp.metrics.attribute_classifier import attribute_classifier, attribute_record
from pyro_lrp.metrics.own_network import (
    OwnNetwork,
    Plan,
    fingerprint,
    fit,
    share_right,
    trained_once,
    weights_sha256,
)
from pyro_lrp.metrics.subject import Extractor, Subject, no_progress

__all__ = [
    "JUDGED", "Classifier", "class_classifier", "class_record", "classifier_for", "domain_extractor",
    "train_classifier",
]  # fmt: skip

JUDGED = "decoder means, clipped to [0, 1], rounded to uint8"

FEATURES = 64
_VERSION = 1  # raise it when the architecture or its training changes: cached networks are then not used
_SURROGATE = "a network trained here: distances compare models with each other, never with published FIDs"


class Classifier(OwnNetwork):
    """Two convolutions with average pooling, then ``FEATURES`` features, then classes.

    Without batch normalization and with average pooling its features react to shape more than to how crisp an
    edge is; with the two, a slight blur weighed ten times more, and drowned the rest.

    Args:
        image_shape: ``(C, H, W)``.
        classes: Number of classes.

    Attributes:
        accuracy: On the test images, shape ``()``.
    """

    kind: ClassVar[str] = "classifier"

    def __init__(self, image_shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        channels, height, width = image_shape
        self.trunk = nn.Sequential(
            nn.Conv2d(channels, 32, 3, padding=1),
            nn.ReLU(),
            nn.AvgPool2d(2),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.ReLU(),
            nn.AvgPool2d(2),
            nn.Flatten(),
            nn.Linear(64 * (height // 4) * (width // 4), FEATURES),
            nn.ReLU(),
        )
        self.head = nn.Linear(FEATURES, classes)
        self.register_buffer("accuracy", torch.zeros(()))

    def target(self, split: Split) -> Tensor:
        """Labels, ``(B,)``."""
        assert split.labels is not None, "checked before training"
        return split.labels

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Cross-entropy, the mean over images."""
        return F.cross_entropy(logits, target)

    def right(self, logits: Tensor, target: Tensor) -> Tensor:
        """Whether the largest logit is the label's."""
        return logits.argmax(1) == target


def train_classifier(
    data: ImageData, *, seed: int = 0, epochs: int | None = None, device: torch.device | str = "cpu",
    on_step: Callable[[int, int], None] = no_progress,
) -> Classifier:  # fmt: skip
    """Train a :class:`Classifier` on all training images and record its accuracy on the test images.

    Args:
        data: With labels.
        seed: Of its initialisation and data order.
        epochs: Enough for about 2,400 steps if None, but at most 40.
        device: Where to train.
        on_step: Called with the number of steps done and of all steps.

    Raises:
        UserError: If the data set has no labels.
    """
    return _train(_initial(data, seed, device), data, seed=seed, epochs=epochs, device=device, on_step=on_step)


def classifier_for(
    data: ImageData, *, seed: int = 0, device: torch.device | str = "cpu",
    on_step: Callable[[int, int], None] = no_progress,
) -> Classifier:  # fmt: skip
    """The classifier of a data set, trained once and then read from the user's cache.

    The cache is ``$PYRO_LRP_CACHE``, or ``~/.cache/pyro_lrp``; a file there is keyed by the images themselves.
    """
    network = _initial(data, seed, device)
    name = f"{data.name}_{fingerprint(data)}_{network.kind}_v{_VERSION}_seed_{seed}"
    return trained_once(
        network, name, lambda fresh: _train(fresh, data, seed=seed, device=device, on_step=on_step)
    )


def class_classifier(subject: Subject) -> Classifier:
    """The same for a subject, once."""
    return subject.memo(
        ("class_classifier",),
        lambda: classifier_for(subject.data, device=subject.device, on_step=subject.on_step),
    )


def class_record(network: Classifier, data: ImageData) -> dict[str, Any]:
    """Its part of a protocol."""
    return {
        "network": f"small CNN trained on {data.name}, {FEATURES} penultimate features, seed 0",
        "weights_sha256": weights_sha256(network),
        "classifier_accuracy": round(network.accuracy.item(), 4),
    }


def domain_extractor(subject: Subject) -> Extractor:
    """The network of a subject's own domain, a surrogate for Inception.

    The classifier of its data set; the attribute classifier if there are no class labels. The latter has no
    ``logits``: attributes do not exclude each other, so they are no classes.
    """

    def make() -> Extractor:
        if subject.data.train.labels is not None and subject.data.test.labels is not None:
            network = class_classifier(subject)
            record = class_record(network, subject.data) | {"surrogate": _SURROGATE}
            key = f"{network.kind}_{record['weights_sha256']}"
            return Extractor("classifier", key, network.features, FEATURES, record, network.head)
        tagger = attribute_classifier(subject)
        record = attribute_record(tagger, subject.data) | {"surrogate": _SURROGATE}
        key = f"{tagger.kind}_{record['weights_sha256']}"
        return Extractor("classifier", key, tagger.features, tagger.head.in_features, record)

    return subject.memo(("domain_extractor",), make)


def _initial(data: ImageData, seed: int, device: torch.device | str) -> Classifier:
    if data.train.labels is None or data.test.labels is None:
        raise UserError(f"a classifier needs class labels, and data={data.name} has none")
    classes = int(max(data.train.labels.max(), data.test.labels.max())) + 1
    with seeded(seed, Classifier.kind):
        return Classifier(data.image_shape, classes).to(device)


def _train(
    network: Classifier, data: ImageData, *, seed: int, device: torch.device | str,
    on_step: Callable[[int, int], None], epochs: int | None = None,
) -> Classifier:  # fmt: skip
    batch_size = min(100, len(data.train))
    steps = len(data.train) // batch_size
    plan = Plan(epochs or min(40, max(3, round(2400 / steps))), batch_size, lr=2e-3)
    fit(network, data.train, plan, seed=seed, device=device, on_step=on_step)
    network.accuracy.copy_(share_right(network, data.test, device))
    return network
