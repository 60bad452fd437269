"""The U-Net's autoencoder: several latents, ``"z1"``, ``"z2"``, ..., and networks that depend on a context."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor, nn

from pyro_lrp.core.gradients import full_precision
from pyro_lrp.data import Batch, Split, at_once
from pyro_lrp.likelihoods import Likelihood
from pyro_lrp.models.autoencoder import Autoencoder
from pyro_lrp.models.checks import refuse_other_images
from pyro_lrp.models.codes import ImageCodes
from pyro_lrp.networks.vunet.blocks import data_dependent_initialization
from pyro_lrp.priors import Hierarchy

__all__ = ["HierarchicalAutoencoder", "HierarchicalPosterior"]


class HierarchicalAutoencoder(Autoencoder):
    """p(x | z, c) prod_k p(z_k | c, z_<k), and q(z | x, c): each latent is a site of model and guide.

    Outside training a code is a vector, the concatenation of the latents.

    Args:
        encoder: Called with images, contexts and ``draw(number, mean) -> z``, which it calls for each latent
            from coarse to fine, each of the decoder's ``latent_shapes``. A posterior has unit variance.
        decoder: Called with contexts and ``draw(number, features) -> z``; returns mean images.
        prior: Prior of these latents.
        likelihood: Maps a mean image to p(x|z).

    References:
        Esser et al. (2018), A Variational U-Net, section 3; Morrow and Chiu, section 7.
    """

    prior: Hierarchy

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        prior: Hierarchy,
        likelihood: Likelihood,
    ) -> None:
        super().__init__(encoder, decoder, prior, likelihood)
        self.latent_shapes: Sequence[Sequence[int]] = decoder.latent_shapes  # type: ignore[assignment]
        self.at_once = at_once(decoder.size, decoder.size)  # type: ignore[arg-type]

    @property
    def sites(self) -> list[str]:
        """The names of the latents."""
        count = len(self.latent_shapes)
        return [f"z{number}" for number in range(1, count + 1)]

    def contexts(self, context: Tensor | None, like: Tensor) -> Tensor:
        """The context in the networks' precision, which they require.

        Raises:
            ValueError: If it is None or has length 0.
        """
        context = super().contexts(context, like)
        if context.shape[-1] == 0:
            raise ValueError("the networks of this autoencoder need one: call it with a context")
        parameter = next(self.parameters())
        return context.to(parameter.dtype)

    @torch.no_grad()
    def initialize(self, x: Tensor, context: Tensor | None = None) -> None:
        """Set the scales of weight-normalized convolutions from a batch, encoder first."""
        self.prior.initialize(x)
        with data_dependent_initialization(self):
            z = self.encode(x, context).sample()
            self.prior(context).log_prob(z)  # runs the decoder's features
            self.decode(z, context)

    def model(self, x: Tensor | None = None, context: Tensor | None = None) -> Tensor:
        """p(x|z, c) and p(z|c), with ``x`` observed unless it is None. Returns the image."""
        rows = torch.zeros(1, 0)
        if x is not None:
            rows = x
        context = self.contexts(context, rows)

        def draw(number: int, features: Tensor) -> Tensor:
            p = self.prior.given(number, features)
            z = pyro.sample(self.sites[number], p)
            return z.reshape(-1, *self.latent_shapes[number])

        with pyro.plate("batch", len(context)):
            mean = full_precision(self.decoder(context, draw))
            refuse_other_images(self.decoder, mean, x)
            p = self.likelihood(mean, 3)
            return pyro.sample("x", p, obs=x)

    def guide(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """q(z|x, c). Returns the code, ``(B, d)``."""
        latents: list[Tensor] = []

        def draw(number: int, mean: Tensor) -> Tensor:
            loc = full_precision(mean.flatten(1))
            q = dist.Normal(loc, torch.ones_like(loc)).to_event(1)
            z = pyro.sample(self.sites[number], q)
            latents.append(z)
            return z.reshape(mean.shape)

        with pyro.plate("batch", len(x)):
            self.encoder(x, context, draw)
        return torch.cat(latents, 1)

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
        parts = _maps(_rows(z, batch), self.latent_shapes)

        def latent(number: int, features: Tensor) -> Tensor:
            return parts[number]

        mean = self.decoder(_rows(context, batch), latent)
        mean = mean.reshape(*batch, *mean.shape[1:])
        return full_precision(mean)

    def _codes(self, temperature: float, context: Tensor) -> Tensor:
        context = self.contexts(context, context)
        parts = []
        for some_contexts in context.split(self.at_once):
            p = self.prior(some_contexts, temperature=temperature)
            parts.append(p.sample())
        return torch.cat(parts)


def _maps(z: Tensor, shapes: Sequence[Sequence[int]]) -> list[Tensor]:
    """The latents of codes ``(B, d)``, as maps."""
    parts = z.split(_lengths(shapes), -1)
    maps = []
    for part, shape in zip(parts, shapes, strict=True):
        maps.append(part.reshape(-1, *shape))
    return maps


def _lengths(shapes: Sequence[Sequence[int]]) -> list[int]:
    return [torch.Size(shape).numel() for shape in shapes]


def _rows(vectors: Tensor, batch: Sequence[int]) -> Tensor:
    """Vectors expanded to a batch, as the rows of a matrix."""
    return vectors.expand(*batch, -1).reshape(-1, vectors.shape[-1])


class HierarchicalPosterior(TorchDistribution):
    """q(z | x, c): normals of unit variance; the mean of each latent depends on the coarser ones.

    ``mean`` is the code in which every latent is the mean given the coarser ones; ``variance`` is that of a
    latent given the coarser ones.

    Args:
        encoder: The encoder of a :class:`HierarchicalAutoencoder`.
        x: Images, ``(B, ...)``.
        context: Contexts, ``(B, context_dim)``.
        shapes: Shapes of the latents.
    """

    arg_constraints: ClassVar = {}
    has_rsample = True

    def __init__(
        self,
        encoder: nn.Module,
        x: Tensor,
        context: Tensor,
        shapes: Sequence[Sequence[int]],
    ) -> None:
        self.encoder = encoder
        self.x = x
        self.context = context
        self.shapes = shapes
        event = torch.Size([sum(_lengths(shapes))])
        super().__init__(x.shape[:1], event, validate_args=False)

    @property
    def mean(self) -> Tensor:
        z, _ = self._walk((), lambda number, mean: mean)
        return z

    @property
    def variance(self) -> Tensor:
        return self.x.new_ones(self.batch_shape + self.event_shape)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Codes, ``(*sample_shape, B, d)``."""

        def noisy(number: int, mean: Tensor) -> Tensor:
            return mean + torch.randn_like(mean)

        z, _ = self._walk(sample_shape, noisy)
        return z.reshape(*sample_shape, *self.batch_shape, -1)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density of codes, ``(*, B, d)`` to ``(*, B)``."""
        parts = _maps(value.reshape(-1, value.shape[-1]), self.shapes)
        z, means = self._walk(value.shape[:-2], lambda number, mean: parts[number])
        q = dist.Normal(means, 1.0).to_event(1)
        return q.log_prob(z).reshape(value.shape[:-1])

    def _walk(
        self,
        sample_shape: Sequence[int],
        step: Callable[[int, Tensor], Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Run the encoder; returns the latents, which ``step(number, mean)`` computes, and their means."""
        copies = torch.Size(sample_shape).numel()
        latents: list[Tensor] = []
        means: list[Tensor] = []

        def draw(number: int, mean: Tensor) -> Tensor:
            mean = full_precision(mean)
            z = step(number, mean)
            means.append(mean)
            latents.append(z)
            return z

        x = _repeated(self.x, copies)
        context = _repeated(self.context, copies)
        self.encoder(x, context, draw)
        return _concatenated(latents), _concatenated(means)


def _repeated(rows: Tensor, copies: int) -> Tensor:
    """The rows of a tensor, ``copies`` times over."""
    ones = [1] * (rows.dim() - 1)
    return rows.repeat(copies, *ones)


def _concatenated(maps: Sequence[Tensor]) -> Tensor:
    """Latents as maps, as codes ``(B, d)``."""
    flat = [part.flatten(1) for part in maps]
    return torch.cat(flat, 1)
