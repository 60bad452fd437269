"""Whom metrics judge: a trained model, its data set and the circumstances; its image sets and their features.

A metric is a function of a :class:`Subject`. What several metrics need (prior samples, reconstructions, their
features) is made here, from seeds of its own, so that a result does not depend on what was computed before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from pyro_lrp.core import checkpoint
from pyro_lrp.core.errors import UserError
from pyro_lrp.core.files import cache_dir
from pyro_lrp.core.randomness import derive_seed, seeded
from pyro_lrp.data import ImageData, Split, at_once, chunks
from pyro_lrp.metrics.frechet import FeatureStatistics
from pyro_lrp.models import Autoencoder

__all__ = ["CHUNK", "Extractor", "Results", "Subject", "as_files", "no_progress"]

CHUNK = 500  # rows of features or codes at once: memory does not grow with their number
SETS = ("test", "training", "reconstructions", "resampled", "samples")
Results = dict[str, dict[str, Any]]  # by name: value, n, seed, protocol, and what else is worth keeping
T = TypeVar("T")


def no_progress(done: int, total: int) -> None:
    """Show nothing."""


def as_files(images: Tensor) -> Tensor:
    """Clipped to [0, 1] and rounded to uint8: what a file of the images would hold, as floats."""
    return (images.clamp(0, 1) * 255).round() / 255


@dataclass(frozen=True)
class Extractor:
    """A frozen network as metrics see it.

    Attributes:
        name: What results call it.
        key: Tells it from every other, weights included.
        features: Images in [0, 1], ``(B, C, H, W)``, to features ``(B, d)``.
        dim: ``d``.
        record: Its part of a protocol; the key ``surrogate``, if there, says why it is one.
        logits: Features to logits ``(B, classes)``, if it classifies.
    """

    name: str
    key: str
    features: Callable[[Tensor], Tensor]
    dim: int
    record: Mapping[str, Any]
    logits: Callable[[Tensor], Tensor] | None = None


@dataclass
class Subject:
    """A trained model under judgement.

    Args:
        autoencoder: On ``device``, in eval mode.
        data: The data set it was trained on.
        seen: The training images that it saw; all of ``data.train`` if None.
        weights: Files of pretrained networks, by name; None for the official download.
        seed: Of all noise.
        n: Samples, or images, of a metric; None for its own number.
        k: What a metric repeats for each of them; None for its own number.
        quick: Whether a metric's own numbers are the small ones, for minutes on two cores.
        device: Where to compute.
        directory: Where tables of single images are written.
        on_step: Called with the steps done and all steps of what is going on.
    """

    autoencoder: Autoencoder
    data: ImageData
    seen: Split | None = None
    weights: Mapping[str, str | Path | None] = field(default_factory=dict)
    seed: int = 0
    n: int | None = None
    k: int | None = None
    quick: bool = False
    device: torch.device | str = "cpu"
    directory: Path | None = None
    on_step: Callable[[int, int], None] = no_progress

    def __post_init__(self) -> None:
        self.device = torch.device(self.device)
        self.non_finite = 0  # prior samples that were left out so far, of the set asked for last
        self._memo: dict[tuple[Any, ...], Any] = {}

    @property
    def at_once(self) -> int:
        """How many images are made at once."""
        return at_once(*self.data.image_shape[1:])

    # ----------------------------------------------------------------- numbers and splits

    def count(self, full: int, quick: int | None = None) -> int:
        """How many samples: what was asked for, or the metric's own number."""
        own = full if quick is None or not self.quick else quick
        return own if self.n is None else self.n

    def repeats(self, full: int, quick: int | None = None) -> int:
        """The same for ``k``."""
        own = full if quick is None or not self.quick else quick
        return own if self.k is None else self.k

    @cached_property
    def train(self) -> Split:
        """Training images that the model saw."""
        return self.data.train if self.seen is None else self.seen

    def some(self, split: Split, n: int, label: str) -> Split:
        """``n`` images of a split at random, or all in order if there are no more."""
        if n >= len(split):
            return split
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "evaluate", label))
        return split[torch.randperm(len(split), generator=generator)[:n]]

    def memo(self, key: tuple[Any, ...], make: Callable[[], T]) -> T:
        """What ``make`` returns, made once."""
        if key not in self._memo:
            self._memo[key] = make()
        return self._memo[key]

    def steps(self, items: Iterable[T], total: int, size: Callable[[T], int] = len) -> Iterator[T]:  # type: ignore[assignment]
        """The items, with progress reported after each."""
        done = 0
        for item in items:
            yield item
            done += size(item)
            self.on_step(min(done, total), total)

    # ----------------------------------------------------------------- images

    def images(self, of: str, n: int) -> Iterator[Tensor]:
        """Images in [0, 1] in chunks on the device, the same whenever they are asked for.

        Args:
            of: ``test``: at most ``n`` test images, at random if there are more. ``training``: so many of the
                training images. ``reconstructions``: these test images, encoded (a sample of q(z|x)) and
                decoded. ``resampled``: training images likewise: what a prior equal to q(z) would give.
                ``samples``: of the prior; those that are not finite are left out and counted.
            n: How many.
        """
        if of not in SETS:
            raise ValueError(f"expected one of {', '.join(SETS)}, got {of!r}")
        if of == "samples":
            yield from (draw for draw, _ in self.samples(n))
            return
        split = self.some(self.data.test, n, "test") if of in ("test", "reconstructions") else None
        split = self.some(self.train, n, of) if split is None else split
        for number, batch in enumerate(chunks(split.to(torch.device(self.device)))):
            if of in ("test", "training"):
                yield batch.x
                continue
            with seeded(self.seed, "evaluate", of, number):
                images = self.autoencoder.reconstruct(batch.x, batch.context)
            yield images

    def samples(self, n: int, label: str = "samples") -> Iterator[tuple[Tensor, Tensor]]:
        """Prior samples in chunks: mean images and codes.

        A conditional prior is given the contexts of randomly chosen training images.

        Raises:
            UserError: If none is finite.
        """
        self.non_finite = found = 0
        for start in range(0, n, self.at_once):
            size = min(self.at_once, n - start)
            with seeded(self.seed, "evaluate", label, start):
                draw = self.autoencoder.draw(size, context=self.contexts(size))
            self.non_finite += draw.non_finite
            found += len(draw.images)
            if len(draw.images):
                yield draw.images, draw.latents
        if not found:
            raise UserError(f"none of {n} prior samples is finite: there is nothing to judge")

    def contexts(self, n: int) -> Tensor:
        """Contexts of ``n`` randomly chosen training images, for a conditional prior; else of length 0."""
        if not self.autoencoder.prior.context_dim:
            return torch.zeros(n, 0, device=self.device)
        return self.train.context[torch.randint(len(self.train), (n,))].to(self.device)

    # ----------------------------------------------------------------- features

    def size(self, of: str, n: int) -> int:
        """How many images :meth:`images` gives, but for samples that are not finite."""
        limits = {"samples": n, "test": len(self.data.test), "reconstructions": len(self.data.test)}
        return min(n, limits.get(of, len(self.train)))

    def features(
        self, extractor: Extractor, of: str, n: int, prepare: Callable[[Tensor], Tensor] = as_files
    ) -> Iterator[Tensor]:
        """Features of a set of images, in chunks on the CPU."""
        images = self.steps(self.images(of, n), self.size(of, n))
        return (extractor.features(prepare(x)).cpu() for x in images)

    def rows(
        self, extractor: Extractor, of: str, n: int, prepare: Callable[[Tensor], Tensor] = as_files
    ) -> Tensor:
        """The same as one tensor ``(n, d)``, which is kept."""
        key = ("rows", extractor.key, of, n, prepare)
        with torch.no_grad():
            return self.memo(key, lambda: torch.cat([*self.features(extractor, of, n, prepare)]))

    def statistics(
        self, extractor: Extractor, of: str, n: int, prepare: Callable[[Tensor], Tensor] = as_files
    ) -> FeatureStatistics:
        """Mean and covariance of these features; those of real images are cached on disk."""
        return self.memo(
            ("statistics", extractor.key, of, n, prepare), lambda: self._statistics(extractor, of, n, prepare)
        )

    def _statistics(
        self, extractor: Extractor, of: str, n: int, prepare: Callable[[Tensor], Tensor]
    ) -> FeatureStatistics:
        path = self._reference(extractor, of, n, prepare) if of in ("test", "training") else None
        if path is not None and path.is_file():
            try:
                return FeatureStatistics.from_state(checkpoint.load(path))
            except UserError:  # damaged: then it is made again
                pass
        kept = self._memo.get(("rows", extractor.key, of, n, prepare))
        parts = self.features(extractor, of, n, prepare) if kept is None else kept.split(CHUNK)
        with torch.no_grad():
            statistics = FeatureStatistics.of(parts)
        if path is not None:
            checkpoint.save(path, statistics.state())
        return statistics

    def _reference(
        self, extractor: Extractor, of: str, n: int, prepare: Callable[[Tensor], Tensor]
    ) -> Path | None:
        """The file of a reference; its name carries the images and the protocol."""
        split = self.data.test if of == "test" else self.train
        chosen = f"{of}_{min(n, len(split))}" + (f"_seed_{self.seed}" if n < len(split) else "")
        print_ = self.memo(("fingerprint", of), split.fingerprint)
        name = f"{self.data.name}_{print_}_{chosen}_{extractor.key}_{prepare.__name__}.safetensors"
        return cache_dir("statistics") / name
