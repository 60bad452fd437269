"""Autoencoders as Pyro model/guide pairs."""

from __future__ import annotations

from torch import nn

from pyro_lrp.likelihoods import Likelihood
from pyro_lrp.models.autoencoder import Autoencoder, Draw
from pyro_lrp.models.hierarchical import HierarchicalAutoencoder
from pyro_lrp.priors import Hierarchy, Prior

__all__ = ["Autoencoder", "Draw", "HierarchicalAutoencoder", "autoencoder"]


def autoencoder(encoder: nn.Module, decoder: nn.Module, prior: Prior, likelihood: Likelihood) -> Autoencoder:
    """The autoencoder of a prior: of several latents for a :class:`~pyro_lrp.priors.Hierarchy`, else of one."""
    if isinstance(prior, Hierarchy):
        return HierarchicalAutoencoder(encoder, decoder, prior, likelihood)
    return Autoencoder(encoder, decoder, prior, likelihood)
