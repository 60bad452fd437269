"""An autoencoder of several latents, ``"z1"``, ``"z2"``, ..., whose networks see a context: the U-Net's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor, nn

from pyro_lrp.core.gradients import full_precision
from pyro_lrp.data import Batch, Split, at_once
from pyro_lrp.likelihoods import Likelihood
from pyro_lrp.models.autoencoder import Autoencoder
from pyro_lrp.models.codes import ImageCodes
from pyro_lrp.networks.vunet.blocks import data_dependent_initialization
from pyro_lrp.priors import Hierarchy

__all__ = ["HierarchicalAutoencoder", "HierarchicalPosterior"]


class HierarchicalAutoencoder(Autoencoder):
    """p(x | z, c) prod_k p(z_k | c, z_<k), and q(z | x, c): each latent is a site of model and guide.

    Outside training the latents are one code, one after another in a vector.

    Args:
        encoder: Called with images, contexts and ``draw(number, mean) -> z``, which it calls for each latent
            from coarse to fine, each of the decoder's ``latent_shapes``. A posterior has unit variance.
        decoder: Called with contexts and ``draw(number, features) -> z``; returns mean images.
        prior: Of these latents.
        likelihood: Called with a mean image, returns p(x|z).

    References:
        Esser et al. (2018), A Variational U-Net, section 3; Morrow and Chiu, section 7.
    """

    prior: Hierarchy

    def __init__(
        self, encoder: nn.Module, decoder: nn.Module, prior: Hierarchy, likelihood: Likelihood
    ) -> None:
        super().__init__(encoder, decoder, prior, likelihood)
        self.latent_shapes: Sequence[Sequence[int]] = decoder.latent_shapes  # type: ignore[assignment]
        self.at_once = at_once(decoder.size, decoder.size)  # type: ignore[arg-type]

    @property
    def sites(self) -> list[str]:
        """The names of the latents."""
        return [f"z{number + 1}" for number in range(len(self.latent_shapes))]

    def contexts(self, context: Tensor | None, like: Tensor) -> Tensor:
        """The context, which these networks need.

        Raises:
            ValueError: If there is none.
        """
        context = super().contexts(context, like)
        if context.shape[-1] == 0:
            raise ValueError("the networks of this autoencoder see a context: call it with one")
        return context

    @torch.no_grad()
    def initialize(self, x: Tensor, context: Tensor | None = None) -> None:
        """Set the scales of weight-normalized convolutions from a batch, encoder first."""
        self.prior.initialize(x)
        with data_dependent_initialization(self):
            z = self.encode(x, context).sample()
            self.prior(context).log_prob(z)
            self.decode(z, context)

    def model(self, x: Tensor | None = None, context: Tensor | None = None) -> Tensor:
        """p(x|z, c) and p(z|c), with ``x`` observed when it is given. Returns the image."""
        context = self.contexts(context, torch.zeros(1, 0) if x is None else x)

        def draw(number: int, features: Tensor) -> Tensor:
            z = pyro.sample(self.sites[number], self.prior.given(number, features))
            return z.reshape(-1, *self.latent_shapes[number])

        with pyro.plate("batch", len(context)):
            mean = full_precision(self.decoder(context, draw))
            return pyro.sample("x", self.likelihood(mean, 3), obs=x)

    def guide(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """q(z|x, c). Returns the code, ``(B, d)``."""
        found: list[Tensor] = []

        def draw(number: int, mean: Tensor) -> Tensor:
            loc = full_precision(mean.flatten(1))
            found.append(pyro.sample(self.sites[number], dist.Normal(loc, 1.0).to_event(1)))
            return found[-1].reshape(mean.shape)

        with pyro.plate("batch", len(x)):
            self.encoder(x, context, draw)
        return torch.cat(found, 1)

    def encode(self, x: Tensor, context: Tensor | None = None) -> TorchDistribution:
        """q(z|x, c) of all latents."""
        context = self.contexts(context, x)
        if len(x) != len(context):
            raise ValueError(
                f"expected a context for each image, got {len(x)} images and {len(context)} contexts"
            )
        return HierarchicalPosterior(self.encoder, x, context, self.latent_shapes)

    def codes(self, images: Split | Batch) -> ImageCodes:
        """The codes of a minibatch or a split, encoded anew for each draw."""
        return ImageCodes(images, self.encode)

    def decode(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """Mean images of codes ``(*batch, d)`` and contexts that broadcast against them."""
        context = self.contexts(context, z)
        batch = torch.broadcast_shapes(z.shape[:-1], context.shape[:-1])
        parts = _maps(z.expand(*batch, -1).reshape(-1, z.shape[-1]), self.latent_shapes)
        contexts = context.expand(*batch, -1).reshape(-1, context.shape[-1])
        mean = self.decoder(contexts, lambda number, features: parts[number])
        return full_precision(mean.reshape(*batch, *mean.shape[1:]))

    def _codes(self, temperature: float, context: Tensor) -> Tensor:
        context = self.contexts(context, context)
        parts = [self.prior(part, temperature=temperature).sample() for part in context.split(self.at_once)]
        return torch.cat(parts)


def _maps(z: Tensor, shapes: Sequence[Sequence[int]]) -> list[Tensor]:
    """The latents in codes ``(B, d)``."""
    parts = z.split([torch.Size(shape).numel() for shape in shapes], -1)
    return [part.reshape(-1, *shape) for part, shape in zip(parts, shapes, strict=True)]


class HierarchicalPosterior(TorchDistribution):
    """q(z | x, c): normal of unit variance, the mean of each latent given the coarser ones.

    ``mean`` is what comes of taking every latent at its mean; ``variance`` that of a latent given the coarser.

    Args:
        encoder: As of :class:`HierarchicalAutoencoder`.
        x: Images, ``(B, ...)``.
        context: ``(B, context_dim)``.
        shapes: Of the latents.
    """

    arg_constraints: ClassVar = {}
    has_rsample = True

    def __init__(self, encoder: nn.Module, x: Tensor, context: Tensor, shapes: Sequence[Sequence[int]]) -> None:
        self.encoder, self.x, self.context, self.shapes = encoder, x, context, shapes
        length = sum(torch.Size(shape).numel() for shape in shapes)
        super().__init__(x.shape[:1], torch.Size([length]), validate_args=False)

    @property
    def mean(self) -> Tensor:
        return self._walk((), lambda number, mean: mean)[0]

    @property
    def variance(self) -> Tensor:
        return self.x.new_ones(self.batch_shape + self.event_shape)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Codes, ``(*sample_shape, B, d)``."""
        z, _ = self._walk(sample_shape, lambda number, mean: mean + torch.randn_like(mean))
        return z.reshape(*sample_shape, *self.batch_shape, -1)

    def log_prob(self, value: Tensor) -> Tensor:
        """Of codes ``(*, B, d)``: ``(*, B)``."""
        parts = _maps(value.reshape(-1, value.shape[-1]), self.shapes)
        z, means = self._walk(value.shape[:-2], lambda number, mean: parts[number])
        return dist.Normal(means, 1.0).to_event(1).log_prob(z).reshape(value.shape[:-1])

    def _walk(self, sample_shape: Sequence[int], step: Any) -> tuple[Tensor, Tensor]:
        """Latents that ``step(number, mean)`` makes, and their means."""
        copies = torch.Size(sample_shape).numel()
        latents: list[Tensor] = []
        means: list[Tensor] = []

        def draw(number: int, mean: Tensor) -> Tensor:
            means.append(full_precision(mean))
            latents.append(step(number, means[-1]))
            return latents[-1]

        x, context = (t.repeat(copies, *[1] * (t.dim() - 1)) for t in (self.x, self.context))
        self.encoder(x, context, draw)
        z, mean = (torch.cat([part.flatten(1) for part in parts], 1) for parts in (latents, means))
        return z, mean
