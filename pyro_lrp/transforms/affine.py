"""Scale and shift of each dimension, as Pyro transforms, with a context or without."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pyro.distributions.conditional import ConditionalTransformModule
from torch import Tensor, nn

from pyro_lrp.networks.mlp import perceptron
from pyro_lrp.transforms.core import VectorTransform, check_dim

__all__ = [
    "ConditionalElementwiseAffine",
    "ElementwiseAffine",
    "conditional_elementwise_affine",
    "elementwise_affine",
]


class _Affine(VectorTransform):
    """Scale and shift of each dimension: latent to base, ``exp(log_scale) * z + shift``."""

    def _log_scale_and_shift(self) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    def _call(self, x: Tensor) -> Tensor:
        log_scale, shift = self._log_scale_and_shift()
        return (x - shift) * torch.exp(-log_scale)

    def inverse_and_ladj(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Latent to base with its log-determinant: ``(*, dim) -> (*, dim), (*)``."""
        log_scale, shift = self._log_scale_and_shift()
        x = y * torch.exp(log_scale) + shift
        ladj = log_scale.sum(-1)
        return x, ladj.expand(x.shape[:-1])

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        log_scale, _ = self._log_scale_and_shift()
        batch = torch.broadcast_shapes(x.shape, log_scale.shape)[:-1]
        return -log_scale.sum(-1).expand(batch)


class ElementwiseAffine(_Affine):
    r"""Learnable scale and shift: latent to base, :math:`z' = e^{s} \odot z + b` (A.1, step 1, "actnorm").

    It starts at the identity and has no data-dependent initialization. The scale is stored as its logarithm, so
    the map stays invertible. Couplings only contract, so only this transform can expand codes towards the base.

    Args:
        log_scale: :math:`s`, shape ``(dim,)``.
        shift: :math:`b`, of the same shape.
    """

    def __init__(self, log_scale: Tensor, shift: Tensor) -> None:
        super().__init__()
        self.log_scale = log_scale
        self.shift = shift

    def _log_scale_and_shift(self) -> tuple[Tensor, Tensor]:
        return self.log_scale, self.shift


class _AffineAtContext(_Affine):
    """Scale and shift at a context. Each call asks the network, whose parameters may have changed."""

    def __init__(self, network: nn.Module, context: Tensor) -> None:
        super().__init__()
        self.network = network
        self.context = context

    def _log_scale_and_shift(self) -> tuple[Tensor, Tensor]:
        log_scale, shift = self.network(self.context).chunk(2, dim=-1)
        return log_scale, shift


class ConditionalElementwiseAffine(ConditionalTransformModule):
    """An :class:`ElementwiseAffine` whose log-scale and shift are functions of a context.

    Args:
        network: Maps ``(*, context_dim)`` to ``(*, 2 * dim)``: the log-scale, then the shift.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def condition(self, context: Tensor) -> VectorTransform:
        """The affine at ``context``, shape ``(*batch, context_dim)``, which broadcasts against the codes."""
        return _AffineAtContext(self.network, context)


def elementwise_affine(dim: int) -> ElementwiseAffine:
    """A learnable :class:`ElementwiseAffine` that starts at the identity."""
    check_dim(dim)
    log_scale = nn.Parameter(torch.zeros(dim))
    shift = nn.Parameter(torch.zeros(dim))
    return ElementwiseAffine(log_scale, shift)


def conditional_elementwise_affine(
    dim: int,
    context_dim: int,
    hidden_dims: Sequence[int] = (),
) -> ConditionalElementwiseAffine:
    """The conditional form of :func:`elementwise_affine`; it starts at the identity for every context."""
    check_dim(dim)
    network = perceptron(context_dim, hidden_dims, 2 * dim, zero_last=True)
    return ConditionalElementwiseAffine(network)
