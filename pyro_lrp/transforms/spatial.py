"""The paper's flow for codes that are maps (spec 11.4): couplings of channels by convolutions.

A code of shape ``(C, h, w)`` is a vector here, its channels one after another. Then a half of the vector is
half of the channels, and couplings and exchanges of halves are those of vectors; only conditioners know of
positions.
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
    "ChannelAffine", "ConditionalPhaseShift", "PhaseShift", "conditional_spatial_flow", "spatial_flow",
]  # fmt: skip


class ChannelAffine(VectorTransform):
    r"""Learnable scale and shift of each channel: latent to base, :math:`z' = e^{s} \odot z + b`.

    An :class:`~pyro_lrp.transforms.ElementwiseAffine` that all positions share; the identity at the start.

    Args:
        channels: C.
        positions: Of each channel, h w.

    References:
        Kingma and Dhariwal (2018), Glow, section 3.1 (actnorm, here without initialization from data).
    """

    def __init__(self, channels: int, positions: int) -> None:
        super().__init__()
        self.positions = positions
        self.log_scale, self.shift = nn.Parameter(torch.zeros(channels)), nn.Parameter(torch.zeros(channels))

    def _everywhere(self, parameter: Tensor) -> Tensor:
        return parameter.repeat_interleave(self.positions)

    def _call(self, x: Tensor) -> Tensor:
        return (x - self._everywhere(self.shift)) * torch.exp(-self._everywhere(self.log_scale))

    def inverse_and_ladj(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Latent to base with its log-determinant: ``(*, C h w) -> (*, C h w), (*)``."""
        x = y * torch.exp(self._everywhere(self.log_scale)) + self._everywhere(self.shift)
        return x, (self.positions * self.log_scale.sum()).expand(y.shape[:-1])

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return -(self.positions * self.log_scale.sum()).expand(x.shape[:-1])


class PhaseShift(VectorTransform):
    """A code is noise and its means, phase by phase of its 2x2 squares: the U-Net's own prior, as a transform.

    Base to latent the four phases come one after another; latent to base all at once. Volume-preserving.

    Args:
        means: A :class:`~pyro_lrp.networks.vunet.blocks.PhaseMeans`.
        features: What it is given, ``(*batch, C s s)``.
        side: s.

    References:
        Esser, Sutter and Ommer (2018), A Variational U-Net; van den Oord et al. (2016), for the phases' order.
    """

    volume_preserving = True
    autoregressive_shift = True  # what is added to a coordinate depends on the coordinates before it alone

    def __init__(self, means: PhaseMeans, features: Tensor, side: int) -> None:
        super().__init__()
        self.means, self.features, self.side = means, features, side

    def _maps(self, z: Tensor) -> tuple[Tensor, Tensor]:
        batch = torch.broadcast_shapes(z.shape, self.features.shape)
        shape = (-1, batch[-1] // self.side**2, self.side, self.side)
        return self.features.expand(batch).reshape(shape), z.expand(batch).reshape(shape)

    def _call(self, x: Tensor) -> Tensor:
        features, noise = self._maps(x)
        batch = torch.broadcast_shapes(x.shape, self.features.shape)
        return self.means.sample(features, noise).reshape(batch)

    def inverse_and_ladj(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Latent to base with its log-determinant, which is zero."""
        features, z = self._maps(y)
        batch = torch.broadcast_shapes(y.shape, self.features.shape)
        x = (z - self.means.given(features, z)).reshape(batch)
        return x, x.new_zeros(batch[:-1])

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return x.new_zeros(x.shape[:-1])


class ConditionalPhaseShift(ConditionalTransformModule):
    """A :class:`PhaseShift` given features: maps of as many channels as the code has, as a vector.

    Args:
        channels: C.
        side: s, even.
        dropout: Share of activations.
    """

    def __init__(self, channels: int = 128, side: int = 4, dropout: float = 0.1) -> None:
        super().__init__()
        self.means, self.side = PhaseMeans(channels, dropout), side

    def condition(self, context: Tensor) -> PhaseShift:
        """The transform at ``context``, shape ``(*batch, C s s)``, which broadcasts against the codes."""
        return PhaseShift(self.means, context, self.side)


def spatial_flow(shape: Sequence[int], layers: int = 16, width: int = 256) -> list[Transform]:
    """The listing of :func:`~pyro_lrp.transforms.paper_flow` for maps, from base to latent.

    Args:
        shape: ``(C, h, w)`` of a code, C even; it comes as a vector of length C h w.
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
    shape: Sequence[int], context_channels: int, layers: int = 16, width: int = 256
) -> list[Transform | ConditionalSigmoidCoupling]:
    """The same, every coupling seeing a context: maps ``(context_channels, h, w)``, likewise as a vector.

    Args:
        shape: ``(C, h, w)`` of a code.
        context_channels: Of the context, at least 1.
        layers: Number of couplings.
        width: Channels between the convolutions of a conditioner.
    """
    if context_channels < 1:
        raise ValueError(f"expected context_channels of at least 1, got {context_channels}")
    return _listing(shape, context_channels, layers, width)


def _listing(shape: Sequence[int], context_channels: int, layers: int, width: int) -> list:
    channels, *sides = shape
    if channels < 2 or channels % 2 or len(sides) != 2:
        raise ValueError(f"expected codes (C, h, w) with an even C, got {tuple(shape)}")
    if layers < 1 or width < 1:
        raise ValueError(f"expected layers and width of at least 1, got layers={layers}, width={width}")
    positions, kind = math.prod(sides), ConditionalSigmoidCoupling if context_channels else SigmoidCoupling
    listing: list = []
    for layer in range(layers):
        if layer % 2 == 0:
            listing.append(ChannelAffine(channels, positions))
        conditioner = SpatialPerceptron(channels // 2 + context_channels, width, channels, sides)
        listing += [kind(channels // 2 * positions, conditioner), swap()]
    return listing[::-1]
