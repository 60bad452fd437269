"""Draws and scores of many codes, in batches that bound memory."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_lrp.priors import Prior
from pyro_lrp.testing.core import At

__all__ = ["bases", "draw", "number_of_draws", "number_of_scores", "scores"]

_CODES = 20_000
# a sample of a numerical prior solves an equation, and a score also integrates a trace
_NUMERICAL_DRAWS = 8_000
_NUMERICAL_SCORES = 2_000
# a prior that computes with a module it is bound to, such as a decoder, runs it for every code
_BOUND_CODES = 300
_BATCH_SIZE = 4096


def number_of_draws(prior: Prior) -> int:
    """Number of codes that the laws draw; it depends only on the kind of prior.

    >>> from pyro_lrp.priors import FlowMatching, StandardNormal
    >>> number_of_draws(StandardNormal(2)), number_of_draws(FlowMatching(2, width=8))
    (20000, 8000)
    """
    if prior.bound is not None:
        return _BOUND_CODES
    if prior.tolerance > 0.0:
        return _NUMERICAL_DRAWS
    return _CODES


def number_of_scores(prior: Prior) -> int:
    """Number of codes that importance sampling scores, likewise."""
    if prior.bound is not None:
        return _BOUND_CODES
    if prior.tolerance > 0.0:
        return _NUMERICAL_SCORES
    return _CODES


def draw(at: At, count: int) -> Tensor:
    """Samples, shape ``(count, d)``."""
    distribution = at()
    batches = []
    for start in range(0, count, _BATCH_SIZE):
        size = min(_BATCH_SIZE, count - start)
        batches.append(distribution.sample((size,)))
    return torch.cat(batches)


def scores(at: At, z: Tensor) -> Tensor:
    """Log density of codes ``(n, d)``."""
    distribution = at()
    batches = [distribution.log_prob(batch) for batch in z.split(_BATCH_SIZE)]
    return torch.cat(batches)


def bases(at: At, z: Tensor) -> Tensor:
    """Codes ``(n, d)`` mapped to the base."""
    batches = [at.to_base(batch) for batch in z.split(_BATCH_SIZE)]
    return torch.cat(batches)
