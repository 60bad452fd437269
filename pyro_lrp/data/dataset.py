"""Image data sets as uint8 tensors, and batches of them in an order that is a function of seed and step.

Small data sets are kept and indexed on the device: no worker processes, no transfer in the training step.
"""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from pyro_lrp.core.errors import UserError
from pyro_lrp.core.randomness import derive_seed

__all__ = ["Batch", "Batches", "ImageData", "Split", "at_once", "chunks", "divide", "no_context"]

# Bytes. A larger split stays in host memory (or mapped into it), and only its batches move to the device.
_RESIDENT = 4 << 30

Rows = slice | Tensor


def no_context(like: Tensor) -> Tensor:
    """A context of length 0 for each row of a tensor, on its device, shape ``(N, 0)``."""
    return torch.zeros(len(like), 0, device=like.device)


@dataclass(frozen=True)
class Batch:
    """A minibatch of images.

    Attributes:
        x: Images in [0, 1], of torch's default dtype, shape ``(B, C, H, W)``.
        label: Class labels, shape ``(B,)``, or None.
        context: The context of each image, likewise, shape ``(B, context_dim)``; of length 0 by default.
    """

    x: Tensor
    label: Tensor | None = None
    context: Tensor = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if self.context is None:
            object.__setattr__(self, "context", no_context(self.x))


@dataclass(frozen=True)
class Split:
    """Images with their labels and other properties, row by row.

    Attributes:
        images: uint8, shape ``(N, C, H, W)``; may be mapped from a file.
        labels: Class labels, int64 of shape ``(N,)``, or None.
        attributes: Binary attributes, bool of shape ``(N, A)``, or None.
        context: The context of each image, float32 of shape ``(N, context_dim)``; of length 0 by default.
        extras: Further properties by name, each a tensor of ``N`` rows, such as the ``joints`` of people.
        device: The device of batches, if it is not that of the images.
    """

    images: Tensor
    labels: Tensor | None = None
    attributes: Tensor | None = None
    context: Tensor = None  # type: ignore[assignment]
    extras: Mapping[str, Tensor] = field(default_factory=dict)
    device: torch.device | None = None

    def __post_init__(self) -> None:
        if self.context is None:
            object.__setattr__(self, "context", no_context(self.images))

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: Rows) -> Split:
        def select(tensor: Tensor) -> Tensor:
            if isinstance(index, Tensor):
                return tensor[index.to(tensor.device)]
            return tensor[index]

        return self._map(select)

    def to(self, device: torch.device) -> Split:
        """Move the split to a device; if it is very large, only its batches will be moved there."""
        is_large = self.images.numel() > _RESIDENT
        if is_large and device.type != "cpu":
            return replace(self, device=device)
        moved = self._map(lambda tensor: tensor.to(device))
        return replace(moved, device=None)

    def batch(self, index: Rows) -> Batch:
        """The images at ``index`` in [0, 1], and their contexts, in torch's default dtype."""
        part = self[index]
        if self.device is not None:
            part = part._map(lambda tensor: tensor.to(self.device))
        dtype = torch.get_default_dtype()
        x = part.images.to(dtype).div_(255.0)
        return Batch(x, part.labels, part.context.to(dtype))

    def joined(self, other: Split) -> Split:
        """The images of this split, then those of another one with the same properties."""
        if not len(other):
            return self

        def join(tensor: Tensor | None, further: Tensor | None) -> Tensor | None:
            if tensor is None or further is None:
                return None
            return torch.cat([tensor, further])

        extras = {name: torch.cat([tensor, other.extras[name]]) for name, tensor in self.extras.items()}
        return Split(
            images=torch.cat([self.images, other.images]),
            labels=join(self.labels, other.labels),
            attributes=join(self.attributes, other.attributes),
            context=torch.cat([self.context, other.context]),
            extras=extras,
            device=self.device,
        )

    def fingerprint(self) -> str:
        """16 hexadecimal digits that depend on all images, labels, attributes and extras."""
        shape = tuple(self.images.shape)
        digest = hashlib.sha256(repr(shape).encode())
        for tensor in (self.images, self.labels, self.attributes, *self.extras.values()):
            if tensor is not None:
                array = tensor.contiguous().cpu().numpy()
                digest.update(array.data)
        return digest.hexdigest()[:16]

    def _map(self, change: Callable[[Tensor], Tensor]) -> Split:
        """The split with ``change`` applied to every tensor."""
        labels = self.labels
        if labels is not None:
            labels = change(labels)
        attributes = self.attributes
        if attributes is not None:
            attributes = change(attributes)
        return Split(
            images=change(self.images),
            labels=labels,
            attributes=attributes,
            context=change(self.context),
            extras={name: change(tensor) for name, tensor in self.extras.items()},
            device=self.device,
        )


