"""The networks of the Variational U-Net: appearance and pose encoders, posterior, decoder (spec 11.2).

Two latents, with 4x4 and 8x8 positions, connect a posterior given the appearance to a decoder given the pose.
These networks contain no distributions: where a latent enters, they call a function that returns it.

``first`` is the number of channels at the finest scale, ``most`` the largest number of channels, which the
latents have too. Both are keys of configurations (``network.first``, ``network.most``).

References:
    Esser, Sutter and Ommer (2018), A Variational U-Net for Conditional Appearance and Shape Generation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from pyro_lrp.networks.vunet.layers import (
    Block,
    Up,
    WeightNormConv,
    data_dependent_initialization,
    depth_to_space,
    space_to_depth,
)

__all__ = [
    "AppearanceEncoder",
    "PhaseMeans",
    "PoseDecoder",
    "PoseEncoder",
    "Posterior",
    "WeightNormConv",
    "data_dependent_initialization",
    "depth_to_space",
    "space_to_depth",
]

LATENT_SIDES = (4, 8)

_FIRST = 32  # channels at the finest scale, as published
_MOST = 128  # largest number of channels, as published
_MIN_SCALES = 4  # an image of 32x32 has scales of sides 32, 16, 8 and 4

# Maps the number of a latent, and features or a mean of its shape, to the latent.
Draw = Callable[[int, Tensor], Tensor]


def channels_of(size: int, first: int = _FIRST, most: int = _MOST) -> list[int]:
    """Channels at each scale of an image, from the finest to the coarsest, 4x4.

    Args:
        size: Side of the image.
        first: Channels at the finest scale; they double from scale to scale.
        most: Largest number of channels.

    >>> channels_of(256)
    [32, 64, 128, 128, 128, 128, 128]

    Raises:
        ValueError: If the size is not a power of two of at least 32; if ``most`` is odd, or the channels do not
            reach it by the scale of 8x8.
    """
    scales = 0.0
    if size > 0:
        scales = math.log2(size) - 1
    if not scales.is_integer() or scales < _MIN_SCALES:
        raise ValueError(f"expected an image size of 32, 64, 128 or 256, a power of two, got {size}")
    channels = []
    for scale in range(int(scales)):
        channels.append(min(most, first * 2**scale))
    # Both latents have the same number of channels, which couplings halve.
    if first < 1 or most % 2 or channels[-2] != most:
        raise ValueError(
            f"expected channels that double from `first` to an even `most` by the scale of 8x8, "
            f"got first={first}, most={most} at size {size}"
        )
    return channels


class _Encoder(nn.Module):
    """Two blocks at each scale; returns the outputs of all blocks."""

    def __init__(self, inputs: int, channels: Sequence[int], dropout: float) -> None:
        super().__init__()
        self.first = WeightNormConv(inputs, channels[0], 1)
        self.blocks = nn.ModuleList()
        for width in channels:
            for _ in range(2):
                self.blocks.append(Block(width, dropout=dropout))
        self.down = nn.ModuleList()
        for fine, coarse in zip(channels[:-1], channels[1:], strict=True):
            self.down.append(WeightNormConv(fine, coarse, stride=2))

    def forward(self, x: Tensor) -> list[Tensor]:
        h = self.first(x)
        outputs = []
        for number, block in enumerate(self.blocks):
            h = block(h)
            outputs.append(h)
            scale, second = divmod(number, 2)
            if second and scale < len(self.down):
                h = self.down[scale](h)
        return outputs


class PoseEncoder(_Encoder):
    """Features of a stick figure, ``(B, 3, size, size)``: two at each scale, the finest first.

    Args:
        size: Side of the image: 256 as published, or another power of two of at least 32.
        dropout: Dropout rate.
        first: Channels at the finest scale.
        most: Largest number of channels, and channels of the latents.

    >>> sum(p.numel() for p in PoseEncoder(256).parameters())
    2253216
    """

    def __init__(
        self,
        size: int = 256,
        dropout: float = 0.1,
        first: int = _FIRST,
        most: int = _MOST,
    ) -> None:
        channels = channels_of(size, first, most)
        super().__init__(3, channels, dropout)


class AppearanceEncoder(_Encoder):
    """Features of body parts, ``(B, 24, size / 4, size / 4)``: two at each scale, the finest first.

    Args:
        size: Side of the image from which the parts are cropped.
        dropout: Dropout rate.
        most: Channels at every scale.

    >>> sum(p.numel() for p in AppearanceEncoder(256).parameters())
    2071296
    """

    def __init__(self, size: int = 256, dropout: float = 0.1, most: int = _MOST) -> None:
        scales = len(channels_of(size)) - 2  # the parts have a quarter of the image's side
        super().__init__(24, [most] * scales, dropout)


class Posterior(nn.Module):
    """Means of the latents given the appearance, from coarse to fine.

    The last block, at 16x16, does not affect the latents; it belongs to the published network.

    Args:
        dropout: Dropout rate.
        most: Channels of all features and of the latents.

    >>> sum(p.numel() for p in Posterior().parameters())
    3085568
    """

    def __init__(self, dropout: float = 0.1, most: int = _MOST) -> None:
        super().__init__()
        self.first = WeightNormConv(most, most, 1)
        self.before = nn.ModuleList(Block(most, most, dropout) for _ in LATENT_SIDES)
        self.mean = nn.ModuleList(WeightNormConv(most, most) for _ in LATENT_SIDES)
        self.after = nn.ModuleList(Block(most, 2 * most, dropout) for _ in LATENT_SIDES)
        self.up = nn.ModuleList(Up(most, most) for _ in LATENT_SIDES)
        self.last = Block(most, most, dropout)

    def forward(self, appearance: Sequence[Tensor], draw: Draw) -> Tensor:
        """Call ``draw(number, mean) -> z`` for each latent in turn.

        Args:
            appearance: Output of :class:`AppearanceEncoder`.
            draw: Maps the mean of a latent to the latent, both ``(B, most, side, side)``.
        """
        skips = list(appearance)
        h = self.first(skips[-1])
        parts = zip(self.before, self.mean, self.after, self.up, strict=True)
        for number, (before, mean, after, up) in enumerate(parts):
            h = before(h, skips.pop())
            z = draw(number, mean(h))
            skip_and_latent = torch.cat([skips.pop(), z], 1)
            h = up(after(h, skip_and_latent))
        if skips:
            h = self.last(h, skips.pop())
        return h


class PoseDecoder(nn.Module):
    """An image given features of a pose and latents, without a final activation.

    Args:
        size: Side of the image.
        dropout: Dropout rate.
        first: Channels at the finest scale.
        most: Largest number of channels, and channels of the latents.
    """

    def __init__(
        self,
        size: int = 256,
        dropout: float = 0.1,
        first: int = _FIRST,
        most: int = _MOST,
    ) -> None:
        super().__init__()
        channels = channels_of(size, first, most)
        channels.reverse()
        self.first = WeightNormConv(channels[0], channels[0], 1)
        self.before = nn.ModuleList(Block(c, c, dropout) for c in channels)
        self.inject = nn.ModuleList(WeightNormConv(2 * most, most, 1) for _ in LATENT_SIDES)
        self.after = nn.ModuleList(Block(c, c, dropout) for c in channels)
        self.up = nn.ModuleList()
        for coarse, fine in zip(channels[:-1], channels[1:], strict=True):
            self.up.append(Up(coarse, fine))
        self.image = WeightNormConv(channels[-1], 3)

    def forward(self, pose: Sequence[Tensor], draw: Draw, *, to_image: bool = True) -> Tensor | None:
        """Call ``draw(number, features) -> z`` where a latent enters, from coarse to fine.

        Args:
            pose: Output of :class:`PoseEncoder`.
            draw: Maps features, which depend on the pose and the preceding latents, to a latent.
            to_image: Whether to compute the image; if not, stop after the last latent.

        Returns:
            Shape ``(B, 3, size, size)``, or None.
        """
        last_latent = len(LATENT_SIDES) - 1
        skips = list(pose)
        h = self.first(skips[-1])
        for scale, (before, after) in enumerate(zip(self.before, self.after, strict=True)):
            h = before(h, skips.pop())
            if scale <= last_latent:
                z = draw(scale, h)
                if scale == last_latent and not to_image:
                    return None
                h = self.inject[scale](torch.cat([h, z], 1))
            h = after(h, skips.pop())
            if scale < len(self.up):
                h = self.up[scale](h)
        return self.image(h)


class PhaseMeans(nn.Module):
    """Prior means of a latent given features, autoregressive over the four phases of its 2x2 squares.

    The mean of a phase depends on the preceding phases: the means of a known latent are computed in one pass,
    a latent is sampled phase by phase.

    Args:
        channels: Channels of the latent and of the features.
        dropout: Dropout rate.
    """

    def __init__(self, channels: int = _MOST, dropout: float = 0.1) -> None:
        super().__init__()
        self.block = Block(channels, dropout=dropout)
        self.mean = nn.ModuleList()
        for _ in range(4):
            self.mean.append(WeightNormConv(4 * channels, channels))
        self.feedback = nn.ModuleList()
        for _ in range(3):
            self.feedback.append(Block(4 * channels, channels, dropout))

    def forward(self, features: Tensor, draw: Callable[[int, Tensor], Tensor]) -> Tensor:
        """The means ``(B, C, s, s)``; ``draw(phase, mean)`` returns a phase ``(B, C, s / 2, s / 2)``."""
        h = space_to_depth(self.block(features))
        means = []
        for phase, mean_layer in enumerate(self.mean):
            mean = mean_layer(h)
            means.append(mean)
            z = draw(phase, mean)
            if phase < len(self.feedback):
                h = self.feedback[phase](h, z)
        return depth_to_space(torch.cat(means, 1))

    def given(self, features: Tensor, z: Tensor) -> Tensor:
        """The means of a given latent, ``(B, C, s, s)``."""
        phases = space_to_depth(z).chunk(4, 1)
        return self(features, lambda phase, mean: phases[phase])

    def sample(self, features: Tensor, noise: Tensor) -> Tensor:
        """The latent whose difference from its means is ``noise``, ``(B, C, s, s)``."""
        noises = space_to_depth(noise).chunk(4, 1)
        phases = []

        def draw(phase: int, mean: Tensor) -> Tensor:
            z = mean + noises[phase]
            phases.append(z)
            return z

        self(features, draw)
        return depth_to_space(torch.cat(phases, 1))
