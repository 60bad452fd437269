"""Codes in bulk: as many as time allows, in pieces that bound memory."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

import torch
from torch import Tensor

from pyro_lrp.testing.core import At

__all__ = ["SECONDS", "affordable", "draw", "scores"]

SECONDS = 3.0  # for all codes of a law
_PIECE = 4096


def affordable(work: Callable[[int], object], at_most: int, seconds: float = SECONDS) -> int:
    """How many codes ``work`` can be given in so many seconds, as far as some tries can tell.

    >>> affordable(lambda n: None, at_most=20_000)
    20000
    """
    size = 8
    while True:
        started = perf_counter()
        work(size)
        elapsed = max(perf_counter() - started, 1e-9)
        if elapsed > seconds / 8 or size >= min(at_most, _PIECE):
            return min(at_most, int(size * seconds / elapsed))
        size *= 8


def draw(at: At, count: int) -> Tensor:
    """Samples, shape ``(count, d)``."""
    prior = at()
    return torch.cat([prior.sample((min(_PIECE, count - done),)) for done in range(0, count, _PIECE)])


def scores(at: At, z: Tensor) -> Tensor:
    """Log density of codes ``(n, d)``."""
    prior = at()
    return torch.cat([prior.log_prob(piece) for piece in z.split(_PIECE)])
