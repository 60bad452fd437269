"""The residual network of the paper's disentanglement experiments (section 6), after Dai and Wipf (2019)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from pyro_lrp.networks.heads import check_image_shape, head

__all__ = ["resnet"]

_LEAST_LOG_SCALE = -10.0  # a numerical guard (spec, G32): at beta = 0 the loss does not reward entropy
_MAX_CHANNELS = 1024


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
    """Build an encoder and a decoder of residual blocks, "a depth of 4".

    The defaults follow Dai and Wipf's released code, with their CelebA width; their text describes
    ``blocks_per_scale=2`` and ``pool="flatten"``.

    Args:
        image_shape: ``(C, S, S)``; S a power of two of at least ``2 ** (num_scale - 1)``, 64 in the paper.
        latent_dim: Length of a code.
        base: Channels at the finest scale; each coarser one has twice as many (the decoder at most 1,024).
        num_scale: Number of scales of the encoder.
        blocks_per_scale: Number of residual blocks at each scale.
        pool: ``"average"`` over all positions before the fully connected block, or ``"flatten"``.
        hidden: Units of the fully connected block.
        bn_momentum: Weight of a new batch in the running statistics. The reference uses 0.001; see
            :func:`~pyro_lrp.networks.infogan`.
        stochastic: Whether the encoder outputs a scale; if not, its ``scale`` is None.

    Returns:
        An encoder ``(B, C, S, S) -> loc, scale``, each ``(B, latent_dim)``, and a decoder
        ``(B, latent_dim) -> (B, C, S, S)`` with values in [0, 1].

    Raises:
        ValueError: If the image has an unsupported shape, or another argument is invalid.

    References:
        Dai and Wipf (2019), Diagnosing and Enhancing VAE Models, and its code (TwoStageVAE).

    >>> encoder, decoder = resnet((3, 64, 64), latent_dim=64)
    >>> [sum(p.numel() for p in network.parameters()) for network in (encoder, decoder)]
    [3333344, 15988323]
    """
    channels, side, width = check_image_shape(image_shape)
    least = max(2 ** (num_scale - 1), 4)
    is_power_of_two = side & (side - 1) == 0
    if side != width or not is_power_of_two or side < least:
        raise ValueError(
            f"network resnet needs square images whose side is a power of two of at least {least}, "
            f"got {side}x{width}: use network=infogan, or another data.image_size"
        )
    if pool not in ("average", "flatten"):
        raise ValueError(f"expected pool to be average or flatten, got {pool!r}")
    if min(latent_dim, base, num_scale, blocks_per_scale, hidden) < 1:
        raise ValueError("expected latent_dim, base, num_scale, blocks_per_scale and hidden of at least 1")
    widths = [base * 2**scale for scale in range(num_scale)]
    trunk = _trunk(channels, side, widths, blocks_per_scale, pool, hidden, bn_momentum)
    encoder = head(
        trunk,
        hidden,
        latent_dim,
        stochastic=stochastic,
        least_log_scale=_LEAST_LOG_SCALE,
    )
    decoder = _decoder(latent_dim, channels, side, base, blocks_per_scale, bn_momentum)
    for module in [*encoder.modules(), *decoder.modules()]:
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
            nn.init.xavier_uniform_(module.weight)
            assert module.bias is not None, "every layer here has one"
            nn.init.zeros_(module.bias)
    kernels = [encoder.output.weight.data]
    if stochastic:
        kernels = list(encoder.output.weight.data.chunk(2))  # of the mean and of the scale
    for kernel in kernels:
        nn.init.xavier_uniform_(kernel)
    return encoder, decoder


def _trunk(
    channels: int,
    side: int,
    widths: Sequence[int],
    blocks: int,
    pool: str,
    hidden: int,
    momentum: float,
) -> nn.Sequential:
    """The encoder without its head; ``widths`` are the channels at each scale, from the finest."""
    layers: list[nn.Module] = [_conv(channels, widths[0])]
    for scale, width in enumerate(widths):
        if scale > 0:
            layers.append(_conv(widths[scale - 1], width, stride=2))
        layers += _residuals(width, blocks, momentum)
    features = widths[-1]
    if pool == "average":
        layers.append(nn.AdaptiveAvgPool2d(1))
    else:
        low = side // 2 ** (len(widths) - 1)
        features = features * low**2
    layers.append(nn.Flatten())
    layers.append(_FullyConnectedResidual(features, hidden))
    return nn.Sequential(*layers)


def _decoder(
    latent_dim: int,
    channels: int,
    side: int,
    base: int,
    blocks: int,
    momentum: float,
) -> nn.Sequential:
    scales = int(math.log2(side))  # of sides 2, 4, ..., S
    widths = []
    for scale in reversed(range(scales)):
        widths.append(min(base * 2**scale, _MAX_CHANNELS))
    layers: list[nn.Module] = [
        nn.Linear(latent_dim, 4 * widths[0]),
        nn.Unflatten(1, (widths[0], 2, 2)),
    ]
    for coarse, fine in zip(widths, widths[1:], strict=False):
        up = nn.ConvTranspose2d(coarse, fine, 3, stride=2, padding=1, output_padding=1)
        layers.append(up)
        layers += _residuals(fine, blocks, momentum)
    return nn.Sequential(*layers, _conv(widths[-1], channels), nn.Sigmoid())


def _conv(channels_in: int, channels_out: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1)


def _residuals(channels: int, count: int, momentum: float) -> list[nn.Module]:
    return [_Residual(channels, momentum) for _ in range(count)]


class _Residual(nn.Module):
    """Batch norm, ReLU and 3x3 convolution, twice; plus a 3x3 convolution of the input."""

    def __init__(self, channels: int, momentum: float) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(channels, momentum=momentum),
            nn.ReLU(),
            _conv(channels, channels),
            nn.BatchNorm2d(channels, momentum=momentum),
            nn.ReLU(),
            _conv(channels, channels),
        )
        self.shortcut = _conv(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + self.shortcut(x)


class _FullyConnectedResidual(nn.Module):
    """ReLU and linear layer, twice; plus a linear layer of the input."""

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.ReLU(),
            nn.Linear(features, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
        )
        self.shortcut = nn.Linear(features, hidden)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + self.shortcut(x)
