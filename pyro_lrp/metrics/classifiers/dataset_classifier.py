"""The base class of networks that are trained on the data set itself, how they are trained and kept."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, TypeVar

import torch
from torch import Tensor, nn

from pyro_lrp.core import checkpoint
from pyro_lrp.core.cache import kept
from pyro_lrp.core.modules import eval_mode
from pyro_lrp.core.randomness import derive_seed
from pyro_lrp.data import Batches, ImageData, Split
from pyro_lrp.metrics.subject import CHUNK, no_progress

__all__ = ["DatasetClassifier", "Plan", "accuracy", "fingerprint", "fit", "trained_once", "weights_sha256"]


class DatasetClassifier(nn.Module):
    """A trunk that maps images to features, and a head that maps features to logits.

    A subclass sets both, and defines the classification targets.

    Attributes:
        kind: The name in files and seeds.
        accuracy: The share of correct predictions for test images, a buffer; shape ``()``, or one for each
            logit.
    """

    kind: ClassVar[str]
    trunk: nn.Module
    head: nn.Linear
    accuracy: Tensor

    def features(self, x: Tensor) -> Tensor:
        """Penultimate activations of images in [0, 1]: ``(B, C, H, W) -> (B, d)``."""
        return self.trunk(x)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of images in [0, 1], ``(B, outputs)``."""
        return self.head(self.trunk(x))

    def target(self, split: Split) -> Tensor:
        """Classification targets, one row per image."""
        raise NotImplementedError

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """The training loss, a scalar."""
        raise NotImplementedError

    def correct(self, logits: Tensor, target: Tensor) -> Tensor:
        """Whether each target is predicted, bool with one row per image."""
        raise NotImplementedError

    def pairs(self, split: Split, index: slice | Tensor) -> tuple[Tensor, Tensor]:
        """Images and targets at ``index``."""
        part = split[index]
        x = part.batch(slice(None)).x
        return x, self.target(part).to(x.device)


N = TypeVar("N", bound=DatasetClassifier)


@dataclass(frozen=True)
class Plan:
    """The training of a network.

    Attributes:
        epochs: Passes over the training images.
        batch_size: Images of a batch, at most as many as there are.
        lr: The largest learning rate of Adam; the rate rises and falls in one cycle.
        flip: Whether each image is mirrored left to right with probability one half.
    """

    epochs: int
    batch_size: int
    lr: float
    flip: bool = False


def fit(
    network: N,
    train: Split,
    plan: Plan,
    *,
    validation: Split | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
    on_step: Callable[[int, int], None] = no_progress,
) -> N:
    """Train a network in place; it ends in eval mode, frozen.

    Args:
        network: Freshly initialised, on ``device``.
        train: Images to train on.
        plan: Epochs, batch size, learning rate and augmentation.
        validation: Images whose accuracy selects the best epoch; None keeps the last epoch.
        seed: Seed of data order and flips.
        device: The device to train on.
        on_step: Called with the number of steps done and of all steps.
    """
    images = train.to(torch.device(device))
    batches = Batches(
        images,
        min(plan.batch_size, len(train)),
        seed=derive_seed(seed, network.kind),
        fetch=network.pairs,
        device=device,
    )
    flips = torch.Generator().manual_seed(derive_seed(seed, network.kind, "flips"))
    steps = batches.steps_per_epoch * plan.epochs
    adam = torch.optim.Adam(network.parameters(), lr=plan.lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(adam, max_lr=plan.lr, total_steps=steps)
    best_share = -1.0
    best_state = None
    network.train()
    with torch.enable_grad(), torch.backends.cudnn.flags(enabled=True, deterministic=True):
        for step in range(steps):
            x, target = batches.at(step)
            if plan.flip:
                x = _flipped(x, flips)
            adam.zero_grad()
            network.loss(network(x), target).backward()
            adam.step()
            schedule.step()
            on_step(step + 1, steps)
            if validation is None or (step + 1) % batches.steps_per_epoch:
                continue
            share = accuracy(network, validation, device).mean().item()
            if share >= best_share:
                best_share = share
                best_state = {k: v.clone() for k, v in network.state_dict().items()}
    if best_state is not None:
        network.load_state_dict(best_state)
    return network.requires_grad_(False).eval()


def _flipped(x: Tensor, generator: torch.Generator) -> Tensor:
    """Images, each mirrored left to right with probability one half."""
    coins = torch.rand(len(x), 1, 1, 1, generator=generator)
    return torch.where((coins < 0.5).to(x.device), x.flip(-1), x)


@torch.no_grad()
def accuracy(network: DatasetClassifier, split: Split, device: torch.device | str = "cpu") -> Tensor:
    """The share of correct predictions for the images of a split, float64.

    Returns:
        Shape ``()``, or one share for each logit.
    """
    parts = []
    split = split.to(torch.device(device))
    with eval_mode(network):
        for start in range(0, len(split), CHUNK):
            x, target = network.pairs(split, slice(start, start + CHUNK))
            parts.append(network.correct(network(x), target))
    return torch.cat(parts).cpu().double().mean(0)


def trained_once(network: N, name: str, train: Callable[[N], N]) -> N:
    """A network from the user's cache, ``$PYRO_LRP_CACHE`` or ``~/.cache/pyro_lrp``; trained if missing.

    Args:
        network: Freshly initialised; it is loaded or trained in place.
        name: The name of the file; it contains everything that the trained weights depend on.
        train: Trains the network.
    """

    def read(path: Path) -> N:
        checkpoint.load_into(network, checkpoint.load(path), path)
        return network.requires_grad_(False).eval()

    return kept(
        "classifiers",
        f"{name}.safetensors",
        read,
        make=lambda: train(network),
        write=lambda path, trained: checkpoint.save(path, trained.state_dict()),
    )


def weights_sha256(network: nn.Module) -> str:
    """16 hexadecimal digits that depend on every parameter and buffer."""
    digest = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def fingerprint(data: ImageData) -> str:
    """16 hexadecimal digits that depend on every image, label and attribute of a data set."""
    splits = [data.train, data.test]
    if data.validation is not None:
        splits.append(data.validation)
    text = "".join(split.fingerprint() for split in splits)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
