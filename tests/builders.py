"""Small models that several test files build."""

import torch
from torch import nn

from pyro_lrp import likelihoods, models, networks, objectives, priors


def small_autoencoder(latent_dim=4, *, prior=None, learn_gamma=False, hidden=16):
    encoder, decoder = networks.mlp((1, 8, 8), latent_dim, hidden_dims=(hidden,))
    prior = prior or priors.paper_flow(latent_dim, layers=2, width=8)
    ae = models.Autoencoder(encoder, decoder, prior, likelihoods.Gaussian(learn=learn_gamma))
    return ae


def jiggle(module: nn.Module, size=0.1):
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(size * torch.randn_like(parameter))
    return module


def small_game(beta=0.0, **kwargs):
    return objectives.LatentGame(small_autoencoder(**kwargs), objectives.BilevelELBO(beta))


def gradients(loss, module, **options):
    """The gradient of ``loss`` for each named parameter; zeros where none arrives."""
    parameters = dict(module.named_parameters())
    values = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True, **options)
    zeros = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters.values(), values, strict=True)]
    return dict(zip(parameters, zeros, strict=True))
