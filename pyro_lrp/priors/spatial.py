"""Priors of codes that are maps, alone or given features of the same shape as those of the U-Net's latents."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pyro_lrp import transforms
from pyro_lrp.networks.spatial import SpatialPerceptron
from pyro_lrp.priors.flow import ConditionalFlow, Flow
from pyro_lrp.priors.hierarchy import Hierarchy

__all__ = [
    "autoregressive_maps",
    "conditional_spatial_flow",
    "spatial_flow",
    "unet_autoregressive",
    "unet_flow",
]

_SIDES = (4, 8)  # heights and widths of the U-Net's latents


def spatial_flow(
    shape: Sequence[int],
    layers: int = 16,
    width: int = 256,
    *,
    whiten: str | None = None,
) -> Flow:
    """The paper's flow for codes that are maps: its conditioners are convolutions.

    Args:
        shape: ``(C, h, w)`` of a code, C even; a code is a vector of length C h w.
        layers: Number of couplings.
        width: Channels between the convolutions of a conditioner.
        whiten: As for :class:`~pyro_lrp.priors.Flow`.

    Raises:
        ValueError: If C is odd, or ``layers`` or ``width`` below 1.

    >>> prior = spatial_flow((4, 2, 2), layers=2, width=8)
    >>> prior().sample((3,)).shape
    torch.Size([3, 16])
    """
    stack = transforms.spatial_flow(shape, layers, width)
    return Flow(math.prod(shape), stack, whiten=whiten)


def conditional_spatial_flow(
    shape: Sequence[int],
    layers: int = 16,
    width: int = 256,
) -> ConditionalFlow:
    """The paper's prior of a latent: a conditional flow, with a base whose mean also depends on the features.

    Args:
        shape: ``(C, h, w)`` of code and features, C even; both are vectors of length C h w.
        layers: Number of couplings.
        width: Channels between the convolutions of a conditioner.

    References:
        Morrow and Chiu, section 7; completed in spec 11.4.

    >>> prior = conditional_spatial_flow((4, 2, 2), layers=2, width=8)
    >>> import torch
    >>> prior(torch.zeros(3, 16)).sample().shape
    torch.Size([3, 16])
    """
    channels, *sides = shape
    stack = transforms.conditional_spatial_flow(shape, channels, layers, width)
    mean = SpatialPerceptron(channels, None, channels, sides)
    length = math.prod(shape)
    return ConditionalFlow(
        length,
        stack,
        context_dim=length,
        conditional_base=mean,
    )


def autoregressive_maps(shape: Sequence[int], dropout: float = 0.1) -> ConditionalFlow:
    """The original U-Net prior of a latent: unit normals, each of four phases conditional on the previous ones.

    Args:
        shape: ``(C, s, s)`` of code and features, s even.
        dropout: Share of activations that is dropped.

    References:
        Esser et al. (2018), A Variational U-Net, and their code.

    >>> import torch
    >>> autoregressive_maps((2, 4, 4))(torch.zeros(3, 32)).sample().shape
    torch.Size([3, 32])
    """
    channels, side, width = shape
    if side != width or side % 2:
        raise ValueError(f"expected codes (C, s, s) with an even s, got {tuple(shape)}")
    shift = transforms.ConditionalPhaseShift(channels, side, dropout)
    length = math.prod(shape)
    return ConditionalFlow(
        length,
        [shift],
        context_dim=length,
        conditional_base=False,
    )


def unet_flow(
    channels: int = 128,
    layers: int = 16,
    width: int = 256,
) -> Hierarchy:
    """:func:`conditional_spatial_flow` for both latents of the U-Net.

    Args:
        channels: Channels of the latents.
        layers: Number of couplings of each prior.
        width: Channels between the convolutions of a conditioner.
    """
    scales = []
    for side in _SIDES:
        shape = (channels, side, side)
        scales.append(conditional_spatial_flow(shape, layers, width))
    return Hierarchy(scales)


def unet_autoregressive(channels: int = 128, dropout: float = 0.1) -> Hierarchy:
    """:func:`autoregressive_maps` for both latents of the U-Net.

    Args:
        channels: Channels of the latents.
        dropout: Share of activations that is dropped.
    """
    scales = []
    for side in _SIDES:
        shape = (channels, side, side)
        scales.append(autoregressive_maps(shape, dropout))
    return Hierarchy(scales)
