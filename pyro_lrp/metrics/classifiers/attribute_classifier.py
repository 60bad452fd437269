"""A classifier of binary attributes, trained on the data set itself.

The paper uses "a deep neural network trained on the training images", StyleGAN 40 networks for faces at 256x256
pixels. This one is a ResNet-18 for small images, with a logit for each attribute.
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

__all__ = [
    "AttributeClassifier", "attribute_classifier", "attribute_classifier_for", "attribute_names",
    "attribute_record", "train_attribute_classifier",
]  # fmt: skip

_VERSION = 1  # raise it when the architecture or its training changes: cached networks are then not used
_HELD_OUT = 0.05  # share of training images that select the epoch if there are no validation images


class AttributeClassifier(DatasetClassifier):
    """ResNet-18 for small images: its stem is a 3x3 convolution without pooling.

    Args:
        image_shape: ``(C, H, W)``.
        attributes: Number of attributes, with a logit each.
        width: Channels of the first of four stages; each stage has twice those of the one before. ResNet-18
            has 64.
        stride: Stride of the stem. 2 makes it four times as fast, and less accurate.

    Attributes:
        accuracy: The share of correct predictions for the test images, shape ``(attributes,)``.
        majority: The same for the prediction of each attribute's commoner value in training.

    References:
        He et al. (2016), Deep Residual Learning for Image Recognition.

    >>> AttributeClassifier((3, 64, 64), 40, width=8)(torch.zeros(2, 3, 64, 64)).shape
    torch.Size([2, 40])
    """

    kind: ClassVar[str] = "attributes"
    majority: Tensor

    def __init__(
        self, image_shape: tuple[int, int, int], attributes: int, width: int = 64, stride: int = 1
    ) -> None:
        super().__init__()
        self.width = width
        self.stride = stride
        stem = nn.Conv2d(image_shape[0], width, 3, stride=stride, padding=1, bias=False)
        stages = [*_stage(width, width, 1)]
        for planes in (2 * width, 4 * width, 8 * width):
            stages += _stage(planes // 2, planes, 2)
        self.trunk = nn.Sequential(
            stem, nn.BatchNorm2d(width), nn.ReLU(), *stages, nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
        self.head = nn.Linear(8 * width, attributes)
        for module in self.trunk.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        self.register_buffer("accuracy", torch.zeros(attributes))
        self.register_buffer("majority", torch.zeros(attributes))

    def target(self, split: Split) -> Tensor:
        """Attributes, bool ``(B, attributes)``."""
        assert split.attributes is not None, "checked before training"
        return split.attributes

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Binary cross-entropy, the mean over images and attributes."""
        return F.binary_cross_entropy_with_logits(logits, target.to(logits.dtype))

    def correct(self, logits: Tensor, target: Tensor) -> Tensor:
        """Whether the sign of each logit is that of the attribute."""
        return (logits > 0) == target


def _stage(before: int, planes: int, stride: int) -> list[nn.Module]:
    """Two residual blocks from ``before`` to ``planes`` channels."""
    from torchvision.models.resnet import BasicBlock

    shortcut = None
    if before != planes:
        projection = nn.Conv2d(before, planes, 1, stride=stride, bias=False)
        shortcut = nn.Sequential(projection, nn.BatchNorm2d(planes))
    return [BasicBlock(before, planes, stride, shortcut), BasicBlock(planes, planes)]


def train_attribute_classifier(
    data: ImageData,
    *,
    width: int | None = None,
    stride: int | None = None,
    epochs: int | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
    on_step: Callable[[int, int], None] = no_progress,
) -> AttributeClassifier:
    """Train an :class:`AttributeClassifier` on the training images and record its accuracy on the test images.

    The best epoch is selected on the data set's own validation images, or on a fixed 5 % of the training
    images, which are then not trained on. Images are mirrored at random.

    Args:
        data: A data set with attributes.
        width: Channels of the first stage; None for 64 on a GPU and 16 on a CPU.
        stride: Stride of the stem; None for 2 on a CPU with images of 64 pixels or more, else 1.
        epochs: Passes over the training images; None for about 70,000 images in all, but at most 40 epochs, and
            at least 8 on a GPU.
        seed: Seed of initialisation, data order and flips.
        device: The device to train on.
        on_step: Called with the number of steps done and of all steps.

    Raises:
        UserError: If the data set has no attributes.
    """
    network = _initial(data, width, stride, seed, device)
    epochs = epochs or _epochs(data, device)
    return _train(network, data, epochs, seed=seed, device=device, on_step=on_step)


