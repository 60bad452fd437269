"""Models whose path lengths, distances or evidences are known."""

from dataclasses import replace
from functools import partial

import pyro.distributions as dist
import pyro.distributions.transforms as pyro_transforms
import torch
from torch import nn

from pyro_lrp import data, likelihoods, models, priors, transforms
from pyro_lrp.metrics import Subject
from pyro_lrp.metrics.image_distance import ImageDistance, lpips_distance

ALEXNET = partial(lpips_distance, network="alexnet")


def squared(x, y):
    return (x - y).square().flatten(1).sum(1)


SQUARED = ImageDistance(squared, {"network": "squared difference of pixels"}, any_size=True)


class Scaled(priors.StandardNormal):
    """N(0, s^2), whose base is N(0, 1)."""

    def __init__(self, dim, scale):
        super().__init__(dim)
        self.scale = scale

    def to_latent(self, z, context=None):
        return self.scale * z

    def to_base(self, z, context=None):
        return z / self.scale


class Picture(nn.Module):
    """The code as an image."""

    def __init__(self, side=8, channels=1):
        super().__init__()
        self.shape = (channels, side, side)

    def forward(self, z):
        return z.reshape(len(z), *self.shape)


class Encoder(nn.Module):
    """The image as a code, without noise."""

    def forward(self, x):
        return x.flatten(1), None


def linear_subject(prior, side=8, **options):
    ae = models.Autoencoder(Encoder(), Picture(side), prior, likelihoods.Gaussian())
    return Subject(ae.eval(), data.fake(60, (1, side, side)), **options)


def autoregressive():
    masked = partial(pyro_transforms.affine_autoregressive, hidden_dims=[8])
    return priors.Flow(4, [partial(transforms.inverse_of, factory=masked, input_dim=4)], layers=1, whiten=None)


ZOO = {
    "standard normal": lambda: priors.StandardNormal(4),
    "paper's flow": lambda: priors.paper_flow(4, layers=2, width=8),
    "masked autoregressive flow": autoregressive,
    "flow matching": lambda: priors.FlowMatching(4, width=8, layers=1),
    "conditional flow": lambda: priors.conditional_paper_flow(4, 10, 2, 8),
    "mixture": lambda: priors.Mixture(4, 3),
    "vamp": lambda: priors.VampPrior(4, (1, 8, 8), 3),
    "sampler": lambda: priors.NeuralSampler(4, 1, 8),
}


class Told(priors.StandardNormal):
    """A prior that is its context plus noise."""

    context_dim = 10

    def __init__(self, noise):
        super().__init__(64)
        self.noise = noise

    def shift(self, context):
        return context.repeat(1, 7)[:, :64]

    def forward(self, context=None, *, temperature=1.0):
        shift = self.shift(context)
        return torch.distributions.Independent(torch.distributions.Normal(shift, self.noise), 1)

    def to_latent(self, z, context=None):
        return self.shift(context) + self.noise * z

    def to_base(self, z, context=None):
        return (z - self.shift(context)) / self.noise


def conditional_subject(noise, **options):
    subject = linear_subject(Told(noise), **options)
    images, _ = data.with_context(subject.data, "label")
    return replace(subject, data=images)


def unlabelled():
    split = data.Split(torch.zeros(4, 1, 8, 8, dtype=torch.uint8))
    return data.ImageData("npz", split, split)


class LeastSquares(nn.Module):
    """The code that fits an image best, with too little noise, as at beta = 0."""

    def __init__(self, decoder):
        super().__init__()
        self.a = decoder.a
        self.b = decoder.b

    def forward(self, x):
        loc = torch.linalg.lstsq(self.a, (x.flatten(1) - self.b).T).solution.T
        return loc, torch.full_like(loc, 1e-3)


class Linear(nn.Module):
    """a z + b, as images (1, 2, PIXELS / 2)."""

    def __init__(self, dim, pixels):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.a = 0.3 * torch.randn(pixels, dim)
        self.b = torch.full((pixels,), 0.5)

    def forward(self, z):
        return (z @ self.a.T + self.b).reshape(len(z), 1, 2, -1)


def linear_gaussian(dim, pixels, gamma):
    """An autoencoder with N(0, I), and the p(x) of its images as vectors, in float64."""
    decoder = Linear(dim, pixels)
    ae = models.Autoencoder(
        LeastSquares(decoder), decoder, priors.StandardNormal(dim), likelihoods.Gaussian(gamma)
    )
    covariance = decoder.a @ decoder.a.T + gamma * torch.eye(pixels)
    return ae.eval(), dist.MultivariateNormal(decoder.b.double(), covariance.double())
