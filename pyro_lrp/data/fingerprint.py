"""Which images a data set holds: digests of single images, and of a whole data set."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from pyro_lrp.data.dataset import ImageData, Split

__all__ = ["TrainedOn", "digests", "fingerprint"]

_CHUNK = 1000  # images that are read at once, since they may be mapped from a file


def digests(split: Split) -> np.ndarray:
    """A 64-bit digest of the pixels of each image, int64 of shape ``(N,)``."""
    numbers = []
    for images in split.images.split(_CHUNK):
        for pixels in images.contiguous().cpu().numpy():
            digest = hashlib.blake2b(pixels.data, digest_size=8).digest()
            numbers.append(int.from_bytes(digest, "little", signed=True))
    return np.array(numbers, dtype=np.int64)


def fingerprint(data: ImageData) -> str:
    """16 hexadecimal digits that depend on the images, labels and further properties of every split, in order.

    They do not depend on the place or the names of the files, or on contexts, which follow from the rest.

    >>> from pyro_lrp.data import digits
    >>> fingerprint(digits()) == fingerprint(digits())
    True
    """
    header = repr((data.image_shape, data.classes, data.attributes))
    digest = hashlib.sha256(header.encode())
    for split in (data.train, data.validation, data.test):
        part = "none" if split is None else split.fingerprint()
        digest.update(part.encode())
    return digest.hexdigest()[:16]


@dataclass(frozen=True)
class TrainedOn:
    """The images that a run was trained on, by the digests of their pixels.

    Attributes:
        seen: Images that were trained on, int64 of shape ``(N,)``.
        held_out: Images that were held out of the training images, and may have ended a phase; likewise.
    """

    seen: np.ndarray
    held_out: np.ndarray

    @classmethod
    def of(cls, seen: Split, held_out: Split) -> TrainedOn:
        """The record of two splits."""
        return cls(digests(seen), digests(held_out))

    def select(self, data: ImageData) -> Split:
        """The training images of a data set that were trained on."""
        return data.train[_among(data.train, self.seen)]

    def divide(self, data: ImageData) -> ImageData:
        """The data set with all its images that were trained on, or held out, as training images.

        The test images are those of the data set that were neither.
        """
        known = np.concatenate([self.seen, self.held_out])
        train = data.train[_among(data.train, known)]
        for split in (data.validation, data.test):
            if split is not None:
                train = train.joined(split[_among(split, known)])
        test = data.test[~_among(data.test, known)]
        return replace(data, train=train, validation=None, test=test)


def _among(split: Split, known: np.ndarray) -> Tensor:
    """Whether the digest of each image is among the known ones, bool of shape ``(N,)``."""
    return torch.from_numpy(np.isin(digests(split), known))
