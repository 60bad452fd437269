"""Fully connected networks: the perceptron used in couplings, and an encoder and a decoder."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from pyro_lrp.networks.heads import check_image_shape, head

__all__ = ["mlp", "perceptron"]


def perceptron(
    input_dim: int,
    hidden_dims: Sequence[int],
    output_dim: int,
    *,
    zero_last: bool = False,
    dropout: float = 0.0,
) -> nn.Sequential:
    """Linear layers with ReLU between them; Glorot uniform kernels and zero biases.

    Args:
        input_dim: Length of an input.
        hidden_dims: Widths of the hidden layers; may be empty.
        output_dim: Length of an output.
        zero_last: Initialize the last layer to zero, so that a coupling starts with shift 0 and a fixed scale.
        dropout: Dropout rate of the hidden units, at least 0 and below 1.

    Raises:
        ValueError: If ``dropout`` is out of range.
    """
    if not 0 <= dropout < 1:
        raise ValueError(f"expected dropout to be a share of at least 0 and below 1, got {dropout}")
    layers: list[nn.Module] = []
    fan_in = input_dim
    for fan_out in hidden_dims:
        layers.append(_glorot_linear(fan_in, fan_out))
        layers.append(nn.ReLU())
        if dropout:
            layers.append(nn.Dropout(dropout))
        fan_in = fan_out
    last = _glorot_linear(fan_in, output_dim)
    if zero_last:
        nn.init.zeros_(last.weight)
    return nn.Sequential(*layers, last)


def _glorot_linear(fan_in: int, fan_out: int) -> nn.Linear:
    linear = nn.Linear(fan_in, fan_out)
    nn.init.xavier_uniform_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear


def mlp(
    image_shape: Sequence[int],
    latent_dim: int,
    hidden_dims: Sequence[int] = (512, 512),
    *,
    stochastic: bool = True,
) -> tuple[nn.Module, nn.Module]:
    """A fully connected encoder and decoder for images of any size.

    Args:
        image_shape: ``(C, H, W)``.
        latent_dim: Length of a code.
        hidden_dims: Widths of the encoder's hidden layers; the decoder has them in reverse order.
        stochastic: Whether the encoder outputs a scale; if not, its ``scale`` is None.

    Returns:
        An encoder ``(B, C, H, W) -> loc, scale``, each ``(B, latent_dim)``, and a decoder
        ``(B, latent_dim) -> (B, C, H, W)`` with values in [0, 1].
    """
    shape = check_image_shape(image_shape)
    pixels = math.prod(shape)
    if not hidden_dims:
        raise ValueError("expected hidden_dims to hold the width of one layer at least")
    features = hidden_dims[-1]
    hidden = perceptron(pixels, hidden_dims[:-1], features)
    trunk = nn.Sequential(nn.Flatten(), hidden, nn.ReLU())
    encoder = head(trunk, features, latent_dim, stochastic=stochastic)
    nn.init.xavier_uniform_(encoder.output.weight)
    network = perceptron(latent_dim, hidden_dims[::-1], pixels)
    return encoder, _MlpDecoder(network, shape)


class _MlpDecoder(nn.Module):
    def __init__(self, network: nn.Module, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.network = network
        self.image_shape = image_shape

    def forward(self, z: Tensor) -> Tensor:
        pixels = self.network(z).sigmoid()
        return pixels.unflatten(-1, self.image_shape)
