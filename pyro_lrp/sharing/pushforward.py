"""Priors as functions of noise: what a sampler computes once its random numbers are drawn."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from pyro.distributions.torch_distribution import TorchDistribution
from pyro.nn import ConditionalAutoRegressiveNN
from torch import Tensor, nn
from torch.distributions import Independent, Normal

from pyro_lrp.core.errors import UserError
from pyro_lrp.core.gradients import full_precision
from pyro_lrp.priors import Hierarchy, Mixture, NeuralSampler, Prior, VampPrior
from pyro_lrp.priors.mixture import MixtureDistribution
from pyro_lrp.transforms import InvertibleLinear

__all__ = ["Pushforward", "pushforward", "simplify"]


Decode = Callable[[Tensor, Tensor | None], Tensor]


class Pushforward(nn.Module):
    """A prior as a function: standard normal numbers, a temperature and perhaps a context to codes.

    Attributes:
        noise_dim: Length of the noise of one code.
    """

    noise_dim: int

    def forward(self, noise: Tensor, temperature: Tensor, context: Tensor | None = None) -> Tensor:
        """Codes.

        Args:
            noise: Independent standard normal numbers, ``(N, noise_dim)``.
            temperature: A scalar, the factor of the standard deviation of the prior's base.
            context: Contexts, ``(N, context_dim)``; None for an unconditional prior.

        Returns:
            Shape ``(N, dim)``.
        """
        raise NotImplementedError

    def with_images(
        self, noise: Tensor, temperature: Tensor, context: Tensor | None, decode: Decode
    ) -> tuple[Tensor, Tensor]:
        """Codes, and their mean images by the decoder: ``decode(codes, context)``."""
        codes = self(noise, temperature, context)
        return codes, decode(codes, context)

    def draw(self, n: int) -> Tensor:
        """The noise of ``n`` codes, for which the prior's ``sample`` would give the codes of :meth:`forward`.

        It consumes torch's generator as ``sample`` does.
        """
        return torch.randn(n, self.noise_dim)


class NormalPushforward(Pushforward):
    """A prior whose base is normal, perhaps with a mean that depends on the context.

    Args:
        prior: Has ``base`` and ``to_latent``.
        noise_dim: Length of a vector of its base.
    """

    def __init__(self, prior: Prior, noise_dim: int) -> None:
        super().__init__()
        self.prior = prior
        self.noise_dim = noise_dim

    def forward(self, noise: Tensor, temperature: Tensor, context: Tensor | None = None) -> Tensor:
        base = self.prior.base(context)
        z_0 = base.mean + temperature * base.stddev * noise
        return self.prior.to_latent(z_0, context)


class MixturePushforward(Pushforward):
    """A mixture of normals; the last number of a code's noise chooses its component.

    The normal distribution function maps that number to [0, 1], which the components share by their weights.

    Args:
        mixture: The mixture.
    """

    loc: Tensor
    spread: Tensor
    edges: Tensor

    def __init__(self, mixture: MixtureDistribution) -> None:
        super().__init__()
        self.dim = mixture.event_shape[0]
        self.noise_dim = self.dim + 1
        weights = mixture.logits.double().softmax(0)
        factor = mixture.factor.double()
        if factor.dim() == 2:
            spread = 1.0 / factor
        else:
            identity = torch.eye(self.dim, dtype=torch.float64)
            spread = torch.linalg.solve_triangular(factor, identity, upper=False)
        like = mixture.loc
        self.logits = mixture.logits
        self.register_buffer("loc", like.clone())
        self.register_buffer("spread", spread.to(like.dtype))
        self.register_buffer("edges", weights.cumsum(0)[:-1].to(like.dtype))

    def forward(self, noise: Tensor, temperature: Tensor, context: Tensor | None = None) -> Tensor:
        share = 0.5 * (1.0 + torch.erf(noise[:, -1:] / math.sqrt(2.0)))
        component = (share > self.edges).sum(1)
        spread = self.spread[component]
        standard = noise[:, : self.dim]
        if spread.dim() == 2:
            deviation = spread * standard
        else:
            deviation = (spread @ standard.unsqueeze(-1)).squeeze(-1)
        return self.loc[component] + temperature * deviation

    def draw(self, n: int) -> Tensor:
        component = torch.distributions.Categorical(logits=self.logits).sample((n,))
        standard = torch.randn(n, self.dim, dtype=self.loc.dtype)
        bounds = torch.cat([self.edges.new_zeros(1), self.edges, self.edges.new_ones(1)]).double()
        middle = 0.5 * (bounds[component] + bounds[component + 1])
        choice = math.sqrt(2.0) * torch.erfinv(2.0 * middle - 1.0)
        return torch.cat([standard, choice[:, None].to(standard.dtype)], 1)


class PushforwardOnBase(Pushforward):
    """A flow whose base is another prior.

    Args:
        prior: The flow.
        base: The base as a function of noise.
    """

    def __init__(self, prior: Prior, base: Pushforward) -> None:
        super().__init__()
        self.prior = prior
        self.base = base
        self.noise_dim = base.noise_dim

    def forward(self, noise: Tensor, temperature: Tensor, context: Tensor | None = None) -> Tensor:
        z_0 = self.base(noise, temperature, context)
        return self.prior.to_latent(z_0, context)

    def draw(self, n: int) -> Tensor:
        return self.base.draw(n)


class HierarchyPushforward(Pushforward):
    """Several latents, each given the decoder's features of the context and of the coarser latents.

    Args:
        prior: The hierarchy, bound to its decoder.
        scales: Its priors as functions of noise.
    """

    def __init__(self, prior: Hierarchy, scales: list[Pushforward]) -> None:
        super().__init__()
        self.prior = prior
        self.scales = nn.ModuleList(scales)
        self.lengths = [scale.noise_dim for scale in scales]
        self.noise_dim = sum(self.lengths)

    def forward(self, noise: Tensor, temperature: Tensor, context: Tensor | None = None) -> Tensor:
        return self._walked(noise, temperature, context, to_image=False)[0]

    def with_images(
        self, noise: Tensor, temperature: Tensor, context: Tensor | None, decode: Decode
    ) -> tuple[Tensor, Tensor]:
        """Codes and images: the decoder draws both in one pass."""
        codes, images = self._walked(noise, temperature, context, to_image=True)
        return codes, full_precision(images)

    def _walked(
        self, noise: Tensor, temperature: Tensor, context: Tensor | None, *, to_image: bool
    ) -> tuple[Tensor, Any]:
        assert isinstance(context, Tensor), "a prior of several latents is conditional"
        parts = noise.split(self.lengths, -1)
        codes: list[Tensor] = []

        def step(number: int, features: Tensor) -> Tensor:
            push = self.scales[number]
            codes.append(push(parts[number], temperature, features.flatten(1)))
            return codes[-1]

        images = self.prior.walk(context, step, to_image=to_image)
        return torch.cat(codes, -1), images

    def draw(self, n: int) -> Tensor:
        scales: Any = self.scales
        return torch.cat([scale.draw(n) for scale in scales], -1)


def pushforward(prior: Prior) -> Pushforward:
    """A prior as a function of noise; its tensors are those of the prior.

    Raises:
        UserError: If it is none; the message says why.

    >>> from pyro_lrp.priors import Mixture
    >>> prior = Mixture(2, components=3)
    >>> push = pushforward(prior)
    >>> push(torch.randn(5, push.noise_dim), torch.tensor(1.0)).shape
    torch.Size([5, 2])
    """
    if prior.tolerance > 0:
        raise UserError(
            "the prior's samples are solutions of a differential equation, in steps that depend on them"
        )
    if isinstance(prior, Hierarchy):
        return HierarchyPushforward(prior, [pushforward(scale) for scale in prior.scales])  # type: ignore[arg-type]
    if isinstance(prior, (Mixture, VampPrior)):
        with torch.no_grad():
            return MixturePushforward(prior())
    inner = getattr(prior, "base_prior", None)
    if isinstance(inner, Prior):
        return PushforwardOnBase(prior, pushforward(inner))
    if not prior.has_base and not isinstance(prior, NeuralSampler):
        name = type(prior).__name__
        raise UserError(f"a {name} has no base whose noise a program could take")
    return NormalPushforward(prior, _normal_base(prior))


def _normal_base(prior: Prior) -> int:
    """The length of a vector of a prior's base.

    Raises:
        UserError: If the base is not normal.
    """
    context = None
    if prior.context_dim:
        context = torch.zeros(2, prior.context_dim)
    with torch.no_grad():
        base = prior.base(context)
    if not isinstance(_inside(base), Normal):
        raise UserError(f"the base of a {type(prior).__name__} is not normal")
    return base.event_shape[0]


def _inside(distribution: TorchDistribution) -> Any:
    """The distribution of single numbers inside one of vectors."""
    inside: Any = distribution
    while isinstance(inside, Independent):
        inside = inside.base_dist
    return inside


@torch.no_grad()
def simplify(module: nn.Module) -> None:
    """Replace, in place, what tracers cannot follow: loops over tensors, and systems of fixed equations."""
    for part in module.modules():
        if isinstance(part, ConditionalAutoRegressiveNN):
            order = part.permutation.tolist()
            del part._buffers["permutation"]
            part.permutation = order  # type: ignore[assignment]
        elif isinstance(part, InvertibleLinear):
            identity = torch.eye(len(part.signs), dtype=part.signs.dtype)
            transposed, _ = part.inverse_and_ladj(identity)  # of latent to base, for vectors in rows
            inverse = torch.linalg.inv(transposed.double()).to(identity.dtype)
            part._call = functools.partial(torch.matmul, other=inverse)  # type: ignore[method-assign]
