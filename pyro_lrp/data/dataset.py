"""Image data sets as uint8 tensors.

Small data sets are kept and indexed on the device: no worker processes, no transfer in the training step.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from pyro_lrp.core.errors import UserError
from pyro_lrp.core.pixels import as_bytes
from pyro_lrp.data.batch import Batch, no_context
from pyro_lrp.data.parts import choose
from pyro_lrp.data.rows import pick, read

__all__ = ["ImageData", "Split", "at_once", "chunks"]

# Bytes. A larger split stays in host memory (or mapped into it), and only its batches move to the device; a GPU
# says itself how much it can hold.
_RESIDENT = 4 << 30
_AT_ONCE = 1000  # images that are read at once, since they may be mapped from a file

Rows = slice | Tensor


@dataclass(frozen=True)
class Split:
    """Images with their labels and other properties, row by row.

    Attributes:
        images: uint8, shape ``(N, C, H, W)``; may be mapped from a file, and some rows of a large array are
            :class:`~pyro_lrp.data.rows.ImageRows`. Floats in [0, 1] are rounded to 256 levels, as files hold
            them; other ranges are for :func:`pyro_lrp.data.from_arrays`.
        labels: Class labels, int64 of shape ``(N,)``, -1 for an image without one; None if no image has one.
        attributes: Binary attributes, bool of shape ``(N, A)``, or None.
        context: The context of each image, float32 of shape ``(N, context_dim)``; of length 0 by default.
        extras: Further properties by name, each a tensor of ``N`` rows, such as the ``joints`` of people.
        device: The device of batches, if it is not that of the images.

    Raises:
        UserError: If the images are no images, or the labels no whole numbers of the same length.
    """

    images: Any
    labels: Tensor | None = None
    attributes: Tensor | None = None
    context: Tensor = None  # type: ignore[assignment]
    extras: Mapping[str, Tensor] = field(default_factory=dict)
    device: torch.device | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "images", _as_uint8(self.images))
        _check_labels(self.labels, len(self.images))
        if self.context is None:
            object.__setattr__(self, "context", no_context(self.images))

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: Rows) -> Split:
        return self._map(lambda tensor: pick(tensor, index))

    def to(self, device: torch.device) -> Split:
        """Move the split to a device; if it is very large, only its batches will be moved there."""
        is_large = self.images.numel() > _room(device)
        if is_large and device.type != "cpu":
            return replace(self, device=device)
        moved = self._map(lambda tensor: tensor.to(device))
        return replace(moved, device=None)

    def batch(self, index: Rows) -> Batch:
        """The images at ``index`` in [0, 1], and their contexts, in torch's default dtype."""
        return self[index].sent()

    def gathered(self, index: Tensor) -> Split:
        """The images at ``index`` in host memory, pinned if their batches go to a GPU."""
        part = self[index]._map(read)
        if self.device is not None and self.device.type == "cuda":
            return part._map(Tensor.pin_memory)
        return part

    def sent(self) -> Batch:
        """All images as one batch, on the device of batches."""
        part = self._map(read)
        if self.device is not None:
            part = part._map(lambda tensor: tensor.to(self.device, non_blocking=True))
        dtype = torch.get_default_dtype()
        x = part.images.to(dtype).div_(255.0)
        return Batch(x, part.labels, part.context.to(dtype))

    def rows_on(self, device: torch.device) -> torch.device:
        """Where the numbers of rows belong, of batches on a device: beside the images."""
        if self.device is not None:
            return self.images.device
        return device

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
            images=torch.cat([*self.images.split(_AT_ONCE), *other.images.split(_AT_ONCE)]),
            labels=join(self.labels, other.labels),
            attributes=join(self.attributes, other.attributes),
            context=torch.cat([self.context, other.context]),
            extras=extras,
            device=self.device,
        )

    def labelled(self) -> Split:
        """The images that have a class label."""
        if self.labels is None:
            return self[:0]
        has_label = self.labels >= 0
        if bool(has_label.all()):
            return self
        return self[has_label.nonzero().flatten()]

    def fingerprint(self) -> str:
        """16 hexadecimal digits that depend on all images, labels, attributes and extras."""
        shape = tuple(self.images.shape)
        digest = hashlib.sha256(repr(shape).encode())
        for tensor in (self.images, self.labels, self.attributes, *self.extras.values()):
            if tensor is not None and len(tensor):
                for rows in tensor.split(_AT_ONCE):
                    array = rows.contiguous().cpu().numpy()
                    digest.update(array.data)
        return digest.hexdigest()[:16]

    def _map(self, change: Callable[[Any], Any]) -> Split:
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


