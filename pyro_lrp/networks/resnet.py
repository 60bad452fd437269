"""The residual network of the paper's disentanglement experiments (section 6), after Dai and Wipf (2019)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from pyro_lrp.networks.heads import check_image_shape, head

__all__ = ["resnet"]

_LEAST_LOG_SCALE = -10.0  # a numerical guard (spec, G32): at beta = 0 nothing rewards the encoder's entropy
_MOST_CHANNELS = 1024


def resnet(
    image_shape: Sequence[int],
    latent_dim: int,
    base: int = 32,
    num_scale: int = 4,
    blocks_per_scale: int = 1,
    pool: str = "average",
    hidden: int = 512,
    *,
    bn_momentum: float = 0.1,
    stochastic: bool = True,
) -> tuple[nn.Module, nn.Module]:
    """Encoder and decoder of residual blocks, "a depth of 4".

    The defaults are Dai and Wipf's released code, with their CelebA width; ``blocks_per_scale=2`` and
    ``pool="flatten"`` are what their text describes.

    Args:
        image_shape: ``(C, S, S)``; S a power of two of at least ``2 ** (num_scale - 1)``, 64 in the paper.
        latent_dim: Length of a code.
        base: Channels at the finest scale; each coarser one has twice as many (the decoder at most 1,024).
        num_scale: Scales of the encoder.
        blocks_per_scale: Residual blocks at each scale.
        pool: ``"average"`` over all positions before the fully connected block, or ``"flatten"``.
        hidden: Units of the fully connected block.
        bn_momentum: Weight of a new batch in the running statistics.
        stochastic: Whether the encoder has a scale; without, its ``scale`` is None.

    Returns:
        An encoder ``(B, C, S, S) -> loc, scale``, each ``(B, latent_dim)``, and a decoder
        ``(B, latent_dim) -> (B, C, S, S)`` with values in [0, 1].

    Raises:
        ValueError: If the image or ``pool`` cannot be served.

    References:
        Dai and Wipf (2019), Diagnosing and Enhancing VAE Models, and its code (TwoStageVAE).

    >>> encoder, decoder = resnet((3, 64, 64), latent_dim=64)
    >>> [sum(p.numel() for p in network.parameters()) for network in (encoder, decoder)]
    [3333344, 15988323]
    """
    channels, side, width = check_image_shape(image_shape)
    least = 2 ** (num_scale - 1)
    if side != width or side & (side - 1) or side < max(least, 4):
        raise ValueError(
            f"network resnet needs square images whose side is a power of two of at least {max(least, 4)}, "
            f"got {side}x{width}: use network=infogan, or another data.image_size"
        )
    if pool not in ("average", "flatten"):
        raise ValueError(f"expected pool to be average or flatten, got {pool!r}")
    if min(latent_dim, base, num_scale, blocks_per_scale, hidden) < 1:
        raise ValueError("expected latent_dim, base, num_scale, blocks_per_scale and hidden of at least 1")

    widths = [base * 2**scale for scale in range(num_scale)]
    layers: list[nn.Module] = [_conv(channels, base)]
    for fine, coarse in zip(widths, [*widths[1:], None], strict=True):
        layers += [_Residual(fine, bn_momentum) for _ in range(blocks_per_scale)]
        layers += [] if coarse is None else [_conv(fine, coarse, stride=2)]
    features = widths[-1] * ((side // least) ** 2 if pool == "flatten" else 1)
    layers += [nn.AdaptiveAvgPool2d(1)] if pool == "average" else []
    layers += [nn.Flatten(), _FullyConnectedResidual(features, hidden)]
    encoder = head(
        nn.Sequential(*layers), hidden, latent_dim, stochastic=stochastic, least_log_scale=_LEAST_LOG_SCALE
    )

    sides = [2**k for k in range(1, int(math.log2(side)) + 1)]  # 2, 4, ..., S
    widths = [min(base * 2**k, _MOST_CHANNELS) for k in reversed(range(len(sides)))]
    layers = [nn.Linear(latent_dim, 4 * widths[0]), nn.Unflatten(1, (widths[0], 2, 2))]
    for coarse, fine in zip(widths, widths[1:], strict=False):
        layers += [nn.ConvTranspose2d(coarse, fine, 3, stride=2, padding=1, output_padding=1)]
        layers += [_Residual(fine, bn_momentum) for _ in range(blocks_per_scale)]
    decoder = nn.Sequential(*layers, _conv(widths[-1], channels), nn.Sigmoid())
    for module in [*encoder.modules(), *decoder.modules()]:
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
            nn.init.xavier_uniform_(module.weight)
            assert module.bias is not None, "every layer here has one"
            nn.init.zeros_(module.bias)
    for kernel in encoder.output.weight.data.chunk(2 if stochastic else 1):  # the mean's and the scale's
        nn.init.xavier_uniform_(kernel)
    return encoder, decoder


def _conv(channels_in: int, channels_out: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1)


class _Residual(nn.Module):
    """Twice batch norm, ReLU, 3x3 convolution; plus a 3x3 convolution of the input."""

    def __init__(self, channels: int, momentum: float) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(
                part
                for _ in range(2)
                for part in (nn.BatchNorm2d(channels, momentum=momentum), nn.ReLU(), _conv(channels, channels))
            )
        )
        self.shortcut = _conv(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + self.shortcut(x)


class _FullyConnectedResidual(nn.Module):
    """Twice ReLU, linear; plus a linear layer of the input."""

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.ReLU(), nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, hidden))
        self.shortcut = nn.Linear(features, hidden)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + self.shortcut(x)
