"""Image data sets as uint8 tensors, and batches of them in an order that is a function of seed and step.

Small sets live on the device and are indexed there: no worker processes, no transfer in the step.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from pyro_lrp.core.errors import UserError
from pyro_lrp.core.randomness import derive_seed

__all__ = ["Batch", "Batches", "ImageData", "Split", "at_once", "chunks", "divide", "no_context"]

_RESIDENT = 4 << 30  # bytes: a larger split stays in (or mapped into) host memory, and its batches travel


def no_context(like: Tensor) -> Tensor:
    """A context of length 0 for each row of a tensor, on its device, shape ``(N, 0)``."""
    return torch.zeros(len(like), 0, device=like.device)


@dataclass(frozen=True)
class Batch:
    """A minibatch of images.

    Attributes:
        x: Images in [0, 1], float32, shape ``(B, C, H, W)``.
        label: Class labels, shape ``(B,)``, or None.
        context: The context of each image, float32 of shape ``(B, context_dim)``; of length 0 if not given.
    """

    x: Tensor
    label: Tensor | None = None
    context: Tensor = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if self.context is None:
            object.__setattr__(self, "context", no_context(self.x))


@dataclass(frozen=True)
class Split:
    """Images and what is known of each, row by row.

    Attributes:
        images: uint8, shape ``(N, C, H, W)``; may be mapped from a file.
        labels: Class labels, int64 of shape ``(N,)``, or None.
        attributes: Binary attributes, bool of shape ``(N, A)``, or None.
        context: The context of each image, float32 of shape ``(N, context_dim)``; of length 0 if not given.
        extras: Further facts by name, each a tensor of ``N`` rows, such as the ``joints`` of people.
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

    def __getitem__(self, index: slice | Tensor) -> Split:
        def rows(tensor: Tensor) -> Tensor:
            return tensor[index.to(tensor.device) if isinstance(index, Tensor) else index]

        return self._with(rows)

    def to(self, device: torch.device) -> Split:
        """The same split on a device, or, if it is very large, one whose batches are made there."""
        if device.type != "cpu" and self.images.numel() > _RESIDENT:
            return replace(self, device=device)
        return replace(self._with(lambda tensor: tensor.to(device)), device=None)

    def batch(self, index: slice | Tensor) -> Batch:
        """The images at ``index`` as floats in [0, 1]."""
        part = self[index] if self.device is None else self[index]._with(lambda t: t.to(self.device))
        return Batch(part.images.float().div_(255.0), part.labels, part.context)

    def fingerprint(self) -> str:
        """16 hexadecimal digits that depend on every image, label, attribute and further fact."""
        digest = hashlib.sha256(repr(tuple(self.images.shape)).encode())
        for tensor in (self.images, self.labels, self.attributes, *self.extras.values()):
            if tensor is not None:
                digest.update(tensor.contiguous().cpu().numpy().data)
        return digest.hexdigest()[:16]

    def _with(self, change: Callable[[Tensor], Tensor]) -> Split:
        """The split with every tensor changed alike."""
        labels = change(self.labels) if self.labels is not None else None
        attributes = change(self.attributes) if self.attributes is not None else None
        extras = {name: change(tensor) for name, tensor in self.extras.items()}
        return Split(change(self.images), labels, attributes, change(self.context), extras, self.device)


