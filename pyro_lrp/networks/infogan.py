"""The InfoGAN architecture of the paper's section 5, in the VAE form of Lucic et al. (2018)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn

from pyro_lrp.networks.heads import check_image_shape, head
from pyro_lrp.networks.spectral import spectral_norm

__all__ = ["infogan"]


def infogan(
    image_shape: Sequence[int],
    latent_dim: int,
    channels: Sequence[int] = (64, 128),
    hidden: int = 1024,
    *,
    encoder_spectral_norm: bool = False,
    bn_momentum: float = 0.1,
    stochastic: bool = True,
) -> tuple[nn.Module, nn.Module]:
    """Build an encoder and a decoder with two strided convolutions and two fully connected layers each.

    Args:
        image_shape: ``(C, S, S)``; the side must be a multiple of 4, as 28, 32 and 64 are.
        latent_dim: Length of a code; 64 in the paper.
        channels: Channels of the two convolutions.
        hidden: Units of the fully connected layer.
        encoder_spectral_norm: Apply spectral normalization to every layer of the encoder (one power iteration),
            as the code of Dai and Wipf does. Off by default: bounding the encoder's gain is itself a latent
            regularization.
        bn_momentum: Weight of a new batch in the running statistics. The reference uses 0.001. The variance of
            the activations is initially far smaller than the initial running variance of 1; at 0.001 the
            statistics need many thousands of steps to adapt, at torch's default of 0.1 a hundred.
        stochastic: Whether the encoder outputs a scale; if not, its ``scale`` is None.

    Returns:
        An encoder ``(B, C, S, S) -> loc, scale``, each ``(B, latent_dim)``, and a decoder
        ``(B, latent_dim) -> (B, C, S, S)`` with values in [0, 1].

    Raises:
        ValueError: If the image is not square or its side is not a multiple of 4.

    References:
        Chen et al. (2016), InfoGAN; Lucic et al. (2018), Are GANs Created Equal?; Dai and Wipf (2019),
        Diagnosing and Enhancing VAE Models.
    """
    image_channels, side, width = check_image_shape(image_shape)
    if side != width or side % 4:
        raise ValueError(
            "network infogan needs square images whose side is a multiple of 4, "
            f"got {side}x{width}: use network=mlp"
        )
    first, second = channels
    sizes = _Sizes(image_channels, side // 4, first, second, hidden)
    trunk = _trunk(sizes, bn_momentum)
    encoder = head(trunk, hidden, latent_dim, stochastic=stochastic)
    decoder = _decoder(sizes, latent_dim, bn_momentum)
    for module in [*encoder.modules(), *decoder.modules()]:
        _initialize(module)
    if encoder_spectral_norm:
        for module in encoder.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                spectral_norm(module)
    return encoder, decoder


class _Sizes(NamedTuple):
    """Channels of the image, its side after two strided convolutions, and the widths of the layers."""

    image: int
    low: int
    first: int
    second: int
    hidden: int

    @property
    def flat(self) -> int:
        return self.second * self.low * self.low


def _trunk(sizes: _Sizes, momentum: float) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(sizes.image, sizes.first, 4, stride=2, padding=1),  # (B, first, S/2, S/2)
        nn.LeakyReLU(0.2),
        nn.Conv2d(sizes.first, sizes.second, 4, stride=2, padding=1),  # (B, second, S/4, S/4)
        nn.BatchNorm2d(sizes.second, momentum=momentum),
        nn.LeakyReLU(0.2),
        nn.Flatten(),
        nn.Linear(sizes.flat, sizes.hidden),
        nn.BatchNorm1d(sizes.hidden, momentum=momentum),
        nn.LeakyReLU(0.2),
    )


def _decoder(sizes: _Sizes, latent_dim: int, momentum: float) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(latent_dim, sizes.hidden),
        nn.BatchNorm1d(sizes.hidden, momentum=momentum),
        nn.ReLU(),
        nn.Linear(sizes.hidden, sizes.flat),
        nn.BatchNorm1d(sizes.flat, momentum=momentum),
        nn.ReLU(),
        nn.Unflatten(1, (sizes.second, sizes.low, sizes.low)),
        nn.ConvTranspose2d(sizes.second, sizes.first, 4, stride=2, padding=1),  # (B, first, S/2, S/2)
        nn.BatchNorm2d(sizes.first, momentum=momentum),
        nn.ReLU(),
        nn.ConvTranspose2d(sizes.first, sizes.image, 4, stride=2, padding=1),  # (B, C, S, S)
        nn.Sigmoid(),
    )


def _initialize(module: nn.Module) -> None:
    """Standard deviation 0.02, zero biases; convolutions truncated at two deviations (Dai and Wipf)."""
    if isinstance(module, nn.Conv2d):
        _truncated_normal(module.weight, 0.02)
    elif isinstance(module, (nn.Linear, nn.ConvTranspose2d)):
        nn.init.normal_(module.weight, std=0.02)
    else:
        return
    if module.bias is not None:
        nn.init.zeros_(module.bias)


def _truncated_normal(weight: Tensor, std: float) -> None:
    nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)
