"""The laws of a transform: a bijection of vectors, with the right log-determinant."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.distributions import Transform

from pyro_lrp.testing.core import (
    BATCHES,
    EXACT,
    Law,
    assert_all,
    contained,
    gap,
    jiggle,
    restored,
    slogdet,
)
from pyro_lrp.testing.parameters import gradients, rescoring
from pyro_lrp.transforms import inverse_and_ladj

__all__ = ["check_transform", "transform_laws"]


def check_transform(transform: Transform, dim: int) -> None:
    """Check that ``transform`` is a bijection of vectors of length ``dim``, with the right log-determinant.

    Raises:
        AssertionError: Names the first law that does not hold, with its figure and limit.

    >>> from pyro_lrp.transforms import sigmoid_coupling
    >>> check_transform(sigmoid_coupling(4, [8]), dim=4)
    """
    assert_all(transform_laws(transform, dim))


def transform_laws(transform: Transform, dim: int) -> Iterator[Law]:
    """The laws of :func:`check_transform`, one by one."""
    module = nn.Module()
    for part in (transform.inv, transform):
        if isinstance(part, nn.Module):
            module = part
    with restored(module):
        module.cpu().double()
        yield from contained(_laws(transform, module, dim))


def _laws(transform: Transform, module: nn.Module, dim: int) -> Iterator[Law]:
    def inverse(z: Tensor) -> Tensor:
        return inverse_and_ladj(transform, z)[0]

    def value() -> Tensor:
        parts = inverse_and_ladj(transform, x)
        return torch.stack([part.sum() for part in parts]).sum()

    jiggle(module)
    x = torch.randn(7, dim)
    y = transform(x)
    yield from _bijection(transform, x, y)
    yield Law(
        "inverse log-determinant against autograd",
        gap(inverse_and_ladj(transform, y.clone())[1], slogdet(inverse, y)),
        EXACT,
    )
    yield Law(
        "log-determinant against autograd",
        gap(_log_determinants(transform, x, y), slogdet(transform, x)),
        EXACT,
    )
    yield from _shapes(transform, dim)
    yield from gradients(module, value)
    yield from rescoring(
        module,
        lambda: inverse_and_ladj(transform, y)[1],
        lambda: slogdet(inverse, y),
    )


def _bijection(transform: Transform, x: Tensor, y: Tensor) -> Iterator[Law]:
    back, _ = inverse_and_ladj(transform, y.clone())
    there = transform(back)
    yield Law("round trip, base to latent to base", gap(back, x), EXACT)
    yield Law("round trip, latent to base to latent", gap(there, y), EXACT)


def _log_determinants(transform: Transform, x: Tensor, y: Tensor) -> Tensor:
    """``log_abs_det_jacobian`` with one value for each vector."""
    ladj = transform.log_abs_det_jacobian(x, y)
    if ladj.dim() == 0:
        return ladj.expand(len(x))
    return ladj.reshape(len(x), -1).sum(-1)


def _shapes(transform: Transform, dim: int) -> Iterator[Law]:
    for batch in BATCHES:
        z = torch.randn(*batch, dim)
        z_0, ladj = inverse_and_ladj(transform, z)
        wrong = z_0.shape != z.shape
        wrong |= torch.broadcast_shapes(ladj.shape, batch) != batch
        yield Law(f"shapes for a batch of {batch}", float(wrong), 0.0)
