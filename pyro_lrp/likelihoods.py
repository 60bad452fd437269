"""Likelihoods p(x|z): distributions of an image given its code."""

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

_ROUNDING = 1 / (12 * 255**2)  # variance of a uniform error of half a step of 8-bit pixels in [0, 1]


class Likelihood(nn.Module):
    """p(x|z): called with the decoder's mean image, it returns a distribution over images.

    Attributes:
        unit: The unit of its logarithm.
        has_density: Whether it is a density of images, so that images have a likelihood.
    """

    unit: str = "nats"
    has_density: bool = True

    def forward(self, mean: Tensor, event_dim: int = 3) -> TorchDistribution:
        raise NotImplementedError

    def best(self, pixels: int) -> float | None:
        """The log p(x|z) of an image that is reconstructed without error; None if there is no such number.

        Args:
            pixels: Number of values of an image.
        """
        return None

    def prepare(self, weights: Mapping[str, str | Path | None]) -> dict[str, Any]:
        """Read the files it needs, before any training.

        Args:
            weights: Files of pretrained networks, by name; None for the official download.

        Returns:
            The constructor's arguments that the files determine.
        """
        return {}

    def check(self, mean: Tensor) -> None:
        """Refuse mean images that cannot be those of this likelihood; called once, before training.

        Raises:
            UserError: Says what they must be.
        """

    def fault(self, terms: Mapping[str, float]) -> str | None:
        """What is wrong with a training, in a sentence; None if nothing is.

        Args:
            terms: Means of the training terms since the last report.
        """
        return None


class Gaussian(Likelihood):
    r"""Gaussian with one variance for all pixels, :math:`N(x; G(z), \gamma I)`, constants included.

    Args:
        gamma: The variance of pixels in [0, 1], above 0; the initial value if it is learned.
        learn: Learn the variance. It is stored as the log standard deviation; its optimum is the mean squared
            residual. It often needs a faster rate than the networks (``likelihood.lr``). Where the decoder
            reproduces the images, as if all are alike, it falls to 0, and training stops with an error.

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
        log_scale = torch.tensor(0.5 * math.log(gamma))  # of the standard deviation
        if learn:
            self.log_scale = nn.Parameter(log_scale)
        else:
            self.register_buffer("log_scale", log_scale)

    @property
    def gamma(self) -> Tensor:
        """The variance, a scalar."""
        return (2.0 * self.log_scale).exp()

    @property
    def learns(self) -> bool:
        """Whether the variance is learned."""
        return isinstance(self.log_scale, nn.Parameter)

    def best(self, pixels: int) -> float:
        """The log p(x|z) of an image that is reconstructed without error.

        >>> round(Gaussian(gamma=1.0).best(784), 3)
        -720.448
        """
        return -0.5 * pixels * math.log(2 * math.pi * self.gamma.item())

    def fault(self, terms: Mapping[str, float]) -> str | None:
        """Whether a learned variance has fallen below that of rounding to 8 bits."""
        gamma = terms.get("gamma", 1.0)
        if not self.learns or gamma >= _ROUNDING:
            return None
        return (
            f"gamma, the learned variance of pixels, has collapsed to {gamma:.1e}, below that of rounding to 8 "
            f"bits, {_ROUNDING:.1e}: the decoder reproduces the training images exactly, as where all are "
            "alike; see to the data, or give a fixed variance (likelihood=gaussian likelihood.gamma=0.01)"
        )

    def forward(self, mean: Tensor, event_dim: int = 3) -> TorchDistribution:
        """p(x|z) with the given mean, shape ``(*batch, *event)``, of ``event_dim`` event dimensions."""
        return dist.Normal(mean, self.log_scale.exp()).to_event(event_dim)


class Bernoulli(Likelihood):
    r"""Cross-entropy, :math:`\sum x \log G(z) + (1 - x) \log(1 - G(z))`, the common baseline for digits.

    It is not normalised for pixels strictly between 0 and 1, so its values compare models, and are no
    likelihoods (Loaiza-Ganem and Cunningham, 2019, The Continuous Bernoulli).

    >>> x, mean = torch.ones(1, 1, 1, 2), torch.full((1, 1, 1, 2), 0.5)
    >>> round(Bernoulli()(mean).log_prob(x).item(), 5)
    -1.38629
    """

    def check(self, mean: Tensor) -> None:
        """Refuse values outside [0, 1], which would be clipped without a word."""
        low = mean.min().item()
        high = mean.max().item()
        if not 0 <= low <= high <= 1:
            raise UserError(
                "likelihood Bernoulli: decoded images are probabilities, in [0, 1], and this decoder's lie "
                f"between {low:.3g} and {high:.3g}: end it with a sigmoid"
            )

    def forward(self, mean: Tensor, event_dim: int = 3) -> TorchDistribution:
        """p(x|z) with the given probabilities, shape ``(*batch, *event)``."""
        return dist.Bernoulli(mean, validate_args=False).to_event(event_dim)


class PerceptualDistribution(TorchDistribution):
    """The distribution of :class:`Perceptual`: it scores an image by features, and its sample is its mean.

    Args:
        mean: Mean images, shape ``(*batch, C, H, W)``.
        features: Maps images ``(B, C, H, W)`` to a list of activations.
        weight: Factor of the differences.
        power: 2 for squared differences, 1 for absolute ones.
    """

    arg_constraints: ClassVar = {}
    has_rsample = True

    def __init__(
        self,
        mean: Tensor,
        features: Callable[[Tensor], list[Tensor]],
        weight: float,
        power: int = 2,
    ) -> None:
        self._mean = mean
        self.features = features
        self.weight = weight
        self.power = power
        batch_shape = mean.shape[:-3]
        event_shape = mean.shape[-3:]
        super().__init__(batch_shape, event_shape, validate_args=False)

    @property
    def mean(self) -> Tensor:
        return self._mean

    def expand(self, batch_shape: Any, _instance: object = None) -> PerceptualDistribution:
        shape = torch.Size(batch_shape) + self.event_shape
        mean = self._mean.expand(shape)
        return PerceptualDistribution(mean, self.features, self.weight, self.power)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """The mean: a score without a normaliser has no noise to draw."""
        shape = torch.Size(sample_shape) + self._mean.shape
        return self._mean.expand(shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Minus the weighted sum over layers of the mean differences; not normalised.

        Args:
            value: Images, shape ``(*batch, C, H, W)``.

        Returns:
            Shape ``batch``.
        """
        value, mean = torch.broadcast_tensors(value, self._mean)
        with torch.no_grad():
            targets = self.features(value.flatten(0, -4))
        activations = self.features(mean.flatten(0, -4))
        distances = []
        for a, b in zip(activations, targets, strict=True):
            difference = full_precision(a - b).abs().pow(self.power)
            distances.append(difference.flatten(1).mean(1))
        total = torch.stack(distances).sum(0)
        return -self.weight * total.reshape(value.shape[:-3])


