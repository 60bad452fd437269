"""The subject of metrics: a trained model, its data set, and the image sets and features derived from them.

Image sets and features that several metrics share are derived here, under seeds of their own, so that a result
does not depend on what was computed before it.
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
from pyro_lrp.core.cache import kept
from pyro_lrp.core.pixels import as_files
from pyro_lrp.core.randomness import seeded, some_rows
from pyro_lrp.data import ImageData, Split, at_once, chunks
from pyro_lrp.latents.codes import finite_chunks, seeded_chunks
from pyro_lrp.metrics.functional.frechet import FeatureStatistics
from pyro_lrp.models import Autoencoder, Draw
from pyro_lrp.priors import Prior

__all__ = ["AS_FILES", "CHUNK", "DECODED", "Extractor", "Results", "Subject", "as_files", "no_progress"]

CHUNK = 500  # rows of features or codes at once: memory does not grow with their number
_KEPT = 2_000_000  # numbers of features that are kept for the next metric: 8 MB
SETS = ("test", "training", "reconstructions", "resampled", "samples")
AS_FILES = "clipped to [0, 1], rounded to uint8"  # for protocols
DECODED = f"decoder means, {AS_FILES}"
Results = dict[str, dict[str, Any]]  # by name: value, n, seed, protocol and further entries
Preparation = Callable[[Tensor], Tensor]  # of images, before a network sees them
T = TypeVar("T")


def no_progress(done: int, total: int) -> None:
    """Show nothing."""


@dataclass(frozen=True)
class Extractor:
    """A frozen network as metrics use it.

    Attributes:
        name: Its name in results.
        key: A text that differs for every network, weights included.
        features: Maps images in [0, 1], ``(B, C, H, W)``, to features ``(B, d)``.
        dim: The length ``d`` of the features.
        record: The entries of a protocol; the key ``surrogate``, if present, says why the network is one.
        logits: Maps features to logits ``(B, classes)``, if the network is a classifier.
    """

    name: str
    key: str
    features: Callable[[Tensor], Tensor]
    dim: int
    record: Mapping[str, Any]
    logits: Callable[[Tensor], Tensor] | None = None


@dataclass
class Subject:
    """A trained model that metrics evaluate.

    Args:
        autoencoder: The model, on ``device`` and in eval mode.
        data: The data set it was trained on.
        seen: The training images that it saw; all of ``data.train`` if None.
        weights: Files of pretrained networks, by name; None for the official download.
        seed: Seed of all noise.
        n: Samples, or images, of a metric; None for the metric's own number.
        k: Repetitions for each of them; None for the metric's own number.
        quick: Whether a metric's own numbers are the small ones, for minutes on two cores.
        device: The device to compute on.
        directory: The directory for tables of single images.
        on_step: Called with the steps done and all steps of the current pass.

    Attributes:
        non_finite: Number of prior samples that were left out of the last set.
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
        self.non_finite = 0
        self._memo: dict[tuple[Any, ...], Any] = {}

    # ----------------------------------------------------------------- facts

    @property
    def batch_size(self) -> int:
        """The number of images that are generated at once."""
        return at_once(*self.data.image_shape[1:])

    @property
    def prior(self) -> Prior:
        """The prior of the model."""
        return self.autoencoder.prior

    @property
    def code_of_each(self) -> str:
        """What the codes are that priors are compared with, for protocols."""
        return "a sample of q(z|x) each"

    @property
    def conditional(self) -> bool:
        """Whether the prior has a context."""
        return bool(self.autoencoder.prior.context_dim)

    @property
    def has_labels(self) -> bool:
        """Whether there are training and test images with class labels."""
        splits = (self.data.train, self.data.test)
        return all(len(split.labelled()) for split in splits)

    @property
    def has_attributes(self) -> bool:
        """Whether training and test images have binary attributes."""
        splits = (self.data.train, self.data.test)
        return all(split.attributes is not None for split in splits)

    @property
    def spaces(self) -> dict[str, str]:
        """The spaces of paths: from names in results to those of :class:`~pyro_lrp.latents.views.Space`."""
        if self.autoencoder.prior.has_base:
            return {"z0": "base", "zT": "latent"}
        return {"zT": "latent"}

    def count(self, full: int, quick: int | None = None) -> int:
        """The number of samples: ``n``, or else the metric's own number."""
        return self._number(self.n, full, quick)

    def repeats(self, full: int, quick: int | None = None) -> int:
        """The number of repetitions: ``k``, or else the metric's own number."""
        return self._number(self.k, full, quick)

    def _number(self, given: int | None, full: int, quick: int | None) -> int:
        if given is not None:
            return given
        if self.quick and quick is not None:
            return quick
        return full

    # ----------------------------------------------------------------- splits and steps

    @cached_property
    def train(self) -> Split:
        """The training images that the model saw."""
        if self.seen is None:
            return self.data.train
        return self.seen

    def some(self, split: Split, n: int, label: str) -> Split:
        """``n`` images of a split at random, or all in order if there are no more."""
        if n >= len(split):
            return split
        return split[some_rows(len(split), n, "evaluate", label, seed=self.seed)]

    def on_device(self, split: Split) -> Split:
        """The same split on the device of the model."""
        return split.to(torch.device(self.device))

    def memo(self, key: tuple[Any, ...], make: Callable[[], T]) -> T:
        """The result of ``make``, computed once for each key."""
        if key not in self._memo:
            self._memo[key] = make()
        return self._memo[key]

    def steps(self, items: Iterable[T], total: int, size: Callable[[T], int] = len) -> Iterator[T]:  # type: ignore[assignment]
        """The items, with progress reported after each."""
        on_batch = self.progress(total)
        for item in items:
            yield item
            on_batch(size(item))

    def progress(self, total: int) -> Callable[[int], None]:
        """A function that is called with the size of each batch and reports the progress."""
        done = 0

        def on_batch(size: int) -> None:
            nonlocal done
            done += size
            self.on_step(min(done, total), total)

        return on_batch

    # ----------------------------------------------------------------- images

    def images(self, of: str, n: int) -> Iterator[Tensor]:
        """Images in [0, 1] in chunks on the device, the same in every call.

        Args:
            of: The set. ``test``: at most ``n`` test images, at random if there are more. ``training``: as many
                of the training images. ``reconstructions``: these test images, encoded (a sample of q(z|x)) and
                decoded. ``resampled``: training images, encoded and decoded: the samples of a prior equal to
                q(z). ``samples``: samples of the prior; those that are not finite are left out and counted.
            n: How many images.
        """
        if of not in SETS:
            raise ValueError(f"expected one of {', '.join(SETS)}, got {of!r}")
        if of == "samples":
            for draw in self.samples(n):
                yield draw.images
            return
        if of in ("test", "reconstructions"):
            split = self.some(self.data.test, n, "test")
        else:
            split = self.some(self.train, n, of)
        for number, batch in enumerate(chunks(self.on_device(split))):
            if of in ("test", "training"):
                yield batch.x
                continue
            with seeded(self.seed, "evaluate", of, number):
                images = self.autoencoder.reconstruct(batch.x, batch.context)
            yield images

    def samples(self, n: int, label: str = "samples") -> Iterator[Draw]:
        """Prior samples in chunks, without those that are not finite.

        A conditional prior gets the contexts of test images; see :meth:`contexts`.

        Args:
            n: How many samples are drawn.
            label: The name of the random stream.

        Raises:
            UserError: If none is finite.
        """

        def draw(rows: slice) -> Draw:
            size = rows.stop - rows.start
            return self.autoencoder.draw(size, context=self.contexts(rows))

        self.non_finite = 0
        draws = seeded_chunks(draw, n, self.batch_size, self.seed, "evaluate", label)
        for chunk in finite_chunks(draws, n):
            self.non_finite += chunk.non_finite
            if len(chunk.images):
                yield chunk

    def contexts(self, rows: slice) -> Tensor:
        """The contexts of a range of samples for a conditional prior, else of length 0.

        Those of the test images in random order, each once before one comes again: the samples that are
        compared with test images are given what these show.
        """
        if not self.conditional:
            return torch.zeros(rows.stop - rows.start, 0, device=self.device)
        context = self.data.test.context

        def shuffle() -> Tensor:
            return some_rows(len(context), len(context), "evaluate", "contexts", seed=self.seed)

        order = self.memo(("contexts",), shuffle)
        places = torch.arange(rows.start, rows.stop) % len(order)
        return context[order[places]].to(self.device)

    @property
    def given(self) -> dict[str, Any]:
        """The entry of a protocol that says what the samples of a conditional prior were given."""
        if not self.conditional:
            return {}
        return {"contexts": "of the test images in random order, each once before one comes again"}

    # ----------------------------------------------------------------- features

    def size(self, of: str, n: int) -> int:
        """The number of images that :meth:`images` yields, if all samples are finite."""
        if of == "samples":
            return n
        if of in ("test", "reconstructions"):
            return min(n, len(self.data.test))
        return min(n, len(self.train))

    def features(
        self,
        extractor: Extractor,
        of: str,
        n: int,
        prepare: Preparation = as_files,
    ) -> Iterator[Tensor]:
        """Features of a set of images, in chunks on the CPU.

        Args:
            extractor: The network.
            of: The set, as in :meth:`images`.
            n: How many images.
            prepare: Applied to the images first.
        """
        images = self.steps(self.images(of, n), self.size(of, n))
        return (extractor.features(prepare(x)).cpu() for x in images)

    def rows(
        self,
        extractor: Extractor,
        of: str,
        n: int,
        prepare: Preparation = as_files,
    ) -> Tensor:
        """The features of :meth:`features` as one tensor ``(n, d)``, which is kept."""

        def compute() -> Tensor:
            with torch.no_grad():
                return torch.cat([*self.features(extractor, of, n, prepare)])

        return self.memo(("rows", extractor.key, of, n, prepare), compute)

    def statistics(
        self,
        extractor: Extractor,
        of: str,
        n: int,
        prepare: Preparation = as_files,
    ) -> FeatureStatistics:
        """Mean and covariance of the features of :meth:`features`; those of real images are cached on disk."""

        def compute() -> FeatureStatistics:
            if of not in ("test", "training"):
                return self._statistics(extractor, of, n, prepare)
            return kept(
                "statistics",
                self._reference(extractor, of, n, prepare),
                read=lambda path: FeatureStatistics.from_state(checkpoint.load(path)),
                make=lambda: self._statistics(extractor, of, n, prepare),
                write=lambda path, made: checkpoint.save(path, made.state()),
            )

        return self.memo(("statistics", extractor.key, of, n, prepare), compute)

    @torch.no_grad()
    def _statistics(self, extractor: Extractor, of: str, n: int, prepare: Preparation) -> FeatureStatistics:
        """The statistics from features that are kept, or else computed; few numbers are kept for later."""
        key = ("rows", extractor.key, of, n, prepare)
        if key in self._memo:
            return FeatureStatistics.of(self._memo[key].split(CHUNK))
        features = self.features(extractor, of, n, prepare)
        if self.size(of, n) * extractor.dim > _KEPT:
            return FeatureStatistics.of(features)
        parts = [*features]
        self._memo[key] = torch.cat(parts)
        return FeatureStatistics.of(parts)

    def _reference(self, extractor: Extractor, of: str, n: int, prepare: Preparation) -> str:
        """The name of the file of the statistics of real images, which depends on images and protocol."""
        split = self.train
        if of == "test":
            split = self.data.test
        chosen = f"{of}_{min(n, len(split))}"
        if n < len(split):
            chosen += f"_seed_{self.seed}"
        images = self.memo(("fingerprint", of), split.fingerprint)
        parts = (self.data.name, images, chosen, extractor.key, prepare.__name__)
        return f"{'_'.join(parts)}.safetensors"