def _room(device: torch.device) -> int:
    """The bytes of images that a device may hold: half of what is free on a GPU."""
    if device.type != "cuda":
        return _RESIDENT
    free, _ = torch.cuda.mem_get_info(device)
    return free // 2


def _as_uint8(images: Any) -> Any:
    """The images of a split, of which floats are rounded to bytes; the caller's tensor is never changed."""
    if images.dim() != 4:
        raise UserError(f"images must have the shape (N, C, H, W), got {tuple(images.shape)}")
    if images.dtype == torch.uint8:
        return images
    if not images.is_floating_point():
        raise UserError(f"images must be uint8, or floats in [0, 1], got {images.dtype}")
    if len(images) and not bool(((images >= 0) & (images <= 1)).all()):  # NaN is refused as well
        raise UserError(
            "images that are floats must lie in [0, 1], and these lie in "
            f"[{images.min().item():.3g}, {images.max().item():.3g}]: data.from_arrays converts other ranges"
        )
    return as_bytes(images)


def _check_labels(labels: Tensor | None, images: int) -> None:
    if labels is None:
        return
    is_whole = not labels.is_floating_point() and labels.dtype != torch.bool
    if not is_whole or labels.shape != (images,):
        raise UserError(
            f"labels must be whole numbers of shape ({images},), "
            f"got {labels.dtype} of shape {tuple(labels.shape)}: data.from_arrays converts other kinds"
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
        classes: Names of the classes; labels are their numbers in this order. By default the names are the
            numbers themselves, from 0 to the largest label.
        notes: What was done to the images, or passed over, that their owner may want to know; a sentence each.
    """

    name: str
    train: Split
    test: Split
    validation: Split | None = None
    attributes: tuple[str, ...] = ()
    truth: Any = None
    classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        largest = -1
        for split in self.splits:
            if split.labels is not None and len(split):
                largest = max(largest, int(split.labels.max()))
        if not self.classes:
            numbers = tuple(str(number) for number in range(largest + 1))
            object.__setattr__(self, "classes", numbers)
        if largest >= len(self.classes):
            raise UserError(f"labels must number the {len(self.classes)} classes from 0, and one is {largest}")

    @property
    def splits(self) -> list[Split]:
        """Training, test and, if there are any, validation images."""
        splits = [self.train, self.test]
        if self.validation is not None:
            splits.append(self.validation)
        return splits

    @property
    def image_shape(self) -> tuple[int, int, int]:
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width

    def limited(self, limit: int | None) -> ImageData:
        """The data set with only ``limit`` training images, chosen at random, with each class in proportion.

        The choice has a fixed seed, and a smaller one is part of each larger one.
        """
        if limit is None:
            return self
        count = len(self.train)
        if not 1 <= limit <= count:
            raise UserError(f"data.limit must be between 1 and {count}, got {limit}")
        if limit == count:
            return self
        rows = choose(limit, count, self.train.labels)
        return replace(self, train=self.train[rows])

    def noted(self, *notes: str) -> ImageData:
        """The data set with further notes."""
        return replace(self, notes=(*self.notes, *notes))

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

    def hold_out(self, share: float | None) -> tuple[Split, Split]:
        """Divide the training images into a training and a validation part, independently of a run's seed.

        A share of 0 holds nothing out: the second part is then the data set's own validation images, if any.
        None is 0 for a data set that has some, and a tenth for the others.
        """
        if share is None:
            share = self.usual_share
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

    def trained_on(self, share: float | None) -> int:
        """The number of training images that :meth:`hold_out` leaves to be trained on."""
        if share is None:
            share = self.usual_share
        return len(self.train) - round(share * len(self.train))

    @property
    def usual_share(self) -> float:
        """The share of the training images that is held out unless another is given."""
        if self.validation is None:
            return 0.1
        return 0.0


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
