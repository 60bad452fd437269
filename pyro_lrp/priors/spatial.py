"""Conditional priors of codes that are maps, given maps of the same shape: those of the U-Net's latents."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pyro_lrp import transforms
from pyro_lrp.networks.spatial import SpatialPerceptron
from pyro_lrp.priors.flow import ConditionalFlow
from pyro_lrp.priors.hierarchy import Hierarchy

__all__ = ["autoregressive_maps", "conditional_spatial_flow", "unet_autoregressive", "unet_flow"]

_SIDES = (4, 8)  # of the U-Net's latents


def conditional_spatial_flow(shape: Sequence[int], layers: int = 16, width: int = 256) -> ConditionalFlow:
    """The paper's prior of a latent: a conditional flow whose base has a mean that sees the features too.

    Args:
        shape: ``(C, h, w)`` of code and features, C even; both come as vectors of length C h w.
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
    return ConditionalFlow(length, stack, context_dim=length, conditional_base=mean)


def autoregressive_maps(shape: Sequence[int], dropout: float = 0.1) -> ConditionalFlow:
    """The U-Net's own prior of a latent: unit normals, each of four phases given those before it.

    Args:
        shape: ``(C, s, s)`` of code and features, s even.
        dropout: Share of activations.

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
    return ConditionalFlow(length, [shift], context_dim=length, conditional_base=False)


def unet_flow(channels: int = 128, layers: int = 16, width: int = 256) -> Hierarchy:
    """:func:`conditional_spatial_flow` for both latents of the U-Net.

    Args:
        channels: Of the latents.
        layers: Number of couplings, of each.
        width: Channels between the convolutions of a conditioner.
    """
    return Hierarchy([conditional_spatial_flow((channels, side, side), layers, width) for side in _SIDES])


def unet_autoregressive(channels: int = 128, dropout: float = 0.1) -> Hierarchy:
    """:func:`autoregressive_maps` for both latents of the U-Net.

    Args:
        channels: Of the latents.
        dropout: Share of activations.
    """
    return Hierarchy([autoregressive_maps((channels, side, side), dropout) for side in _SIDES])
