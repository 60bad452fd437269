"""A prior that can only be sampled: noise through a network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_lrp.core.gradients import full_precision
from pyro_lrp.networks import perceptron
from pyro_lrp.priors.core import NormalBase

__all__ = ["NeuralSampler", "SamplerDistribution"]


class SamplerDistribution(TorchDistribution):
    """The push-forward of noise through a network: reparametrized samples, no density.

    Args:
        network: Maps noise ``(N, noise_dim)`` to codes ``(N, dim)``.
        base: Distribution of one noise vector.
        dim: Length of a code.
        batch_shape: Shape of a batch of independent samples.
    """

    arg_constraints: ClassVar = {}
    support = constraints.real_vector
    has_rsample = True

    def __init__(
        self,
        network: nn.Module,
        base: TorchDistribution,
        dim: int,
        batch_shape: Sequence[int] = (),
    ) -> None:
        self.network = network
        self.base = base
        self.dim = dim
        batch = torch.Size(batch_shape)
        event = torch.Size([dim])
        super().__init__(batch, event, validate_args=False)

    def expand(
        self,
        batch_shape: Any,
        _instance: object = None,
    ) -> SamplerDistribution:
        batch = torch.Size(batch_shape)
        return SamplerDistribution(self.network, self.base, self.dim, batch)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        shape = torch.Size(sample_shape) + self.batch_shape
        noise = self.base.rsample(torch.Size([shape.numel()]))  # sample() makes the host wait
        codes = full_precision(self.network(noise))
        return codes.reshape(*shape, self.dim)

    def log_prob(self, value: Tensor) -> Tensor:
        """Not available: a push-forward of noise through a network has no density in closed form."""
        raise NotImplementedError(
            "a neural sampler has no log_prob: it can only be sampled (objective=adversarial)"
        )


class NeuralSampler(NormalBase):
    """A prior that can only be sampled: N(0, I) noise through a network (appendix A.2).

    A hidden layer is linear, batch normalization, ReLU; the last layer is linear. Batch normalization uses the
    statistics of the batch in training and running statistics in eval mode, in which samples are drawn.

    Args:
        dim: Length of a code.
        layers: Number of hidden layers.
        width: Units of a hidden layer.
        noise_dim: Length of a noise vector; ``dim`` if None.

    >>> sum(p.numel() for p in NeuralSampler(64).parameters())
    2237504
    >>> NeuralSampler(2, width=8)().rsample((5,)).shape
    torch.Size([5, 2])
    """

    has_log_prob = False
    has_base = False  # the network has no inverse

    def __init__(
        self,
        dim: int,
        layers: int = 3,
        width: int = 1024,
        noise_dim: int | None = None,
    ) -> None:
        super().__init__(noise_dim or dim)  # the base is the noise
        if min(dim, layers, width) < 1:
            raise ValueError(f"expected dim, layers and width of at least 1, got {dim}, {layers} and {width}")
        self.event_shape = torch.Size([dim])
        plain = perceptron(noise_dim or dim, [width] * layers, dim)
        parts: list[nn.Module] = []
        for part in plain:
            parts.append(part)
            hidden = part is not plain[-1]
            if hidden and isinstance(part, nn.Linear):
                parts.append(nn.BatchNorm1d(width))
        self.network = nn.Sequential(*parts)

    def forward(
        self,
        context: Tensor | None = None,
        *,
        temperature: float = 1.0,
    ) -> TorchDistribution:
        noise = self.base(temperature=temperature)
        dim = self.event_shape[0]
        return SamplerDistribution(self.network, noise, dim)

    def to_base(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """Not available: the network has no inverse."""
        raise NotImplementedError("a neural sampler has no inverse, so codes cannot be taken to its base")

    def to_latent(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """Noise to code, shape ``(*, noise_dim)`` to ``(*, dim)``."""
        codes = self.network(z.flatten(0, -2))
        return codes.reshape(*z.shape[:-1], -1)