def attribute_classifier_for(
    data: ImageData,
    *,
    width: int | None = None,
    stride: int | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
    on_step: Callable[[int, int], None] = no_progress,
) -> AttributeClassifier:
    """The attribute classifier of a data set, trained once and then read from the user's cache.

    Arguments are those of :func:`train_attribute_classifier`.
    """
    network = _initial(data, width, stride, seed, device)
    epochs = _epochs(data, device)
    how = f"width_{network.width}_stride_{network.stride}_epochs_{epochs}_seed_{seed}"
    name = f"{data.name}_{fingerprint(data)}_{network.kind}_v{_VERSION}_{how}"

    def train(fresh: AttributeClassifier) -> AttributeClassifier:
        return _train(fresh, data, epochs, seed=seed, device=device, on_step=on_step)

    return trained_once(network, name, train)


def attribute_classifier(subject: Subject) -> AttributeClassifier:
    """The attribute classifier of a subject's data set, loaded once."""

    def load() -> AttributeClassifier:
        return attribute_classifier_for(subject.data, device=subject.device, on_step=subject.on_step)

    return subject.memo(("attribute_classifier",), load)


def attribute_record(network: AttributeClassifier, data: ImageData) -> dict[str, Any]:
    """The entries of a protocol."""
    architecture = f"ResNet-18 of width {network.width}, stem of stride {network.stride}"
    training = f"trained on the attributes of {data.name}"
    return {
        "network": f"{architecture}, {training}, {8 * network.width} features, seed 0",
        "weights_sha256": weights_sha256(network),
        "classifier_accuracy": round(network.accuracy.mean().item(), 4),
        "majority_accuracy": round(network.majority.mean().item(), 4),
    }


def attribute_names(data: ImageData) -> tuple[str, ...]:
    """Names of the attributes of a data set, or their numbers if they have no names.

    >>> images = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
    >>> split = Split(images, attributes=torch.zeros(2, 3, dtype=torch.bool))
    >>> attribute_names(ImageData("own", split, split))
    ('0', '1', '2')
    """
    assert data.train.attributes is not None, "checked before"
    if data.attributes:
        return data.attributes
    count = data.train.attributes.shape[1]
    return tuple(str(number) for number in range(count))


def _initial(
    data: ImageData,
    width: int | None,
    stride: int | None,
    seed: int,
    device: torch.device | str,
) -> AttributeClassifier:
    if data.train.attributes is None or data.test.attributes is None:
        raise UserError(
            f"an attribute classifier needs binary attributes, and the data set {data.name} has none"
        )
    on_cpu = torch.device(device).type == "cpu"
    large = min(data.image_shape[1:]) >= 64
    if width is None:
        width = 64
        if on_cpu:
            width = 16
    if stride is None:
        stride = 1
        if on_cpu and large:
            stride = 2
    count = data.train.attributes.shape[1]
    with seeded(seed, AttributeClassifier.kind):
        return AttributeClassifier(data.image_shape, count, width, stride).to(device)


def _epochs(data: ImageData, device: torch.device | str) -> int:
    """Passes over the images: minutes on a CPU core at 64x64, whatever their number; at least 8 on a GPU."""
    least = 8
    if torch.device(device).type == "cpu":
        least = 1
    return min(40, max(least, round(70_000 / len(data.train))))


def _train(
    network: AttributeClassifier,
    data: ImageData,
    epochs: int,
    *,
    seed: int,
    device: torch.device | str,
    on_step: Callable[[int, int], None],
) -> AttributeClassifier:
    train = data.train
    validation = data.validation
    if validation is None:
        train, validation = data.hold_out(_HELD_OUT)
    if not len(validation):  # a data set too small to hold images out
        validation = None
    plan = Plan(epochs, batch_size=64, lr=4e-3, flip=True)
    fit(network, train, plan, validation=validation, seed=seed, device=device, on_step=on_step)
    network.accuracy.copy_(accuracy(network, data.test, device))
    assert train.attributes is not None, "checked before"
    assert data.test.attributes is not None, "checked before"
    common = train.attributes.double().mean(0) > 0.5
    network.majority.copy_((data.test.attributes == common).double().mean(0))
    return network
