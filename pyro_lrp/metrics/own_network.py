"""Networks that metrics train on the data set itself: what they are, how they are trained and kept."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import torch
from torch import Tensor, nn

from pyro_lrp.core import checkpoint
from pyro_lrp.core.errors import UserError
from pyro_lrp.core.files import cache_dir
from pyro_lrp.core.modules import eval_mode
from pyro_lrp.core.randomness import derive_seed
from pyro_lrp.data import Batches, ImageData, Split
from pyro_lrp.metrics.subject import CHUNK, no_progress

__all__ = ["OwnNetwork", "Plan", "fingerprint", "fit", "share_right", "trained_once", "weights_sha256"]


class OwnNetwork(nn.Module):
    """A trunk that turns images into features, and a head that turns these into logits.

    A subclass sets both, and says what there is to be told of an image.

    Attributes:
        kind: Its name in files and seeds.
        accuracy: Share of the test images that it is right on, a buffer; shape ``()``, or one for each logit.
    """

    kind: ClassVar[str]
    trunk: nn.Module
    head: nn.Linear
    accuracy: Tensor

    def features(self, x: Tensor) -> Tensor:
        """Penultimate activations of images in [0, 1]: ``(B, C, H, W) -> (B, d)``."""
        return self.trunk(x)

    def forward(self, x: Tensor) -> Tensor:
        """Logits, ``(B, outputs)``."""
        return self.head(self.trunk(x))

    def target(self, split: Split) -> Tensor:
        """What is to be told of each image, a row for each."""
        raise NotImplementedError

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """What training descends."""
        raise NotImplementedError

    def right(self, logits: Tensor, target: Tensor) -> Tensor:
        """Whether each target is met, bool with a row for each image."""
        raise NotImplementedError

    def pairs(self, split: Split, index: slice | Tensor) -> tuple[Tensor, Tensor]:
        """Images and targets at ``index``."""
        part = split[index]
        x = part.batch(slice(None)).x
        return x, self.target(part).to(x.device)


N = TypeVar("N", bound=OwnNetwork)


@dataclass(frozen=True)
class Plan:
    """How a network is trained.

    Attributes:
        epochs: Passes over the training images.
        batch_size: At most as many as there are images.
        lr: Adam's largest learning rate; it rises and falls in one cycle.
        flip: Whether each image is mirrored left to right with probability one half.
    """

    epochs: int
    batch_size: int
    lr: float
    flip: bool = False


def fit(
    network: N, train: Split, plan: Plan, *, validation: Split | None = None, seed: int = 0,
    device: torch.device | str = "cpu", on_step: Callable[[int, int], None] = no_progress,
) -> N:  # fmt: skip
    """Train a network in place; it ends in eval mode, frozen.

    Args:
        network: Freshly initialised, on ``device``.
        train: Images to train on.
        plan: How.
        validation: Images to select the best epoch on, by the share it is right on; the last one if None.
        seed: Of data order and flips.
        device: Where to train.
        on_step: Called with the number of steps done and of all steps.
    """
    place = torch.device(device)
    batches = Batches(
        train.to(place), min(plan.batch_size, len(train)), seed=derive_seed(seed, network.kind),
        fetch=network.pairs, device=device,
    )  # fmt: skip
    coins = torch.Generator().manual_seed(derive_seed(seed, network.kind, "flips"))
    steps = batches.steps_per_epoch * plan.epochs
    adam = torch.optim.Adam(network.parameters(), lr=plan.lr)
    decay = torch.optim.lr_scheduler.OneCycleLR(adam, max_lr=plan.lr, total_steps=steps)
    most, best = -1.0, None
    network.train()
    with torch.enable_grad(), torch.backends.cudnn.flags(enabled=True, deterministic=True):
        for step in range(steps):
            x, target = batches.at(step)
            if plan.flip:
                heads = torch.rand(len(x), 1, 1, 1, generator=coins) < 0.5
                x = torch.where(heads.to(place), x.flip(-1), x)
            adam.zero_grad()
            network.loss(network(x), target).backward()
            adam.step()
            decay.step()
            on_step(step + 1, steps)
            if validation is not None and (step + 1) % batches.steps_per_epoch == 0:
                share = share_right(network, validation, device).mean().item()
                if share >= most:
                    most, best = share, {k: v.clone() for k, v in network.state_dict().items()}
    if best is not None:
        network.load_state_dict(best)
    return network.requires_grad_(False).eval()


@torch.no_grad()
def share_right(network: OwnNetwork, split: Split, device: torch.device | str = "cpu") -> Tensor:
    """Share of a split's images that a network is right on, float64; shape ``()``, or one for each logit."""
    parts = []
    split = split.to(torch.device(device))
    with eval_mode(network):
        for start in range(0, len(split), CHUNK):
            x, target = network.pairs(split, slice(start, start + CHUNK))
            parts.append(network.right(network(x), target))
    return torch.cat(parts).cpu().double().mean(0)


def trained_once(network: N, name: str, train: Callable[[N], N]) -> N:
    """A network from the user's cache, ``$PYRO_LRP_CACHE`` or ``~/.cache/pyro_lrp``; trained if it is missing.

    Args:
        network: Freshly initialised; it is loaded or trained in place.
        name: Of its file: all that decides what training gives.
        train: Trains it.
    """
    path = cache_dir("classifiers") / f"{name}.safetensors"
    with contextlib.suppress(UserError):  # missing, or damaged: then it is trained again
        checkpoint.load_into(network, checkpoint.load(path), path)
        return network.requires_grad_(False).eval()
    train(network)
    checkpoint.save(path, network.state_dict())
    return network


def weights_sha256(network: nn.Module) -> str:
    """16 hexadecimal digits that depend on every parameter and buffer."""
    digest = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def fingerprint(data: ImageData) -> str:
    """16 hexadecimal digits that depend on every image, label and attribute of a data set."""
    splits = [data.train, data.test] + ([] if data.validation is None else [data.validation])
    return hashlib.sha256("".join(split.fingerprint() for split in splits).encode()).hexdigest()[:16]
