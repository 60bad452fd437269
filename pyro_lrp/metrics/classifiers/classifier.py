"""A small classifier of classes, trained on the data set itself: features for distances of small images.

The features of Inception say little about 28x28 digits, and its weights need a download. This network is a
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
from pyro_lrp.metrics.classifiers.dataset_classifier import (
    DatasetClassifier,
    Plan,
    accuracy,
    fingerprint,
    fit,
    trained_once,
    weights_sha256,
)
from pyro_lrp.metrics.subject import Subject, no_progress

__all__ = ["Classifier", "class_classifier", "class_record", "classifier_for", "train_classifier"]

_FEATURES = 64
_VERSION = 1  # raise it when the architecture or its training changes: cached networks are then not used


class _MeansOfFour(torch.autograd.Function):
    """The mean of each 2 x 2 pixels, in the order of PyTorch's pooling: values and gradients are its own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """``(..., H, W) -> (..., H / 2, W / 2)``."""
        first, second = x[..., 0::2, :], x[..., 1::2, :]
        total = first[..., 0::2] + first[..., 1::2]
        total += second[..., 0::2]
        total += second[..., 1::2]
        return total.div_(4)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        """A quarter of the gradient for each of the four."""
        share = gradients[0] / 4
        *batch, height, width = share.shape
        out = share.new_empty(*batch, height, 2, width, 2)
        for row in (0, 1):
            for column in (0, 1):
                out[..., row, :, column] = share
        return out.reshape(*batch, 2 * height, 2 * width)


class HalfSize(nn.AvgPool2d):
    """``AvgPool2d(2)``, whose values it has, bit for bit, in half the time on a CPU."""

    def __init__(self) -> None:
        super().__init__(2)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W) -> (B, C, H // 2, W // 2)``."""
        odd = x.shape[-1] % 2 or x.shape[-2] % 2
        if odd or x.device.type != "cpu":
            return super().forward(x)
        return _MeansOfFour.apply(x)


class Classifier(DatasetClassifier):
    """Two convolutions with average pooling, then 64 features, then classes.

    It has average pooling and no batch normalization, so that its features react to shape more than to the
    crispness of edges: with max pooling and batch normalization a slight blur weighed ten times more.

    Args:
        image_shape: ``(C, H, W)``.
        classes: Number of classes.

    Attributes:
        accuracy: The share of correct predictions for the test images, shape ``()``.
    """

    kind: ClassVar[str] = "classifier"

    def __init__(self, image_shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        channels, height, width = image_shape
        self.trunk = nn.Sequential(
            nn.Conv2d(channels, 32, 3, padding=1),
            nn.ReLU(),
            HalfSize(),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.ReLU(),
            HalfSize(),
            nn.Flatten(),
            nn.Linear(64 * (height // 4) * (width // 4), _FEATURES),
            nn.ReLU(),
        )
        self.head = nn.Linear(_FEATURES, classes)
        self.register_buffer("accuracy", torch.zeros(()))

    def target(self, split: Split) -> Tensor:
        """Labels, ``(B,)``."""
        assert split.labels is not None, "checked before training"
        return split.labels

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Cross-entropy, the mean over images."""
        return F.cross_entropy(logits, target)

    def correct(self, logits: Tensor, target: Tensor) -> Tensor:
        """Whether the largest logit is that of the label."""
        return logits.argmax(1) == target


def train_classifier(
    data: ImageData,
    *,
    seed: int = 0,
    epochs: int | None = None,
    device: torch.device | str = "cpu",
    on_step: Callable[[int, int], None] = no_progress,
) -> Classifier:
    """Train a :class:`Classifier` on all labelled training images and record its accuracy on the test images.

    Args:
        data: A data set with labels.
        seed: Seed of initialisation and data order.
        epochs: Passes over the training images; None for about 2,400 steps, but at most 40 epochs.
        device: The device to train on.
        on_step: Called with the number of steps done and of all steps.

    Raises:
        UserError: If the data set has no labels.
    """
    network = _initial(data, seed, device)
    return _train(network, data, seed=seed, epochs=epochs, device=device, on_step=on_step)


def classifier_for(
    data: ImageData,
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
    on_step: Callable[[int, int], None] = no_progress,
) -> Classifier:
    """The classifier of a data set, trained once and then read from the user's cache.

    The cache is ``$PYRO_LRP_CACHE``, or ``~/.cache/pyro_lrp``; the name of a file there depends on the images
    themselves. Arguments are those of :func:`train_classifier`.
    """
    network = _initial(data, seed, device)
    name = f"{data.name}_{fingerprint(data)}_{network.kind}_v{_VERSION}_seed_{seed}"

    def train(fresh: Classifier) -> Classifier:
        return _train(fresh, data, seed=seed, device=device, on_step=on_step)

    return trained_once(network, name, train)


def class_classifier(subject: Subject) -> Classifier:
    """The classifier of a subject's data set, loaded once."""

    def load() -> Classifier:
        return classifier_for(subject.data, device=subject.device, on_step=subject.on_step)

    return subject.memo(("class_classifier",), load)


def class_record(network: Classifier, data: ImageData) -> dict[str, Any]:
    """The entries of a protocol."""
    return {
        "network": f"small CNN trained on {data.name}, {_FEATURES} penultimate features, seed 0",
        "weights_sha256": weights_sha256(network),
        "classifier_accuracy": round(network.accuracy.item(), 4),
    }


def _initial(data: ImageData, seed: int, device: torch.device | str) -> Classifier:
    if not len(data.train.labelled()) or not len(data.test.labelled()):
        raise UserError(f"a classifier needs class labels, and the data set {data.name} has none")
    with seeded(seed, Classifier.kind):
        return Classifier(data.image_shape, len(data.classes)).to(device)


def _train(
    network: Classifier,
    data: ImageData,
    *,
    seed: int,
    device: torch.device | str,
    on_step: Callable[[int, int], None],
    epochs: int | None = None,
) -> Classifier:
    train = data.train.labelled()
    batch_size = min(100, len(train))
    steps_per_epoch = len(train) // batch_size
    if not epochs:
        epochs = min(40, max(3, round(2400 / steps_per_epoch)))
    plan = Plan(epochs, batch_size, lr=2e-3)
    fit(network, train, plan, seed=seed, device=device, on_step=on_step)
    network.accuracy.copy_(accuracy(network, data.test.labelled(), device))
    return network
