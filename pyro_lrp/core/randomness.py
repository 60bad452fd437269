"""Random seeds derived from names, so that random streams are independent of one another."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

__all__ = ["derive_seed", "numpy_seed", "seeded", "some_rows", "untouched_generators"]


def derive_seed(seed: int, *labels: str | int) -> int:
    """A 63-bit seed that depends on ``seed`` and on every label.

    >>> derive_seed(0, "noise", 3) == derive_seed(0, "noise", 3) != derive_seed(0, "order", 3)
    True
    """
    text = "/".join(str(part) for part in (seed, *labels))
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def some_rows(length: int, n: int, *labels: str | int, seed: int = 0) -> Tensor:
    """The numbers of ``n`` of ``length`` rows at random, or of all, in random order and always the same.

    The first rows of a data set are often of one class, or of one day.

    >>> some_rows(5, 9).sort().values.tolist()
    [0, 1, 2, 3, 4]
    >>> some_rows(1000, 3).tolist() == some_rows(1000, 3).tolist() != [0, 1, 2]
    True
    """
    generator = torch.Generator().manual_seed(derive_seed(seed, *labels))
    return torch.randperm(length, generator=generator)[:n]


def numpy_seed(seed: int) -> int:
    """A seed for NumPy and scikit-learn, which take 32 bits: a smaller one as it is, a larger one derived.

    >>> numpy_seed(7), numpy_seed(2**40) < 2**32
    (7, True)
    """
    if seed < 2**32:
        return seed
    return derive_seed(seed, "numpy") % 2**32


@contextmanager
def seeded(seed: int, *labels: str | int) -> Iterator[None]:
    """Within the block, torch is seeded with ``derive_seed(seed, *labels)``; then its state is restored.

    >>> with seeded(0, "doc"):
    ...     a = torch.rand(2)
    >>> with seeded(0, "doc"):
    ...     b = torch.rand(2)
    >>> bool((a == b).all())
    True
    """
    with untouched_generators():
        number = derive_seed(seed, *labels)
        if torch.accelerator.is_available():
            torch.manual_seed(number)
        else:  # which would format a stack trace for each kind of device that is not there
            torch.default_generator.manual_seed(number)
        yield


@contextmanager
def untouched_generators() -> Iterator[None]:
    """Restore torch's global generators (CPU and current GPU) when the block ends."""
    devices = []
    if torch.cuda.is_available():
        devices = [torch.cuda.current_device()]
    with torch.random.fork_rng(devices=devices):
        yield
