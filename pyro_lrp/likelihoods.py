"""Densities of an image given its code, p(x|z)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor, nn

from pyro_lrp.core.errors import UserError
from pyro_lrp.core.gradients import full_precision
from pyro_lrp.features import Features

__all__ = ["Bernoulli", "Gaussian", "Likelihood", "Perceptual", "PerceptualDistribution"]


class Likelihood(nn.Module):
    """p(x|z): calling it with the decoder's mean image returns a distribution over images.

    Attributes:
        unit: Of its logarithm.
        has_density: Whether it is a density of images, so that a likelihood of images can be told.
    """

    unit: str = "nats"
    has_density: bool = True

    def forward(self, mean: Tensor, event_dim: int = 3) -> TorchDistribution:
        raise NotImplementedError

    def prepare(self, weights: Mapping[str, str | Path | None]) -> dict[str, Any]:
        """Read what it needs from files, before any training.

        Args:
            weights: Files of pretrained networks, by the network's name; None for the official download.

        Returns:
            What the files settled, in terms of the constructor's arguments.
        """
        return {}


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


class PerceptualDistribution(TorchDistribution):
    """What :class:`Perceptual` returns: it scores an image by features, and "samples" its mean.

    Args:
        mean: Mean images, shape ``(*batch, C, H, W)``.
        features: Maps images ``(B, C, H, W)`` to a list of activations.
        weight: Of the differences.
        power: 2 for squared differences, 1 for absolute ones.
    """

    arg_constraints: ClassVar = {}
    has_rsample = True

    def __init__(
        self, mean: Tensor, features: Callable[[Tensor], list[Tensor]], weight: float, power: int = 2
    ) -> None:
        self._mean, self.features, self.weight, self.power = mean, features, weight, power
        super().__init__(mean.shape[:-3], mean.shape[-3:], validate_args=False)

    @property
    def mean(self) -> Tensor:
        return self._mean

    def expand(self, batch_shape: Any, _instance: object = None) -> PerceptualDistribution:
        mean = self._mean.expand(torch.Size(batch_shape) + self.event_shape)
        return PerceptualDistribution(mean, self.features, self.weight, self.power)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """The mean: without a normaliser there is no noise to draw."""
        return self._mean.expand(torch.Size(sample_shape) + self._mean.shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Minus the weighted sum over layers of mean differences; not normalised."""
        value, mean = torch.broadcast_tensors(value, self._mean)
        with torch.no_grad():
            targets = self.features(value.flatten(0, -4))
        pairs = zip(self.features(mean.flatten(0, -4)), targets, strict=True)
        distances = [full_precision(a - b).abs().pow(self.power).flatten(1).mean(1) for a, b in pairs]
        return -self.weight * torch.stack(distances).sum(0).reshape(value.shape[:-3])


class Perceptual(Likelihood):
    r"""Minus a distance of frozen features, :math:`-\sum_l \overline{(\phi_l(x) - \phi_l(G(z)))^2}`.

    Each layer's squared differences are averaged over its channels and positions, and the layers summed (Morrow
    and Chiu, section 6; spec 10.4). This is no density: it has no normaliser, is not in nats, and ``weight``
    sets its scale against a β above 0.

    The network's weights are neither trained nor saved. They are read by :meth:`prepare`, or at first use.

    Args:
        network: A network of :mod:`pyro_lrp.features`.
        layers: Its layers, such as ``relu_1_1``.
        weight: Factor of the whole, above 0.
        sha256: Of the weights' file, if it must be a certain one.
        power: 2 for squared differences, 1 for absolute ones.
        pixels: The largest value of a pixel in a layer of pixels themselves, besides those of the network; 0
            for none. The U-Net has 255.

    References:
        Hou et al. (2017), Deep Feature Consistent VAE; Esser et al. (2018), A Variational U-Net, for absolute
        differences and pixels (spec 11.3).
    """

    unit = "(no density: features' distance)"
    has_density = False

    def __init__(
        self,
        network: str = "vgg19",
        layers: Sequence[str] = ("relu_1_1", "relu_2_1", "relu_3_1", "relu_4_1"),
        weight: float = 1.0,
        sha256: str | None = None,
        power: int = 2,
        pixels: float = 0.0,
    ) -> None:
        super().__init__()
        if not (weight > 0 and math.isfinite(weight)):
            raise ValueError(f"expected weight to be a positive number, got {weight}")
        if power not in (1, 2) or not (pixels >= 0 and math.isfinite(pixels)):
            raise ValueError(f"expected power 1 or 2 and pixels of at least 0, got {power} and {pixels}")
        self.power, self.pixels = power, pixels
        self.network, self.layers, self.weight, self.sha256 = network, tuple(layers), weight, sha256
        self._features: list[Features] = []  # in a list, so that its weights are not this module's

    def prepare(self, weights: Mapping[str, str | Path | None]) -> dict[str, Any]:
        """Read the weights; layers that the file lacks are left out, and the answer says which are used."""
        features = Features(self.network, self.layers, weights.get(self.network))
        if self.sha256 not in (None, features.sha256):
            raise UserError(
                f"weights.{self.network} are others than those this run began with: their SHA-256 is "
                f"{features.sha256}, expected {self.sha256}"
            )
        self._features = [features]
        self.layers, self.sha256 = features.layers, features.sha256
        return {"layers": list(self.layers), "sha256": self.sha256}

    def forward(self, mean: Tensor, event_dim: int = 3) -> TorchDistribution:
        """The score of images given their mean, shape ``(*batch, C, H, W)``."""
        if not self._features:
            self.prepare({})
        network = self._features[0].to(mean)

        def features(x: Tensor) -> list[Tensor]:
            return [self.pixels * x, *network(x)] if self.pixels else network(x)

        return PerceptualDistribution(mean, features, self.weight, self.power)