@dataclass(frozen=True)
class ImageData:
    """A data set.

    Attributes:
        name: Stands with every result.
        train: Training images.
        test: Test images, which are never trained or selected on.
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
        """Only the first ``limit`` training images."""
        if limit is None:
            return self
        if not 1 <= limit <= len(self.train):
            raise UserError(f"data.limit must be between 1 and {len(self.train)}, got {limit}")
        return replace(self, train=self.train[:limit])

    def with_contexts(self, context: Callable[[Split], Tensor]) -> ImageData:
        """The data set with ``context(split)``, ``(N, context_dim)``, as the contexts of each split."""

        def add(split: Split) -> Split:
            return replace(split, context=context(split))

        validation = None if self.validation is None else add(self.validation)
        return replace(self, train=add(self.train), test=add(self.test), validation=validation)

    def hold_out(self, share: float) -> tuple[Split, Split]:
        """The training images without, and the, validation share: fixed, whatever the seed of a run.

        A share of 0 holds nothing out: the data set's own validation images, if any, are the second split.
        """
        if share == 0:
            return self.train, self.train[:0] if self.validation is None else self.validation
        held = round(share * len(self.train))
        order = torch.randperm(len(self.train), generator=torch.Generator().manual_seed(0))
        return self.train[order[held:].sort().values], self.train[order[:held].sort().values]


def divide(split: Sequence[float], images: int) -> tuple[slice, slice | None, slice]:
    """Training, validation (or None) and test rows of images in order, one after another.

    Args:
        split: ``[train, test]`` or ``[train, validation, test]``: numbers of images, or shares of them.
        images: How many there are.

    Raises:
        UserError: If that cannot be.

    >>> divide([9000, 1000], 10_000)
    (slice(0, 9000, None), None, slice(9000, 10000, None))
    >>> divide([0.8, 0.1, 0.1], 100)
    (slice(0, 80, None), slice(80, 90, None), slice(90, 100, None))
    """
    wrong = UserError(
        f"data.split must be [TRAIN,TEST] or [TRAIN,VALIDATION,TEST], as numbers of images or as shares, "
        f"of the "
        f"{images} images there are, got {split!r}"
    )
    numbers = isinstance(split, (list, tuple)) and all(
        isinstance(part, (int, float)) and not isinstance(part, bool) and part > 0 for part in split
    )
    if not numbers or len(split) not in (2, 3):
        raise wrong
    shares = all(part < 1 for part in split)
    counts = [round(part * images) if shares else part for part in split]
    if any(int(count) != count or count < 1 for count in counts) or sum(counts) > images:
        raise wrong
    stops = [int(sum(counts[: i + 1])) for i in range(len(counts))]
    rows = [slice(start, stop) for start, stop in zip([0, *stops], stops, strict=False)]
    return rows[0], rows[1] if len(rows) == 3 else None, rows[-1]


class Batches:
    """An endless stream of batches: batch ``step`` of ``stream`` depends only on those two and the seed.

    Each epoch is a fresh shuffle without its last, partial batch. Nothing has to be saved to resume.

    Args:
        source: Anything indexable by a tensor.
        batch_size: At most ``length``.
        seed: Of the shuffles.
        fetch: Makes a batch out of ``source`` and an index tensor; ``source[index]`` by default.
        device: Where the indices live.
        length: How many rows the source has; ``len(source)`` if None.
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
        self.length = len(source) if length is None else length
        if not 1 <= batch_size <= self.length:
            raise UserError(
                f"batch_size must be between 1 and the {self.length} images there are, got {batch_size}"
            )
        self.source, self.batch_size, self.seed, self.device = source, batch_size, seed, device
        self.fetch = fetch or (lambda source, index: source[index])
        self._order: dict[int, tuple[int, Tensor]] = {}

    def __len__(self) -> int:
        return self.length

    @property
    def steps_per_epoch(self) -> int:
        return self.length // self.batch_size

    def at(self, step: int, stream: int = 0) -> Any:
        """Batch number ``step``, from 0; ``stream`` 1, 2, ... are independent minibatches of the same step."""
        epoch, position = divmod(step, self.steps_per_epoch)
        if self._order.get(stream, (-1,))[0] != epoch:
            generator = torch.Generator().manual_seed(derive_seed(self.seed, "order", stream, epoch))
            order = torch.randperm(self.length, generator=generator).to(self.device)
            self._order[stream] = (epoch, order)
        start = position * self.batch_size
        return self.fetch(self.source, self._order[stream][1][start : start + self.batch_size])


def at_once(height: int, width: int) -> int:
    """How many images networks are given at once outside training, so that their activations fit in memory.

    >>> at_once(28, 28), at_once(64, 64), at_once(256, 256)
    (500, 500, 31)
    """
    return max(1, min(500, 500 * 64 * 64 // (height * width)))


def chunks(split: Split, size: int | None = None) -> Iterator[Batch]:
    """All images of a split, in order; ``size`` of them at a time, :func:`at_once` by default."""
    size = size or at_once(*split.images.shape[-2:])
    for start in range(0, len(split), size):
        yield split.batch(slice(start, start + size))
