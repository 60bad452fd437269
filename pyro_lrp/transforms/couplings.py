r"""The paper's coupling, and its flow, as Pyro transforms (appendix A.1 of Morrow and Chiu).

Direction. A transform maps base to latent, as Pyro samplers expect: :math:`z_T = t(z_0)`. The paper lists the
steps latent to base, which is the cheap and numerically safe direction: it only multiplies by numbers in (0, 1)
and by the scale of the affine. ``inverse_and_ladj`` computes it with ONE evaluation of the conditioner.

Transforms do not cache. The usual one-entry cache of Pyro's learnable transforms returns the density of the OLD
parameters after an update.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pyro.distributions.transforms as T
import torch
from pyro.distributions.conditional import ConditionalTransformModule
from torch import Tensor, nn
from torch.distributions import Transform
from torch.nn import functional as F

from pyro_lrp.networks.mlp import perceptron
from pyro_lrp.transforms.affine import (
    ConditionalElementwiseAffine,
    ElementwiseAffine,
    conditional_elementwise_affine,
    elementwise_affine,
)
from pyro_lrp.transforms.core import VectorTransform, check_dim

__all__ = [
    "ConditionalSigmoidCoupling",
    "SigmoidCoupling",
    "Swap",
    "conditional_paper_flow",
    "conditional_sigmoid_coupling",
    "paper_flow",
    "sigmoid_coupling",
    "swap",
]


class SigmoidCoupling(VectorTransform):
    r"""Affine coupling whose scale is a sigmoid. In the listed direction, latent to base (A.1, steps 2-6):

    .. math::
        (\mu, s) = \mathrm{NN}(z_a), \quad \sigma = \mathrm{sigmoid}(s + 2), \quad
        z_a' = z_a, \quad z_b' = \sigma \odot (z_b + \mu), \quad \log|\det| = \sum \log \sigma.

    One evaluation of the network in either direction, and for the log-determinant. Latent to base it can only
    contract; base to latent it divides by :math:`\sigma`, which is not bounded below.

    Args:
        split_dim: Length of :math:`z_a`; the rest is :math:`z_b`.
        conditioner: Maps ``(*, split_dim)`` to ``(*, 2 * (dim - split_dim))``: :math:`\mu`, then :math:`s`.

    References:
        Morrow and Chiu, appendix A.1; Kingma and Dhariwal (2018), Glow, for shift-then-sigmoid-scale.

    >>> t = sigmoid_coupling(4, [8])
    >>> z_T = torch.ones(3, 4)
    >>> z_0, ladj = t.inverse_and_ladj(z_T)
    >>> z_0[0].tolist(), round(ladj[0].item(), 5)  # sigmoid(2) = 0.88 before training
    ([1.0, 1.0, 0.8807970285415649, 0.8807970285415649], -0.25386)
    """

    def __init__(self, split_dim: int, conditioner: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.split_dim = split_dim
        self.conditioner = conditioner

    def _shift_and_logit(self, kept: Tensor) -> tuple[Tensor, Tensor]:
        shift, raw = self.conditioner(kept).chunk(2, dim=-1)
        return shift, raw + 2.0

    def split(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The part that is kept and the part that is moved."""
        # the gradient of one split is one operation, that of two slices three
        kept, moved = z.split([self.split_dim, z.shape[-1] - self.split_dim], dim=-1)
        return kept, moved

    def forwards(self, kept: Tensor, moved: Tensor) -> Tensor:
        """The moved part, base to latent."""
        shift, logit = self._shift_and_logit(kept)
        return moved / torch.sigmoid(logit) - shift

    def backwards(self, kept: Tensor, moved: Tensor) -> tuple[Tensor, Tensor]:
        """The moved part, latent to base, and the log-determinant."""
        shift, logit = self._shift_and_logit(kept)
        moved = torch.sigmoid(logit) * (moved + shift)
        return moved, F.logsigmoid(logit).sum(-1)

    def _call(self, x: Tensor) -> Tensor:
        kept, moved = self.split(x)
        return _joined(kept, self.forwards(kept, moved))

    def inverse_and_ladj(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Latent to base with its log-determinant: ``(*, dim) -> (*, dim), (*)``."""
        kept, moved = self.split(y)
        moved, ladj = self.backwards(kept, moved)
        return _joined(kept, moved), ladj

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """Base to latent; the kept half is the same in ``x`` and ``y``."""
        kept, _ = self.split(x)
        _, logit = self._shift_and_logit(kept)
        return -F.logsigmoid(logit).sum(-1)


def _joined(kept: Tensor, moved: Tensor) -> Tensor:
    """The two parts of vectors; the batch of the kept part is smaller where a context has more rows."""
    kept = kept.expand(*moved.shape[:-1], -1)
    return torch.cat([kept, moved], dim=-1)


class Swap(VectorTransform):
    """Exchange of the two halves of a vector, so that the next coupling changes the half that this one kept.

    For an odd length the first half is shorter. Volume-preserving; no parameters.
    """

    volume_preserving = True

    def _call(self, x: Tensor) -> Tensor:
        half = x.shape[-1] // 2
        return x.roll(half, dims=-1)

    def _inverse(self, y: Tensor) -> Tensor:
        half = y.shape[-1] // 2
        return y.roll(-half, dims=-1)

    def inverse_and_ladj(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Latent to base with its log-determinant, which is zero."""
        return self._inverse(y), y.new_zeros(y.shape[:-1])

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return x.new_zeros(x.shape[:-1])


class SwappedCoupling(VectorTransform):
    """A :class:`SigmoidCoupling` after a :class:`Swap`, base to latent, in fewer operations than the two.

    Args:
        coupling: Keeps as many coordinates as the exchange brings to the front, ``dim // 2``.
    """

    def __init__(self, coupling: SigmoidCoupling) -> None:
        super().__init__()
        self._coupling = [coupling]  # in a list: it is registered where it belongs to

    def _call(self, x: Tensor) -> Tensor:
        coupling = self._coupling[0]
        moved, kept = x.split([x.shape[-1] - coupling.split_dim, coupling.split_dim], dim=-1)
        return _joined(kept, coupling.forwards(kept, moved))

    def inverse_and_ladj(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Latent to base with its log-determinant: ``(*, dim) -> (*, dim), (*)``."""
        coupling = self._coupling[0]
        kept, moved = coupling.split(y)
        moved, ladj = coupling.backwards(kept, moved)
        kept = kept.expand(*moved.shape[:-1], -1)
        return torch.cat([moved, kept], dim=-1), ladj

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return self._coupling[0].log_abs_det_jacobian(y, y)  # which depends on the kept part alone


def fused(transforms: Sequence[Transform], dim: int) -> list[Transform]:
    """The same map, base to latent, with each exchange of halves and the coupling after it as one transform.

    >>> [type(t).__name__ for t in fused([Swap(), sigmoid_coupling(4, [8]), Swap()], 4)]
    ['SwappedCoupling', 'Swap']
    """
    result: list[Transform] = []
    for transform in transforms:
        follows = bool(result) and isinstance(result[-1], Swap)
        if follows and isinstance(transform, SigmoidCoupling) and transform.split_dim == dim // 2:
            result[-1] = SwappedCoupling(transform)
        else:
            result.append(transform)
    return result


class ConditionalSigmoidCoupling(ConditionalTransformModule):
    """A :class:`SigmoidCoupling` whose conditioner also depends on a context.

    Args:
        split_dim: Length of the kept half.
        conditioner: Maps ``(*, split_dim + context_dim)``, the kept half then the context, to
            ``(*, 2 * (dim - split_dim))``.
    """

    def __init__(self, split_dim: int, conditioner: nn.Module) -> None:
        super().__init__()
        self.split_dim = split_dim
        self.conditioner = conditioner

    def condition(self, context: Tensor) -> SigmoidCoupling:
        """The coupling at ``context``, shape ``(*batch, context_dim)``, which broadcasts against the codes."""

        def conditioner(kept: Tensor) -> Tensor:
            batch = torch.broadcast_shapes(kept.shape[:-1], context.shape[:-1])
            expanded = [
                kept.expand(*batch, -1),
                context.expand(*batch, -1),
            ]
            inputs = torch.cat(expanded, dim=-1)
            return self.conditioner(inputs)

        return SigmoidCoupling(self.split_dim, conditioner)


def sigmoid_coupling(
    dim: int,
    hidden_dims: Sequence[int] = (1024, 1024),
    *,
    dropout: float = 0.0,
) -> SigmoidCoupling:
    """A :class:`SigmoidCoupling` of vectors of length ``dim`` with the paper's conditioner (A.1).

    The conditioner is fully connected with ReLU, Glorot uniform kernels, zero biases and a zero last layer of
    ``2 * (dim - dim // 2)`` outputs; ``dropout`` is the share of hidden units dropped in training.
    """
    check_dim(dim, minimum=2)
    kept = dim // 2
    network = _conditioner(kept, dim - kept, hidden_dims, dropout)
    return SigmoidCoupling(kept, network)


def _conditioner(
    inputs: int,
    moved: int,
    hidden_dims: Sequence[int],
    dropout: float,
) -> nn.Module:
    """The network of a coupling that changes ``moved`` dimensions."""
    return perceptron(
        inputs,
        hidden_dims,
        2 * moved,
        zero_last=True,
        dropout=dropout,
    )


def swap() -> Swap:
    """A :class:`Swap`."""
    return Swap()


def conditional_sigmoid_coupling(
    dim: int,
    context_dim: int,
    hidden_dims: Sequence[int] = (1024, 1024),
    *,
    dropout: float = 0.0,
) -> ConditionalSigmoidCoupling:
    """The conditional form of :func:`sigmoid_coupling`, for contexts of length ``context_dim``."""
    check_dim(dim, minimum=2)
    kept = dim // 2
    inputs = kept + context_dim
    network = _conditioner(inputs, dim - kept, hidden_dims, dropout)
    return ConditionalSigmoidCoupling(kept, network)


def paper_flow(
    dim: int,
    layers: int = 24,
    width: int = 1024,
    *,
    permute: str = "swap",
    seed: int = 0,
    dropout: float = 0.0,
) -> list[Transform]:
    """The flow of appendix A.1, as a list of transforms from base to latent.

    Latent to base, each of the ``layers`` steps consists of an elementwise affine (only in the 1st, 3rd, ...
    step), a coupling and an exchange of the halves. The list has the reverse order, so the transform nearest
    the data is last.

    Args:
        dim: Length of a code, even.
        layers: Number of couplings, T.
        width: Units of each of the two hidden layers of a coupling.
        permute: ``"swap"`` alternates the halves; ``"random"`` shuffles by a fixed permutation instead.
        seed: Seed of the random permutations.
        dropout: Share of the couplings' hidden units dropped in training; the paper uses none.

    Raises:
        ValueError: If ``dim`` is odd or below 2, ``layers`` or ``width`` below 1, or ``permute`` is unknown.

    >>> sum(p.numel() for t in paper_flow(64, 4, 16) if isinstance(t, nn.Module) for p in t.parameters())
    7808
    """
    hidden_dims = (width, width)

    def affine() -> ElementwiseAffine:
        return elementwise_affine(dim)

    def coupling() -> SigmoidCoupling:
        return sigmoid_coupling(dim, hidden_dims, dropout=dropout)

    _check_listing(dim, layers, width, permute)
    return _listing(dim, layers, permute, seed, affine, coupling)


def conditional_paper_flow(
    dim: int,
    context_dim: int,
    layers: int = 24,
    width: int = 1024,
    *,
    permute: str = "swap",
    seed: int = 0,
    dropout: float = 0.0,
) -> list[Any]:
    """The conditional form of :func:`paper_flow`: every affine and every coupling depends on the context.

    >>> [type(t).__name__ for t in conditional_paper_flow(4, 3, layers=1, width=8)]
    ['Swap', 'ConditionalSigmoidCoupling', 'ConditionalElementwiseAffine']
    """
    hidden_dims = (width, width)

    def affine() -> ConditionalElementwiseAffine:
        return conditional_elementwise_affine(dim, context_dim)

    def coupling() -> ConditionalSigmoidCoupling:
        return conditional_sigmoid_coupling(
            dim,
            context_dim,
            hidden_dims,
            dropout=dropout,
        )

    _check_listing(dim, layers, width, permute)
    return _listing(dim, layers, permute, seed, affine, coupling)


def _check_listing(dim: int, layers: int, width: int, permute: str) -> None:
    check_dim(dim, minimum=2)
    if dim % 2:
        raise ValueError(f"the paper's flow splits a code into halves: expected an even latent_dim, got {dim}")
    if layers < 1 or width < 1:
        raise ValueError(f"expected layers and width of at least 1, got layers={layers}, width={width}")
    if permute not in ("swap", "random"):
        raise ValueError(f"expected permute to be 'swap' or 'random', got {permute!r}")


def _listing(
    dim: int,
    layers: int,
    permute: str,
    seed: int,
    affine: Callable[[], Any],
    coupling: Callable[[], Any],
) -> list[Any]:
    """The steps of the paper's flow, which lists them latent to base, in reverse."""
    generator = torch.Generator().manual_seed(seed)
    listing: list[Any] = []
    for layer in range(layers):
        if layer % 2 == 0:
            listing.append(affine())
        listing.append(coupling())
        if permute == "swap":
            listing.append(swap())
        else:
            permutation = torch.randperm(dim, generator=generator)
            listing.append(T.Permute(permutation, cache_size=0))
    return listing[::-1]
