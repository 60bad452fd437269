"""Minibatches in an order that is a function of seed and step; those from host memory are read ahead."""

from __future__ import annotations

import operator
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from pyro_lrp.core.errors import UserError
from pyro_lrp.core.randomness import derive_seed
from pyro_lrp.data.batch import Batch
from pyro_lrp.data.dataset import Split

__all__ = ["Batches", "Prefetched", "image_batches"]


class Batches:
    """An endless stream of batches: batch ``step`` of ``stream`` depends only on these two and the seed.

    Each epoch is a fresh shuffle without its last, partial batch. No state has to be saved to resume.

    Args:
        source: Anything that can be indexed by a tensor.
        batch_size: At most ``length``.
        seed: Seed of the shuffles.
        fetch: Maps ``source`` and an index tensor to a batch; ``source[index]`` by default.
        device: Device of the indices.
        length: Number of rows of the source; ``len(source)`` if None.
    """

    def __init__(
        self,
        source: Any,
        batch_size: int,
        *,
        seed: int = 0,
        fetch: Callable[[Any, Tensor], Any] | None = None,
        device: torch.device | str = "cpu",
        length: int | None = None,
    ) -> None:
        if length is None:
            length = len(source)
        if not 1 <= batch_size <= length:
            raise UserError(f"batch_size must be between 1 and the {length} images there are, got {batch_size}")
        self.length = length
        self.source = source
        self.batch_size = batch_size
        self.seed = seed
        self.device = device
        self.fetch = fetch or operator.getitem
        self.share = slice(None)  # the rows of each batch that this process takes, if several share it
        self._order: dict[int, tuple[int, Tensor]] = {}  # stream -> epoch and its shuffle

    def __len__(self) -> int:
        return self.length

    @property
    def steps_per_epoch(self) -> int:
        return self.length // self.batch_size

    def at(self, step: int, stream: int = 0) -> Any:
        """Batch number ``step``, from 0; streams 1, 2, ... are independent minibatches of the same step."""
        return self.fetch(self.source, self.rows(step, stream))

    def rows(self, step: int, stream: int = 0) -> Tensor:
        """The numbers of the rows of a batch."""
        epoch, position = divmod(step, self.steps_per_epoch)
        order = self._shuffle(stream, epoch)
        start = position * self.batch_size
        return order[start : start + self.batch_size][self.share]

    def joined(self, count: int) -> Any:
        """The first ``count`` batches as one, or all rows if there are fewer."""
        rows = self._shuffle(0, 0)[: count * self.batch_size]
        return self.fetch(self.source, rows)

    def _shuffle(self, stream: int, epoch: int) -> Tensor:
        """The order of the rows in an epoch, kept until the stream reaches another epoch."""
        kept = self._order.get(stream)
        if kept is not None and kept[0] == epoch:
            return kept[1]
        seed = derive_seed(self.seed, "order", stream, epoch)
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(self.length, generator=generator)
        order = order.to(self.device)
        self._order[stream] = (epoch, order)
        return order


class Prefetched(Batches):
    """The same stream of batches as :class:`Batches`, of which a thread reads the next one ahead.

    The thread gathers the rows, into pinned memory if they go to a GPU, so that the copy there does not keep
    the host waiting.

    Args:
        source: Images in host memory, or mapped into it, with the ``device`` of its batches.
        batch_size: At most the number of images.
        seed: Seed of the shuffles.

    >>> from pyro_lrp import data
    >>> split = data.digits().train
    >>> import dataclasses
    >>> elsewhere = dataclasses.replace(split, device=torch.device("cpu"))
    >>> ahead, plain = Prefetched(elsewhere, 10), Batches(split, 10, fetch=Split.batch)
    >>> all(torch.equal(ahead.at(step).x, plain.at(step).x) for step in range(3))
    True
    """

    def __init__(self, source: Split, batch_size: int, *, seed: int = 0) -> None:
        super().__init__(source, batch_size, seed=seed, fetch=Split.batch)
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="prefetch")
        self._coming: dict[int, tuple[int, Future[Split]]] = {}  # stream -> step and its rows

    def at(self, step: int, stream: int = 0) -> Batch:
        expected, coming = self._coming.pop(stream, (None, None))
        if coming is not None and expected == step:
            part = coming.result()
        else:
            part = self._read(step, stream)
        following = step + 1
        self._coming[stream] = (following, self._reader.submit(self._read, following, stream))
        return part.sent()

    def _read(self, step: int, stream: int) -> Split:
        return self.source.gathered(self.rows(step, stream))


def image_batches(split: Split, batch_size: int, *, seed: int, device: torch.device) -> Batches:
    """Minibatches of a split, which are read ahead if its images do not lie on the device."""
    if split.device is not None:
        return Prefetched(split, batch_size, seed=seed)
    return Batches(split, batch_size, seed=seed, fetch=Split.batch, device=device)
