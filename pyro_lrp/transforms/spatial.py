"""The paper's flow for codes that are maps (spec 11.4): couplings of channels by convolutions.

A code of shape ``(C, h, w)`` is a vector here, the concatenation of its channels. Half of the vector is half of
the channels, so couplings and exchanges of halves are those of vectors; only the conditioners use positions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from pyro.distributions.conditional import ConditionalTransformModule
from torch import Tensor, nn
from torch.distributions import Transform

from pyro_lrp.networks.spatial import SpatialPerceptron
from pyro_lrp.networks.vunet.blocks import PhaseMeans
from pyro_lrp.transforms.core import VectorTransform
from pyro_lrp.transforms.couplings import ConditionalSigmoidCoupling, SigmoidCoupling, swap

__all__ = [
    "ChannelAffine",
    "ConditionalPhaseShift",
    "PhaseShift",
    "conditional_spatial_flow",
    "spatial_flow",
]


class ChannelAffine(VectorTransform):
    r"""Learnable scale and shift of each channel: latent to base, :math:`z' = e^{s} \odot z + b`.

    An :class:`~pyro_lrp.transforms.ElementwiseAffine` with the same parameters at all positions; it starts at
    the identity.

    Args:
        channels: Number of channels C.
        positions: Number of positions of a channel, h w.

    References:
        Kingma and Dhariwal (2018), Glow, section 3.1 (actnorm, here without initialization from data).
    """

    def __init__(self, channels: int, positions: int) -> None:
        super().__init__()
        self.positions = positions
        self.log_scale = nn.Parameter(torch.zeros(channels))
        self.shift = nn.Parameter(torch.zeros(channels))

    def _everywhere(self, parameter: Tensor) -> Tensor:
        return parameter.repeat_interleave(self.positions)

    def _call(self, x: Tensor) -> Tensor:
        shift = self._everywhere(self.shift)
        log_scale = self._everywhere(self.log_scale)
        return (x - shift) * torch.exp(-log_scale)

    def inverse_and_ladj(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Latent to base with its log-determinant: ``(*, C h w) -> (*, C h w), (*)``."""
        shift = self._everywhere(self.shift)
        log_scale = self._everywhere(self.log_scale)
        x = y * torch.exp(log_scale) + shift
        ladj = self.positions * self.log_scale.sum()
        return x, ladj.expand(y.shape[:-1])

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        ladj = self.positions * self.log_scale.sum()
        return -ladj.expand(x.shape[:-1])


class PhaseShift(VectorTransform):
    """Add conditional means to noise, by phases of 2x2 squares: the original U-Net prior, as a transform.

    Base to latent the four phases are computed sequentially; latent to base in parallel. Volume-preserving.

    Args:
        means: A :class:`~pyro_lrp.networks.vunet.blocks.PhaseMeans`.
        features: Features that the means depend on, ``(*batch, C s s)``.
        side: Side s of the maps.

    References:
        Esser, Sutter and Ommer (2018), A Variational U-Net; van den Oord et al. (2016), for the phases' order.
    """

    volume_preserving = True
    autoregressive_shift = True  # the shift of a coordinate depends only on the coordinates before it

    def __init__(self, means: PhaseMeans, features: Tensor, side: int) -> None:
        super().__init__()
        self.means = means
        self.features = features
        self.side = side

    def _maps(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Features and codes as maps ``(n, C, s, s)``."""
        shape = torch.broadcast_shapes(z.shape, self.features.shape)
        channels = shape[-1] // self.side**2
        map_shape = (-1, channels, self.side, self.side)
        features = self.features.expand(shape).reshape(map_shape)
        maps = z.expand(shape).reshape(map_shape)
        return features, maps

    def _call(self, x: Tensor) -> Tensor:
        features, noise = self._maps(x)
        shape = torch.broadcast_shapes(x.shape, self.features.shape)
        return self.means.sample(features, noise).reshape(shape)

    def inverse_and_ladj(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Latent to base with its log-determinant, which is zero."""
        features, z = self._maps(y)
        shape = torch.broadcast_shapes(y.shape, self.features.shape)
        noise = z - self.means.given(features, z)
        x = noise.reshape(shape)
        return x, x.new_zeros(shape[:-1])

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        batch = torch.broadcast_shapes(x.shape, self.features.shape)[:-1]
        return x.new_zeros(batch)


class ConditionalPhaseShift(ConditionalTransformModule):
    """A :class:`PhaseShift` for a context of features: maps with the channels of the code, as a vector.

    Args:
        channels: Number of channels C.
        side: Side s of the maps, even.
        dropout: Share of activations that is dropped.
    """

    def __init__(
        self,
        channels: int = 128,
        side: int = 4,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.means = PhaseMeans(channels, dropout)
        self.side = side

    def condition(self, context: Tensor) -> PhaseShift:
        """The transform at ``context``, shape ``(*batch, C s s)``, which broadcasts against the codes."""
        return PhaseShift(self.means, context, self.side)


def spatial_flow(
    shape: Sequence[int],
    layers: int = 16,
    width: int = 256,
) -> list[Transform]:
    """The form of :func:`~pyro_lrp.transforms.paper_flow` for maps, from base to latent.

    Args:
        shape: ``(C, h, w)`` of a code, C even; a code is a vector of length C h w.
        layers: Number of couplings.
        width: Channels between the convolutions of a conditioner.

    Raises:
        ValueError: If C is odd, or ``layers`` or ``width`` below 1.

    >>> flow = spatial_flow((4, 2, 2), layers=2, width=8)
    >>> [type(t).__name__ for t in flow]
    ['Swap', 'SigmoidCoupling', 'Swap', 'SigmoidCoupling', 'ChannelAffine']
    """
    return _listing(shape, 0, layers, width)


def conditional_spatial_flow(
    shape: Sequence[int],
    context_channels: int,
    layers: int = 16,
    width: int = 256,
) -> list[Transform | ConditionalSigmoidCoupling]:
    """The conditional form of :func:`spatial_flow`: every coupling depends on a context.

    Args:
        shape: ``(C, h, w)`` of a code.
        context_channels: Number of channels of the context, at least 1. A context is a vector of length
            ``context_channels * h * w``.
        layers: Number of couplings.
        width: Channels between the convolutions of a conditioner.
    """
    if context_channels < 1:
        raise ValueError(f"expected context_channels of at least 1, got {context_channels}")
    return _listing(shape, context_channels, layers, width)


def _listing(
    shape: Sequence[int],
    context_channels: int,
    layers: int,
    width: int,
) -> list:
    channels, *sides = shape
    if channels < 2 or channels % 2 or len(sides) != 2:
        raise ValueError(f"expected codes (C, h, w) with an even C, got {tuple(shape)}")
    if layers < 1 or width < 1:
        raise ValueError(f"expected layers and width of at least 1, got layers={layers}, width={width}")
    kind: type = SigmoidCoupling
    if context_channels > 0:
        kind = ConditionalSigmoidCoupling
    positions = math.prod(sides)
    kept = channels // 2
    listing: list = []
    for layer in range(layers):
        if layer % 2 == 0:
            listing.append(ChannelAffine(channels, positions))
        conditioner = SpatialPerceptron(
            kept + context_channels,
            width,
            channels,
            sides,
        )
        listing.append(kind(kept * positions, conditioner))
        listing.append(swap())
    return listing[::-1]
