"""The networks of the Variational U-Net: appearance and pose encoders, posterior, decoder (spec 11.2).

Two latents, of 4x4 and of 8x8 positions, lie between a posterior that sees the appearance and a decoder that
sees the pose. These networks know no distribution: where a latent is due, they call a function that gives it.

References:
    Esser, Sutter and Ommer (2018), A Variational U-Net for Conditional Appearance and Shape Generation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = [
    "AppearanceEncoder", "PhaseMeans", "PoseDecoder", "PoseEncoder", "Posterior", "WeightNormConv",
    "data_dependent_initialization", "depth_to_space", "space_to_depth",
]  # fmt: skip

_FIRST, _MOST = 32, 128  # channels at the finest scale, and at most, as published
LATENT_SIDES = (4, 8)

Draw = Callable[[int, Tensor], Tensor]  # a latent, given its number and features or a mean of its shape


def space_to_depth(x: Tensor) -> Tensor:
    """Each 2x2 square of positions as channels: ``(B, C, 2h, 2w) -> (B, 4C, h, w)``, phase by phase.

    >>> space_to_depth(torch.arange(4.0).reshape(1, 1, 2, 2)).flatten().tolist()
    [0.0, 1.0, 2.0, 3.0]
    """
    b, c, h, w = x.shape
    squares = x.reshape(b, c, h // 2, 2, w // 2, 2).permute(0, 3, 5, 1, 2, 4)
    return squares.reshape(b, 4 * c, h // 2, w // 2)


def depth_to_space(x: Tensor) -> Tensor:
    """The inverse of :func:`space_to_depth`: ``(B, 4C, h, w) -> (B, C, 2h, 2w)``."""
    b, c, h, w = x.shape
    squares = x.reshape(b, 2, 2, c // 4, h, w).permute(0, 3, 4, 1, 5, 2)
    return squares.reshape(b, c // 4, 2 * h, 2 * w)


class WeightNormConv(nn.Module):
    """A convolution whose kernels have length 1 but for a gain, with initialization from data.

    Args:
        inputs: Channels.
        outputs: Channels.
        size: Side of the kernel, odd; padding keeps the size.
        stride: 1 or 2.

    References:
        Salimans and Kingma (2016), Weight Normalization, arXiv:1602.07868, sections 2 and 3.
    """

    initializing: bool = False

    def __init__(self, inputs: int, outputs: int, size: int = 3, stride: int = 1) -> None:
        super().__init__()
        self.stride = stride
        self.direction = nn.Parameter(0.05 * torch.randn(outputs, inputs, size, size))
        self.gain, self.bias = nn.Parameter(torch.ones(outputs)), nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        direction = self.direction / self.direction.flatten(1).norm(dim=1)[:, None, None, None]
        y = F.conv2d(x, direction, stride=self.stride, padding=direction.shape[-1] // 2)
        if self.initializing:
            self._initialize(y.detach())
        return y * self.gain[:, None, None] + self.bias[:, None, None]

    @torch.no_grad()
    def _initialize(self, y: Tensor) -> None:
        mean, deviation = y.mean((0, 2, 3)), y.std((0, 2, 3)).clamp_min(1e-6)
        self.gain.copy_(1 / deviation)
        self.bias.copy_(-mean / deviation)


@contextmanager
def data_dependent_initialization(*modules: nn.Module) -> Iterator[None]:
    """Within the block each convolution sets gain and bias so that what passes has mean 0 and deviation 1."""
    convolutions = [part for module in modules for part in module.modules() if isinstance(part, WeightNormConv)]
    for part in convolutions:
        part.initializing = True
    try:
        yield
    finally:
        for part in convolutions:
            part.initializing = False


class _Block(nn.Module):
    """One convolution about which an input passes unchanged; it may see a second input."""

    def __init__(self, channels: int, beside: int = 0, dropout: float = 0.1) -> None:
        super().__init__()
        self.beside = WeightNormConv(beside, channels, 1) if beside else None
        self.dropout = nn.Dropout(dropout)
        self.convolution = WeightNormConv(2 * channels if beside else channels, channels)

    def forward(self, x: Tensor, a: Tensor | None = None) -> Tensor:
        seen = x
        if self.beside is not None:
            assert a is not None, "this block has a second input"
            seen = torch.cat([x, self.beside(F.elu(a))], 1)
        return x + self.convolution(self.dropout(F.elu(seen)))


class _Up(nn.Module):
    """Twice the side, by channels that become positions."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.convolution = WeightNormConv(inputs, 4 * outputs)

    def forward(self, x: Tensor) -> Tensor:
        return depth_to_space(self.convolution(x))


