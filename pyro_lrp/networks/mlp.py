"""Fully connected networks: the perceptron inside couplings, and an encoder and decoder made of two."""

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
        zero_last: Start the last layer at zero, so that a coupling starts with shift 0 and one fixed scale.
        dropout: Share of hidden units dropped in training, at least 0 and below 1.

    Raises:
        ValueError: If ``dropout`` is none such.
    """
    if not 0 <= dropout < 1:
        raise ValueError(f"expected dropout to be a share of at least 0 and below 1, got {dropout}")
    sizes = [input_dim, *hidden_dims, output_dim]
    layers: list[nn.Module] = []
    for fan_in, fan_out in zip(sizes, sizes[1:], strict=False):
        linear = nn.Linear(fan_in, fan_out)
        nn.init.xavier_uniform_(linear.weight)
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.ReLU(), *([nn.Dropout(dropout)] if dropout else [])]
    while layers[-1] is not linear:
        layers.pop()
    if zero_last:
        nn.init.zeros_(linear.weight)
    return nn.Sequential(*layers)


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
        hidden_dims: Widths of the encoder's hidden layers; the decoder has them in reverse.
        stochastic: Whether the encoder has a scale; without, its ``scale`` is None.

    Returns:
        An encoder ``(B, C, H, W) -> loc, scale``, each ``(B, latent_dim)``, and a decoder
        ``(B, latent_dim) -> (B, C, H, W)`` with values in [0, 1].
    """
    shape = check_image_shape(image_shape)
    pixels = math.prod(shape)
    trunk = perceptron(pixels, hidden_dims[:-1], hidden_dims[-1])
    trunk = nn.Sequential(nn.Flatten(), trunk, nn.ReLU())
    encoder = head(trunk, hidden_dims[-1], latent_dim, stochastic=stochastic)
    nn.init.xavier_uniform_(encoder.output.weight)
    decoder = _MlpDecoder(perceptron(latent_dim, hidden_dims[::-1], pixels), shape)
    return encoder, decoder


class _MlpDecoder(nn.Module):
    def __init__(self, network: nn.Module, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.network, self.image_shape = network, image_shape

    def forward(self, z: Tensor) -> Tensor:
        return self.network(z).sigmoid().unflatten(-1, self.image_shape)
