"""A classifier of binary attributes, trained here on the data set itself.

The paper's is "a deep neural network trained on the training images"; StyleGAN's are 40 networks for faces at
256x256. This one is a ResNet-18 for small images, with a logit for each attribute.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.resnet import BasicBlock

from pyro_lrp.core.errors import UserError
from pyro_lrp.core.randomness import seeded
from pyro_lrp.data import ImageData, Split
from pyro_lrp.metrics.own_network import (
    OwnNetwork,
    Plan,
    fingerprint,
    fit,
    share_right,
    trained_once,
    weights_sha256,
)
from pyro_lrp.metrics.subject import Subject, no_progress

__all__ = [
    "AttributeClassifier", "attribute_classifier", "attribute_classifier_for", "attribute_names",
    "attribute_record", "train_attribute_classifier",
]  # fmt: skip

_VERSION = 1  # raise it when the architecture or its training changes: cached networks are then not used
_HELD_OUT = 0.05  # share of the training images that the epoch is selected on, without validation images


class AttributeClassifier(OwnNetwork):
    """ResNet-18 for small images: its stem is a 3x3 convolution without a pooling after it.

    Args:
        image_shape: ``(C, H, W)``.
        attributes: Number of attributes, each of which gets a logit.
        width: Channels of the first of four stages, each of which has twice those of the one before; 64 is
            ResNet-18.
        stride: Of the stem. 2 makes it four times as fast, and blinder.

    Attributes:
        accuracy: On the test images, shape ``(attributes,)``.
        majority: What one would be right on with each attribute's commoner value in training, likewise.

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
        self.width, self.stride = width, stride
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
        return F.binary_cross_entropy_with_logits(logits, target.float())

    def right(self, logits: Tensor, target: Tensor) -> Tensor:
        """Whether the sign of each logit is right."""
        return (logits > 0) == target


def _stage(before: int, planes: int, stride: int) -> list[nn.Module]:
    shortcut = None
    if before != planes:
        projection = nn.Conv2d(before, planes, 1, stride=stride, bias=False)
        shortcut = nn.Sequential(projection, nn.BatchNorm2d(planes))
    return [BasicBlock(before, planes, stride, shortcut), BasicBlock(planes, planes)]


def train_attribute_classifier(
    data: ImageData, *, width: int | None = None, stride: int | None = None, epochs: int | None = None,
    seed: int = 0, device: torch.device | str = "cpu", on_step: Callable[[int, int], None] = no_progress,
) -> AttributeClassifier:  # fmt: skip
    """Train an :class:`AttributeClassifier` on the training images; its accuracy is that on the test images.

    The best epoch is selected on the data set's own validation images, or on a fixed 5 % of the training
    images, which are then not trained on. Images are mirrored at random.

    Args:
        data: With attributes.
        width: As of the class; 64 on a GPU and 16 on a CPU if None.
        stride: As of the class; if None 2 on a CPU for images of 64 pixels or more, else 1.
        epochs: If None so many that 70,000 images are seen, but at most 40, and at least 8 on a GPU.
        seed: Of its initialisation, data order and flips.
        device: Where to train.
        on_step: Called with the number of steps done and of all steps.

    Raises:
        UserError: If the data set has no attributes.
    """
    network = _initial(data, width, stride, seed, device)
    epochs = epochs or _epochs(data, device)
    return _train(network, data, epochs, seed=seed, device=device, on_step=on_step)


def attribute_classifier_for(
    data: ImageData, *, width: int | None = None, stride: int | None = None, seed: int = 0,
    device: torch.device | str = "cpu", on_step: Callable[[int, int], None] = no_progress,
) -> AttributeClassifier:  # fmt: skip
    """The attribute classifier of a data set, trained once and then read from the user's cache."""
    network = _initial(data, width, stride, seed, device)
    epochs = _epochs(data, device)
    how = f"width_{network.width}_stride_{network.stride}_epochs_{epochs}_seed_{seed}"
    name = f"{data.name}_{fingerprint(data)}_{network.kind}_v{_VERSION}_{how}"

    def train(fresh: AttributeClassifier) -> AttributeClassifier:
        return _train(fresh, data, epochs, seed=seed, device=device, on_step=on_step)

    return trained_once(network, name, train)


def attribute_classifier(subject: Subject) -> AttributeClassifier:
    """The same for a subject, once."""
    return subject.memo(
        ("attribute_classifier",),
        lambda: attribute_classifier_for(subject.data, device=subject.device, on_step=subject.on_step),
    )


def attribute_record(network: AttributeClassifier, data: ImageData) -> dict[str, Any]:
    """Its part of a protocol."""
    words = f"ResNet-18 of width {network.width}, stem of stride {network.stride}"
    return {
        "network": f"{words}, trained on the attributes of {data.name}, {8 * network.width} features, seed 0",
        "weights_sha256": weights_sha256(network),
        "classifier_accuracy": round(network.accuracy.mean().item(), 4),
        "majority_accuracy": round(network.majority.mean().item(), 4),
    }


def attribute_names(data: ImageData) -> tuple[str, ...]:
    """Names of a data set's attributes; their numbers if it has none.

    >>> images = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
    >>> split = Split(images, attributes=torch.zeros(2, 3, dtype=torch.bool))
    >>> attribute_names(ImageData("own", split, split))
    ('0', '1', '2')
    """
    assert data.train.attributes is not None, "checked before"
    return data.attributes or tuple(str(number) for number in range(data.train.attributes.shape[1]))


def _initial(
    data: ImageData, width: int | None, stride: int | None, seed: int, device: torch.device | str
) -> AttributeClassifier:
    if data.train.attributes is None or data.test.attributes is None:
        raise UserError(f"an attribute classifier needs binary attributes, and data={data.name} has none")
    on_cpu = torch.device(device).type == "cpu"
    if width is None:
        width = 16 if on_cpu else 64
    if stride is None:
        stride = 2 if on_cpu and min(data.image_shape[1:]) >= 64 else 1
    with seeded(seed, AttributeClassifier.kind):
        return AttributeClassifier(data.image_shape, data.train.attributes.shape[1], width, stride).to(device)


def _epochs(data: ImageData, device: torch.device | str) -> int:
    """Minutes on a core at 64x64, whatever the number of images; on a GPU all are seen several times."""
    least = 1 if torch.device(device).type == "cpu" else 8
    return min(40, max(least, round(70_000 / len(data.train))))


def _train(
    network: AttributeClassifier, data: ImageData, epochs: int, *, seed: int, device: torch.device | str,
    on_step: Callable[[int, int], None],
) -> AttributeClassifier:  # fmt: skip
    train, validation = data.train, data.validation
    if validation is None:
        train, validation = data.hold_out(_HELD_OUT)
    plan = Plan(epochs, batch_size=64, lr=4e-3, flip=True)
    fit(
        network, train, plan, validation=validation if len(validation) else None,
        seed=seed, device=device, on_step=on_step,
    )  # fmt: skip
    network.accuracy.copy_(share_right(network, data.test, device))
    assert train.attributes is not None, "checked before"
    assert data.test.attributes is not None, "checked before"
    common = train.attributes.double().mean(0) > 0.5
    network.majority.copy_((data.test.attributes == common).double().mean(0))
    return network