@dataclass(frozen=True)
class ImageData:
    """A data set.

    Attributes:
        name: Recorded with every result.
        train: Training images.
        test: Test images, which are never used for training or model selection.
        validation: The data set's own validation images, if it has any.
        attributes: Names of the columns of the splits' attributes.
        truth: The generator of a synthetic data set (:class:`~pyro_lrp.people.GroundTruth`), or None.
    """

    name: str
    train: Split
    test: Split
    validation: Split | None = None
    attributes: tuple[str, ...] = ()
    truth: Any = None

    @property
    def image_shape(self) -> tuple[int, int, int]:
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width

    def limited(self, limit: int | None) -> ImageData:
        """The data set with only the first ``limit`` training images."""
        if limit is None:
            return self
        if not 1 <= limit <= len(self.train):
            raise UserError(f"data.limit must be between 1 and {len(self.train)}, got {limit}")
        return replace(self, train=self.train[:limit])

    def with_contexts(self, context: Callable[[Split], Tensor]) -> ImageData:
        """The data set with ``context(split)``, ``(N, context_dim)``, as the contexts of each split."""

        def add(split: Split) -> Split:
            return replace(split, context=context(split))

        validation = self.validation
        if validation is not None:
            validation = add(validation)
        return replace(
            self,
            train=add(self.train),
            test=add(self.test),
            validation=validation,
        )

    def hold_out(self, share: float) -> tuple[Split, Split]:
        """Divide the training images into a training and a validation part, independently of a run's seed.

        A share of 0 holds nothing out: the second part is then the data set's own validation images, if any.
        """
        if share == 0:
            if self.validation is None:
                return self.train, self.train[:0]
            return self.train, self.validation
        count = len(self.train)
        held = round(share * count)
        generator = torch.Generator().manual_seed(0)
        order = torch.randperm(count, generator=generator)
        kept_rows = order[held:].sort().values
        held_rows = order[:held].sort().values
        return self.train[kept_rows], self.train[held_rows]


def divide(split: Sequence[float], images: int) -> tuple[slice, slice | None, slice]:
    """Training, validation (or None) and test rows of images in order, one after another.

    Args:
        split: ``[train, test]`` or ``[train, validation, test]``: numbers of images, or shares of them.
        images: Number of images.

    Raises:
        UserError: If ``split`` has another form or exceeds the number of images.

    >>> divide([9000, 1000], 10_000)
    (slice(0, 9000, None), None, slice(9000, 10000, None))
    >>> divide([0.8, 0.1, 0.1], 100)
    (slice(0, 80, None), slice(80, 90, None), slice(90, 100, None))
    """
    counts = _split_counts(split, images)
    if counts is None:
        raise UserError(
            "data.split must be [TRAIN,TEST] or [TRAIN,VALIDATION,TEST], as numbers of images or as "
            f"shares, of the {images} images there are, got {split!r}"
        )
    rows = []
    start = 0
    for count in counts:
        rows.append(slice(start, start + count))
        start += count
    if len(rows) == 2:
        return rows[0], None, rows[1]
    return rows[0], rows[1], rows[2]


def _split_counts(split: Sequence[float], images: int) -> list[int] | None:
    """The number of images in each part, or None if ``split`` is invalid."""
    if not isinstance(split, (list, tuple)) or len(split) not in (2, 3):
        return None
    if not all(_is_positive_number(part) for part in split):
        return None
    counts = list(split)
    if all(part < 1 for part in split):
        counts = [round(share * images) for share in split]
    if any(int(count) != count or count < 1 for count in counts):
        return None
    if sum(counts) > images:
        return None
    return [int(count) for count in counts]


def _is_positive_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return value > 0


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
        self._order: dict[int, tuple[int, Tensor]] = {}  # stream -> epoch and its shuffle

    def __len__(self) -> int:
        return self.length

    @property
    def steps_per_epoch(self) -> int:
        return self.length // self.batch_size

    def at(self, step: int, stream: int = 0) -> Any:
        """Batch number ``step``, from 0; streams 1, 2, ... are independent minibatches of the same step."""
        epoch, position = divmod(step, self.steps_per_epoch)
        order = self._shuffle(stream, epoch)
        start = position * self.batch_size
        rows = order[start : start + self.batch_size]
        return self.fetch(self.source, rows)

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


def at_once(height: int, width: int) -> int:
    """The number of images per chunk outside training, such that the activations of networks fit in memory.

    >>> at_once(28, 28), at_once(64, 64), at_once(256, 256)
    (500, 500, 31)
    """
    by_area = 500 * 64 * 64 // (height * width)
    return max(1, min(500, by_area))


def chunks(split: Split, size: int | None = None) -> Iterator[Batch]:
    """All images of a split, in order; ``size`` of them at a time, :func:`at_once` by default."""
    if not size:
        height, width = split.images.shape[-2:]
        size = at_once(height, width)
    for start in range(0, len(split), size):
        yield split.batch(slice(start, start + size))
