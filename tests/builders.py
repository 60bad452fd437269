"""Small models that several test files build."""

import functools

import numpy as np
import torch
import torchvision
from torch import nn

from pyro_lrp import likelihoods, models, networks, objectives, priors, schedules


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


def difference(some, others, least):
    """The largest difference of two states, relative to the largest value of each tensor, or to ``least``."""
    largest = 0.0
    for name, value in some.items():
        if value.is_floating_point() and value.numel():
            scale = value.abs().max().clamp_min(least)
            largest = max(largest, ((value - others[name]).abs().max() / scale).item())
    return largest


def small_game(beta=0.0, **kwargs):
    return objectives.LatentGame(small_autoencoder(**kwargs), objectives.BilevelELBO(beta))


def gradients(loss, module, **options):
    """The gradient of ``loss`` for each named parameter; zeros where none arrives."""
    parameters = dict(module.named_parameters())
    values = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True, **options)
    zeros = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters.values(), values, strict=True)]
    return dict(zip(parameters, zeros, strict=True))


def random_vgg19(path, convolutions=5, seed=0):
    """A file of random weights for the lower convolutions of VGG19, in the names of torchvision."""
    np.savez(path, **_random_vgg19(convolutions, seed))
    return path


@functools.cache
def _random_vgg19(convolutions, seed):
    with torch.device("meta"):
        shapes = torchvision.models.vgg19(weights=None).features.state_dict()
    generator = torch.Generator().manual_seed(seed)
    arrays = {}
    for name, meta in [*shapes.items()][: 2 * convolutions]:
        scale = (2.0 / max(1, meta[0].numel())) ** 0.5 if name.endswith("weight") else 0.1
        arrays[f"features.{name}"] = (scale * torch.randn(meta.shape, generator=generator)).numpy()
    return arrays


def _sampler_game(beta, **options):
    ae = small_autoencoder(prior=priors.NeuralSampler(4, 1, 8), hidden=options.pop("hidden", 16))
    return objectives.Adversarial(ae, networks.discriminator(4, 1, 8), beta, **options)


def _factor_game():
    ae = small_autoencoder(prior=priors.StandardNormal(4))
    elbo = objectives.BilevelELBO(1.0, kl="auto", free_bits=0.01)
    return objectives.TotalCorrelation(ae, elbo, networks.factor_discriminator(4, 1, 8))


def _game_of(prior, beta=0.0):
    return objectives.LatentGame(small_autoencoder(prior=prior), objectives.BilevelELBO(beta))


GAMES = {
    "bilevel": small_game,
    "mixture": lambda: _game_of(priors.Mixture(4, 3, em_iterations=5), beta=1.0),
    "vamp": lambda: _game_of(priors.VampPrior(4, (1, 8, 8), 3), beta=0.5),
    "flow matching": lambda: _game_of(priors.FlowMatching(4, width=8, layers=1)),
    "learned gamma, beta on a ramp": lambda: objectives.LatentGame(
        small_autoencoder(learn_gamma=True), objectives.BilevelELBO(2.0), schedules.Linear(0.0, 0.5)
    ),
    "total correlation": _factor_game,
    "adversarial": lambda: _sampler_game(0.0),
    "adversarial, beta on a ramp": lambda: _sampler_game(1.0, beta_schedule=schedules.Linear(0.0, 0.5)),
}
