"""The laws of a transform: a bijection of vectors, with the right log-determinant."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.distributions import Transform

from pyro_lrp.testing.core import BATCHES, EXACT, Law, as_it_was, assert_all, contained, gap, jiggle, slogdet
from pyro_lrp.testing.parameters import gradients, rescoring
from pyro_lrp.transforms import inverse_and_ladj

__all__ = ["check_transform", "transform_laws"]


def check_transform(transform: Transform, dim: int) -> None:
    """Check that ``transform`` is a bijection of vectors of length ``dim``, with the right log-determinant.

    Raises:
        AssertionError: Names the law that broke, and by how much.

    >>> from pyro_lrp.transforms import sigmoid_coupling
    >>> check_transform(sigmoid_coupling(4, [8]), dim=4)
    """
    assert_all(transform_laws(transform, dim))


def transform_laws(transform: Transform, dim: int) -> Iterator[Law]:
    """The laws of :func:`check_transform`, one by one."""
    modules = [part for part in (transform, transform.inv) if isinstance(part, nn.Module)]
    module = modules[0] if modules else nn.Module()
    with as_it_was(module):
        module.cpu().double()
        yield from contained(_laws(transform, module, dim))


def _laws(transform: Transform, module: nn.Module, dim: int) -> Iterator[Law]:
    def inverse(v: Tensor) -> Tensor:
        return inverse_and_ladj(transform, v)[0]

    jiggle(module)
    x = torch.randn(7, dim)
    y = transform(x)
    back, ladj = inverse_and_ladj(transform, y.clone())
    yield Law("round trip, base to latent to base", gap(back, x), EXACT)
    yield Law("round trip, latent to base to latent", gap(transform(back), y), EXACT)
    yield Law("inverse log-determinant against autograd", gap(ladj, slogdet(inverse, y)), EXACT)
    forward = transform.log_abs_det_jacobian(x, y)
    forward = forward.reshape(x.shape[0], -1).sum(-1) if forward.dim() else forward.expand(x.shape[0])
    yield Law("log-determinant against autograd", gap(forward, slogdet(transform, x)), EXACT)
    for batch in BATCHES:
        z = torch.randn(*batch, dim)
        z_0, ladj = inverse_and_ladj(transform, z)
        wrong = z_0.shape != z.shape or torch.broadcast_shapes(ladj.shape, batch) != batch
        yield Law(f"shapes for a batch of {batch}", float(wrong), 0.0)
    yield from gradients(
        module, lambda: torch.stack([part.sum() for part in inverse_and_ladj(transform, x)]).sum()
    )
    yield from rescoring(module, lambda: inverse_and_ladj(transform, y)[1], lambda: slogdet(inverse, y))
