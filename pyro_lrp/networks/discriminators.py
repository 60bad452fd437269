"""Discriminators of codes, for adversarial objectives."""

from __future__ import annotations

from torch import nn

from pyro_lrp.networks.mlp import perceptron

__all__ = ["discriminator", "factor_discriminator"]


def discriminator(latent_dim: int, layers: int = 2, width: int = 1024) -> nn.Module:
    """The AAE's discriminator (appendix A.2): codes ``(B, d)`` to the logit of "from the prior", ``(B, 1)``.

    Args:
        latent_dim: Length of a code.
        layers: Number of hidden layers, each followed by ReLU.
        width: Width of the hidden layers.

    >>> sum(p.numel() for p in discriminator(64).parameters())
    1117185
    """
    return perceptron(latent_dim, [width] * layers, 1)


def factor_discriminator(latent_dim: int, layers: int = 6, width: int = 1000) -> nn.Module:
    """FactorVAE's discriminator: codes ``(B, d)`` to the logits of "joint" and "permuted", ``(B, 2)``.

    LeakyReLU with slope 0.2; kernels N(0, 0.02^2), zero biases (Kim and Mnih, 2018; widths as in
    disentanglement_lib).

    Args:
        latent_dim: Length of a code.
        layers: Number of hidden layers.
        width: Width of the hidden layers.

    >>> sum(p.numel() for p in factor_discriminator(64).parameters())
    5072002
    """
    network = perceptron(latent_dim, [width] * layers, 2)
    for index, module in enumerate(network):
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.02)
        else:
            network[index] = nn.LeakyReLU(0.2)
    return network