class Perceptual(Likelihood):
    r"""Minus a distance of frozen features, :math:`-\sum_l \overline{(\phi_l(x) - \phi_l(G(z)))^2}`.

    The squared differences of a layer are averaged over channels and positions, and the layers are summed
    (Morrow and Chiu, section 6; spec 10.4). This is no density: it is not normalised and not in nats, and
    ``weight`` sets its scale relative to a β above 0.

    The weights of the network are neither trained nor saved. They are read by :meth:`prepare`, or at first use.

    Args:
        network: A network of :mod:`pyro_lrp.features`.
        layers: Names of its layers, such as ``relu_1_1``.
        weight: Factor of the distance, above 0.
        sha256: The required hash of the file of weights; None accepts any.
        power: 2 for squared differences, 1 for absolute ones.
        pixels: Factor of a further layer, the pixels in [0, 1] themselves; 0 for none. The U-Net has 255.
        caffe: Bring activations to the scale of Caffe's networks, which see pixels from 0 to 255: that of the
            U-Net is one; see :class:`~pyro_lrp.features.Features`.

    Raises:
        ValueError: If a number is out of range.

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
        *,
        caffe: bool = False,
    ) -> None:
        super().__init__()
        if not (weight > 0 and math.isfinite(weight)):
            raise ValueError(f"expected weight to be a positive number, got {weight}")
        if power not in (1, 2) or not (pixels >= 0 and math.isfinite(pixels)):
            raise ValueError(f"expected power 1 or 2 and pixels of at least 0, got {power} and {pixels}")
        self.network = network
        self.layers = tuple(layers)
        self.weight = weight
        self.sha256 = sha256
        self.power = power
        self.pixels = pixels
        self.caffe = caffe
        # in a list, so that the weights are no parameters of this module
        self._features: list[Features] = []

    def prepare(self, weights: Mapping[str, str | Path | None]) -> dict[str, Any]:
        """Read the weights; layers that the file lacks are left out.

        Args:
            weights: Files of pretrained networks, by name; None for the official download.

        Returns:
            The layers that are used, and the hash of the file.

        Raises:
            UserError: If the file has another hash than required.
        """
        features = Features(self.network, self.layers, weights.get(self.network))
        if self.sha256 not in (None, features.sha256):
            raise UserError(
                f"weights.{self.network} are others than those this run began with: their SHA-256 is "
                f"{features.sha256}, expected {self.sha256}"
            )
        self._features = [features]
        self.layers = features.layers
        self.sha256 = features.sha256
        return {"layers": list(self.layers), "sha256": self.sha256}

    def forward(self, mean: Tensor, event_dim: int = 3) -> TorchDistribution:
        """The distribution with the given mean, shape ``(*batch, C, H, W)``."""
        if not self._features:
            self.prepare({})
        network = self._features[0].to(mean)

        def features(x: Tensor) -> list[Tensor]:
            activations = network(x)
            if self.caffe:
                activations = [network.caffe_scale * a for a in activations]
            if self.pixels:
                return [self.pixels * x, *activations]
            return activations

        return PerceptualDistribution(mean, features, self.weight, self.power)