def channels_of(size: int, first: int = _FIRST, most: int = _MOST) -> list[int]:
    """Channels of each scale of an image, from the finest to the coarsest, 4x4.

    >>> channels_of(256)
    [32, 64, 128, 128, 128, 128, 128]

    Raises:
        ValueError: If the size is no power of two from 32 on, or ``most`` odd or below ``first``.
    """
    scales = math.log2(size) - 1 if size > 0 else 0.0
    if not scales.is_integer() or scales < 4:
        raise ValueError(f"expected an image size of 32, 64, 128 or 256, a power of two, got {size}")
    channels = [min(most, first * 2**scale) for scale in range(int(scales))]
    # The two latents have equally many, which couplings halve.
    if first < 1 or most % 2 or channels[-2] != most:
        raise ValueError(
            f"expected channels that double from `first` to an even `most` by the scale of 8x8, "
            f"got first={first}, most={most} at size {size}"
        )
    return channels


class _Encoder(nn.Module):
    """Two blocks at each scale; the outputs of all."""

    def __init__(self, inputs: int, channels: Sequence[int], dropout: float) -> None:
        super().__init__()
        self.first = WeightNormConv(inputs, channels[0], 1)
        self.blocks = nn.ModuleList(_Block(c, dropout=dropout) for c in channels for _ in range(2))
        pairs = zip(channels[:-1], channels[1:], strict=True)
        self.down = nn.ModuleList(WeightNormConv(a, b, stride=2) for a, b in pairs)

    def forward(self, x: Tensor) -> list[Tensor]:
        h, outputs = self.first(x), []
        for number, block in enumerate(self.blocks):
            h = block(h)
            outputs.append(h)
            if number % 2 and number // 2 < len(self.down):
                h = self.down[number // 2](h)
        return outputs


class PoseEncoder(_Encoder):
    """Features of a stick figure, ``(B, 3, size, size)``: two at each scale, the finest first.

    Args:
        size: Side of the image: 256 as published, or another power of two from 32 on.
        dropout: Share of activations.
        first: Channels at the finest scale.
        most: Channels at most, and of the latents.

    >>> sum(p.numel() for p in PoseEncoder(256).parameters())
    2253216
    """

    def __init__(self, size: int = 256, dropout: float = 0.1, first: int = _FIRST, most: int = _MOST) -> None:
        super().__init__(3, channels_of(size, first, most), dropout)


class AppearanceEncoder(_Encoder):
    """Features of body parts, ``(B, 24, size / 4, size / 4)``: two at each scale, the finest first.

    Args:
        size: Side of the image that the parts are cut from.
        dropout: Share of activations.
        most: Channels.

    >>> sum(p.numel() for p in AppearanceEncoder(256).parameters())
    2071296
    """

    def __init__(self, size: int = 256, dropout: float = 0.1, most: int = _MOST) -> None:
        super().__init__(24, [most] * (len(channels_of(size)) - 2), dropout)


class Posterior(nn.Module):
    """Means of the latents given the appearance, from coarse to fine.

    The last block, at 16x16, has no part in the latents; it belongs to the published network.

    Args:
        dropout: Share of activations.
        most: Channels, of the latents too.

    >>> sum(p.numel() for p in Posterior().parameters())
    3085568
    """

    def __init__(self, dropout: float = 0.1, most: int = _MOST) -> None:
        super().__init__()
        sides = range(len(LATENT_SIDES))
        self.first = WeightNormConv(most, most, 1)
        self.before = nn.ModuleList(_Block(most, most, dropout) for _ in sides)
        self.mean = nn.ModuleList(WeightNormConv(most, most) for _ in sides)
        self.after = nn.ModuleList(_Block(most, 2 * most, dropout) for _ in sides)
        self.up = nn.ModuleList(_Up(most, most) for _ in sides)
        self.last = _Block(most, most, dropout)

    def forward(self, appearance: Sequence[Tensor], draw: Draw) -> Tensor:
        """Call ``draw(number, mean) -> z`` for each latent in turn.

        Args:
            appearance: What the encoder gave.
            draw: Makes a latent of its mean, each ``(B, most, side, side)``.
        """
        skips = list(appearance)
        h = self.first(skips[-1])
        parts = zip(self.before, self.mean, self.after, self.up, strict=True)
        for number, (before, mean, after, up) in enumerate(parts):
            h = before(h, skips.pop())
            z = draw(number, mean(h))
            h = up(after(h, torch.cat([skips.pop(), z], 1)))
        return self.last(h, skips.pop()) if skips else h


class PoseDecoder(nn.Module):
    """An image of a pose's features and of latents, without an activation at its end.

    Args:
        size: Side of the image.
        dropout: Share of activations.
        first: Channels at the finest scale.
        most: Channels at most, and of the latents.
    """

    def __init__(self, size: int = 256, dropout: float = 0.1, first: int = _FIRST, most: int = _MOST) -> None:
        super().__init__()
        channels = channels_of(size, first, most)[::-1]
        self.first = WeightNormConv(channels[0], channels[0], 1)
        self.before = nn.ModuleList(_Block(c, c, dropout) for c in channels)
        self.inject = nn.ModuleList(WeightNormConv(2 * most, most, 1) for _ in LATENT_SIDES)
        self.after = nn.ModuleList(_Block(c, c, dropout) for c in channels)
        self.up = nn.ModuleList(_Up(a, b) for a, b in zip(channels[:-1], channels[1:], strict=True))
        self.image = WeightNormConv(channels[-1], 3)

    def forward(self, pose: Sequence[Tensor], draw: Draw, *, to_image: bool = True) -> Tensor | None:
        """Call ``draw(number, features) -> z`` where a latent enters, from coarse to fine.

        Args:
            pose: What the pose encoder gave.
            draw: Makes a latent, given features that know the pose and the latents before it.
            to_image: Go on to the image once all latents are drawn.

        Returns:
            Shape ``(B, 3, size, size)``, or None.
        """
        skips = list(pose)
        h = self.first(skips[-1])
        for scale, (before, after) in enumerate(zip(self.before, self.after, strict=True)):
            h = before(h, skips.pop())
            if scale < len(LATENT_SIDES):
                z = draw(scale, h)
                if not to_image and scale == len(LATENT_SIDES) - 1:
                    return None
                h = self.inject[scale](torch.cat([h, z], 1))
            h = after(h, skips.pop())
            if scale < len(self.up):
                h = self.up[scale](h)
        return self.image(h)


class PhaseMeans(nn.Module):
    """Prior means of a latent given features, autoregressive over the four phases of its 2x2 squares.

    Phase i is given the phases before it, so that the means of all are known at once where the latent is, and
    one after another where it is drawn.

    Args:
        channels: Of latent and features.
        dropout: Share of activations.
    """

    def __init__(self, channels: int = _MOST, dropout: float = 0.1) -> None:
        super().__init__()
        self.block = _Block(channels, dropout=dropout)
        self.mean = nn.ModuleList(WeightNormConv(4 * channels, channels) for _ in range(4))
        self.feedback = nn.ModuleList(_Block(4 * channels, channels, dropout) for _ in range(3))

    def forward(self, features: Tensor, draw: Callable[[int, Tensor], Tensor]) -> Tensor:
        """The means ``(B, C, s, s)``; ``draw(phase, mean)`` gives each phase ``(B, C, s / 2, s / 2)``."""
        h, means = space_to_depth(self.block(features)), []
        for phase, mean in enumerate(self.mean):
            means.append(mean(h))
            z = draw(phase, means[-1])
            if phase < len(self.feedback):
                h = self.feedback[phase](h, z)
        return depth_to_space(torch.cat(means, 1))

    def given(self, features: Tensor, z: Tensor) -> Tensor:
        """The means of a latent that is known, ``(B, C, s, s)``."""
        phases = space_to_depth(z).chunk(4, 1)
        return self(features, lambda phase, mean: phases[phase])

    def sample(self, features: Tensor, noise: Tensor) -> Tensor:
        """The latent whose difference from its means is ``noise``, ``(B, C, s, s)``."""
        steps, drawn = space_to_depth(noise).chunk(4, 1), []

        def draw(phase: int, mean: Tensor) -> Tensor:
            drawn.append(mean + steps[phase])
            return drawn[-1]

        self(features, draw)
        return depth_to_space(torch.cat(drawn, 1))
