"""A small classifier, trained here on the data set itself: features for a Fréchet distance on small images.

Inception's features say little about 28x28 digits, and its weights need a download. This network is a
surrogate: its distances compare models with each other, never with published FIDs.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_lrp import checkpoint
from pyro_lrp.data import Batches, ImageData, Split, chunks
from pyro_lrp.errors import UserError
from pyro_lrp.randomness import derive_seed, seeded

__all__ = ["JUDGED", "Classifier", "classifier_for", "judged", "train_classifier"]

JUDGED = "decoder means, clipped to [0, 1], rounded to uint8"

FEATURES = 64
_VERSION = 1  # raise it when the architecture or its training changes: cached networks are then not used


class Classifier(nn.Module):
    """Two convolutions with average pooling, then ``FEATURES`` features, then classes.

    Without batch normalization and with average pooling its features react to shape more than to how crisp an
    edge is; with the two, a slight blur weighed ten times more, and drowned the rest.

    Args:
        image_shape: ``(C, H, W)``.
        classes: Number of classes.
    """

    accuracy: Tensor

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
        self.register_buffer("accuracy", torch.zeros(()))  # on the test images

    def features(self, x: Tensor) -> Tensor:
        """Penultimate activations of images in [0, 1]: ``(B, C, H, W) -> (B, FEATURES)``."""
        return self.trunk(x)

    def forward(self, x: Tensor) -> Tensor:
        """Logits, ``(B, classes)``."""
        return self.head(self.trunk(x))


def judged(images: Tensor) -> Tensor:
    """Images as they are judged, :data:`JUDGED`: what a file of them would hold, as floats."""
    return (images.clamp(0, 1) * 255).round() / 255


def train_classifier(
    data: ImageData, *, seed: int = 0, epochs: int | None = None, device: torch.device | str = "cpu",
    on_step: Callable[[int, int], None] = lambda step, steps: None,
) -> Classifier:  # fmt: skip
    """Train a :class:`Classifier` on the training images and record its accuracy on the test images.

    Args:
        data: With labels.
        seed: Of its initialisation and data order.
        epochs: Enough for about 2,400 steps if None, but at most 40.
        device: Where to train.
        on_step: Called with the number of steps done and of all steps.

    Raises:
        UserError: If the data set has no labels.
    """
    if data.train.labels is None or data.test.labels is None:
        raise UserError(f"fd_classifier needs class labels, and data={data.name} has none")
    classes = int(max(data.train.labels.max(), data.test.labels.max())) + 1
    with seeded(seed, "classifier"):
        network = Classifier(data.image_shape, classes).to(device)
    batches = Batches(
        data.train.to(torch.device(device)), min(100, len(data.train)), seed=derive_seed(seed, "classifier"),
        fetch=Split.batch, device=device,
    )  # fmt: skip
    steps = batches.steps_per_epoch * (epochs or min(40, max(3, round(2400 / batches.steps_per_epoch))))
    adam = torch.optim.Adam(network.parameters(), lr=2e-3)
    decay = torch.optim.lr_scheduler.OneCycleLR(adam, max_lr=2e-3, total_steps=steps)
    for step in range(steps):
        batch = batches.at(step)
        assert batch.label is not None, "checked above"
        adam.zero_grad()
        F.cross_entropy(network(batch.x), batch.label).backward()
        adam.step()
        decay.step()
        on_step(step + 1, steps)
    network.eval()
    network.accuracy.fill_(_accuracy(network, data.test.to(torch.device(device))))
    return network


def classifier_for(
    data: ImageData, *, seed: int = 0, device: torch.device | str = "cpu",
    on_step: Callable[[int, int], None] = lambda step, steps: None,
) -> Classifier:  # fmt: skip
    """The classifier of a data set, trained once and then read from the user's cache.

    The cache is ``$PYRO_LRP_CACHE``, or ``~/.cache/pyro_lrp``; a file there is keyed by the images themselves.
    """
    folder = Path(os.environ.get("PYRO_LRP_CACHE") or "~/.cache/pyro_lrp").expanduser() / "classifiers"
    path = folder / f"{data.name}_{_fingerprint(data)}_v{_VERSION}_seed_{seed}.safetensors"
    with contextlib.suppress(UserError):  # missing, or damaged: then it is trained again
        state = checkpoint.load(path)
        network = Classifier(data.image_shape, len(state["head.bias"]))
        checkpoint.load_into(network, state, path)
        return network.to(device).eval()
    network = train_classifier(data, seed=seed, device=device, on_step=on_step)
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint.save(path, network.state_dict())
    return network


def _fingerprint(data: ImageData) -> str:
    digest = hashlib.sha256()
    for split in (data.train, data.test):
        digest.update(repr(tuple(split.images.shape)).encode())
        digest.update(split.images.contiguous().numpy().data)
        if split.labels is not None:
            digest.update(split.labels.contiguous().numpy().data)
    return digest.hexdigest()[:16]


@torch.no_grad()
def _accuracy(network: Classifier, split: Split) -> float:
    assert split.labels is not None, "checked by the caller"
    right = sum((network(batch.x).argmax(1) == batch.label).sum().item() for batch in chunks(split))
    return right / len(split)
