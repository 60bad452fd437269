"""Densities of an image given its code, p(x|z)."""

from __future__ import annotations

import math

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor, nn

__all__ = ["Bernoulli", "Gaussian", "Likelihood"]


class Likelihood(nn.Module):
    """p(x|z): calling it with the decoder's mean image returns a distribution over images."""

    def forward(self, mean: Tensor, event_dim: int = 3) -> TorchDistribution:
        raise NotImplementedError


class Gaussian(Likelihood):
    r"""Gaussian of one variance for all pixels, :math:`N(x; G(z), \gamma I)`, its constants included.

    Args:
        gamma: The variance (of pixels in [0, 1]), above 0; where it starts, if it is learned.
        learn: Learn it. It is stored as the log standard deviation, and its best value is the mean squared
            residual. It often wants a faster rate than the networks (``likelihood.lr``).

    Raises:
        ValueError: If ``gamma`` is not a positive finite number.

    References:
        Dai and Wipf (2019), whose code calls the standard deviation gamma.

    >>> likelihood = Gaussian(gamma=1.0)
    >>> round(likelihood(torch.zeros(1, 1, 28, 28)).log_prob(torch.zeros(1, 1, 28, 28)).item(), 3)
    -720.448
    """

    def __init__(self, gamma: float = 1.0, *, learn: bool = False) -> None:
        super().__init__()
        if not (gamma > 0 and math.isfinite(gamma)):
            raise ValueError(f"expected gamma, a variance, to be a positive number, got {gamma}")
        log_scale = torch.tensor(0.5 * math.log(gamma))
        if learn:
            self.log_scale = nn.Parameter(log_scale)
        else:
            self.register_buffer("log_scale", log_scale)

    @property
    def gamma(self) -> Tensor:
        """The variance, a scalar."""
        return (2.0 * self.log_scale).exp()

    def forward(self, mean: Tensor, event_dim: int = 3) -> TorchDistribution:
        """p(x|z) with the given mean, shape ``(*batch, *event)``, of ``event_dim`` event dimensions."""
        return dist.Normal(mean, self.log_scale.exp()).to_event(event_dim)


class Bernoulli(Likelihood):
    r"""Cross-entropy, :math:`\sum x \log G(z) + (1 - x) \log(1 - G(z))`, the common baseline for digits.

    For pixels strictly between 0 and 1 it has no normaliser, so its values compare models, not likelihoods
    (Loaiza-Ganem and Cunningham, 2019, The Continuous Bernoulli).

    >>> x, mean = torch.ones(1, 1, 1, 2), torch.full((1, 1, 1, 2), 0.5)
    >>> round(Bernoulli()(mean).log_prob(x).item(), 5)
    -1.38629
    """

    def forward(self, mean: Tensor, event_dim: int = 3) -> TorchDistribution:
        """p(x|z) with the given probabilities, shape ``(*batch, *event)``."""
        return dist.Bernoulli(mean, validate_args=False).to_event(event_dim)
