"""The autoencoder as a Pyro model/guide pair over the sites ``"z"`` (a code) and ``"x"`` (an image)."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor, nn

from pyro_lrp.core.gradients import boundary, full_precision
from pyro_lrp.core.modules import eval_mode
from pyro_lrp.data import Batch, Split, chunks, no_context
from pyro_lrp.likelihoods import Likelihood
from pyro_lrp.models.checks import (
    refuse_impossible_posterior,
    refuse_impossible_score,
    refuse_other_images,
)
from pyro_lrp.models.codes import Codes, ImageCodes
from pyro_lrp.networks.heads import loc_and_scale
from pyro_lrp.priors import Prior

__all__ = ["Autoencoder", "Draw"]


class Draw(NamedTuple):
    """Samples of the prior and their decoded images; rows that are not finite are left out and counted."""

    images: Tensor
    latents: Tensor
    non_finite: int


class Autoencoder(nn.Module):
    """A generative autoencoder: q(z|x), p(x|z) and a prior p(z) that may be learned.

    β-VAE, FactorVAE, AAE and the flow-prior VAE are instances of this class with different priors, likelihoods
    and objectives. Parameters are ordinary module parameters, never entries of Pyro's global store.

    Attributes:
        at_once: Batch size of decoding while sampling, which bounds memory.

    Args:
        encoder: Maps ``x`` to ``(loc, scale)``, each ``(B, *prior.event_shape)``; a ``scale`` of None makes
            the code deterministic.
        decoder: Maps codes to mean images.
        prior: Returns p(z) when called, with or without a context.
        likelihood: Maps a mean image to p(x|z).

    >>> from pyro_lrp import likelihoods, networks, priors
    >>> encoder, decoder = networks.mlp((1, 8, 8), latent_dim=2, hidden_dims=(16,))
    >>> ae = Autoencoder(encoder, decoder, priors.StandardNormal(2), likelihoods.Gaussian())
    >>> ae.sample(5).shape
    torch.Size([5, 1, 8, 8])
    """

    at_once: int = 500

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        prior: Prior,
        likelihood: Likelihood,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.prior = prior
        self.likelihood = likelihood
        prior.bind(self)

    @property
    def sites(self) -> list[str]:
        """The names of the latents in Pyro's traces."""
        return ["z"]

    def contexts(self, context: Tensor | None, like: Tensor) -> Tensor:
        """The context; if it is None, a context of length 0 for each row of ``like``."""
        if context is None:
            return no_context(like)
        return context

    def initialize(self, x: Tensor, context: Tensor | None = None) -> None:
        """Data-dependent initialization, called once with a batch of training images and their contexts.

        Raises:
            UserError: If the encoder, the decoder or the likelihood cannot be those of such images.
        """
        self.prior.initialize(x)
        self._refuse_impossible_networks(x, context)

    @torch.no_grad()
    def _refuse_impossible_networks(self, x: Tensor, context: Tensor | None) -> None:
        # in eval mode, so that the statistics of a batch normalization stay as they are
        with eval_mode(self), pyro.validation_enabled(False):
            q = self.encode(x, context)
            refuse_impossible_posterior(self.encoder, q)
            mean = self.decode(q.mean, context)
            refuse_other_images(self.decoder, mean, x)
            refuse_impossible_score(self.likelihood, mean, x)

    def model(self, x: Tensor | None = None, context: Tensor | None = None) -> Tensor:
        """p(x|z) p(z|context), with ``x``, ``(B, ...)``, observed unless it is None. Returns the image."""
        rows = torch.zeros(1, 0)
        if x is not None:
            rows = x
        elif context is not None:
            rows = context
        context = self.contexts(context, rows)
        with pyro.plate("batch", len(rows)):
            p = self.prior(boundary(context))
            z = pyro.sample("z", p)
            return self.observe(z, context, x)

    def observe(self, z: Tensor, context: Tensor, x: Tensor | None) -> Tensor:
        """p(x|z) as the site ``"x"``; a subclass may add terms, such as ``pyro.factor``."""
        mean = self.decode(z, context)
        batch_dim = z.dim() - len(self.prior.event_shape)
        event_dim = mean.dim() - batch_dim
        refuse_other_images(self.decoder, mean, x, batch_dim)
        p = self.likelihood(mean, event_dim)
        return pyro.sample("x", p, obs=x)

    def guide(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """q(z|x). Returns the code, ``(B, *event_shape)``."""
        with pyro.plate("batch", x.shape[0]):
            return pyro.sample("z", self.encode(x, context))

    def encode(self, x: Tensor, context: Tensor | None = None) -> TorchDistribution:
        """q(z|x) of a batch of images: normal, or a delta if the encoder is deterministic.

        Args:
            x: Images, shape ``(B, ...)``.
            context: Contexts of these images. The networks of this class ignore them; those of
                :class:`~pyro_lrp.models.HierarchicalAutoencoder` do not.

        Raises:
            UserError: If the encoder returns no such pair of mean and scale.
        """
        loc, scale = self._loc_and_scale(x)
        event_dim = len(self.prior.event_shape)
        loc = full_precision(loc)
        if scale is None:
            return dist.Delta(loc, event_dim=event_dim)
        scale = full_precision(scale)
        return dist.Normal(loc, scale).to_event(event_dim)

    def _loc_and_scale(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        shape = (len(x), *self.prior.event_shape)
        return loc_and_scale(self.encoder, self.encoder(x), shape)

    def codes(self, images: Split | Batch) -> Codes | ImageCodes:
        """The codes of a minibatch, or of a whole split, which is encoded in batches."""
        if isinstance(images, Split):
            return Codes.joined([self.codes(batch) for batch in chunks(images)])  # type: ignore[misc]
        q = self.encode(images.x, images.context)
        return Codes(q.mean, q.stddev, images.context)

    def with_prior(self, prior: Prior) -> Autoencoder:
        """An autoencoder with the same networks and another prior."""
        other = copy.copy(self)
        other._modules = dict(self._modules)  # a shallow copy shares the dict
        other.prior = prior
        prior.bind(other)
        return other

    def decode(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """Mean images of codes ``(*batch, *event_shape)``; decoder noise is never added (spec, Eq. 8-10).

        Args:
            z: Codes.
            context: See :meth:`encode`; it broadcasts against the batch of the codes.
        """
        event = self.prior.event_shape
        batch = z.shape[: z.dim() - len(event)]
        mean = self.decoder(z.reshape(-1, *event))
        return full_precision(mean.reshape(*batch, *mean.shape[1:]))

    @torch.no_grad()
    def reconstruct(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """The mean image of a code drawn from q(z|x), with the networks in eval mode."""
        with eval_mode(self):
            z = self.encode(x, context).sample()
            return self.decode(z, context)

    @torch.no_grad()
    def draw(
        self,
        n: int,
        temperature: float = 1.0,
        context: Tensor | None = None,
        *,
        decoded: int | None = None,
    ) -> Draw:
        """``n`` samples of the prior and their mean images, without those that are not finite.

        Args:
            n: Number of samples, including those that are not finite.
            temperature: Multiplies the standard deviation of the prior's base.
            context: The context of each sample, shape ``(n, context_dim)``, or one for all of them,
                ``(context_dim,)`` or ``(1, context_dim)``. An unconditional prior ignores it.
            decoded: Number of samples, the first ones, that have an image; None for all.

        Raises:
            ValueError: If ``n`` is negative, or the number of contexts is neither 1 nor ``n``.
        """
        if n < 0:
            raise ValueError(f"expected n, the number of samples, to be at least 0, got {n}")
        context = self.contexts(context, torch.zeros(n, 0))
        is_shared = context.dim() == 1 or len(context) == 1
        if is_shared:
            context = context.expand(n, -1)
        if len(context) != n:
            raise ValueError(
                f"expected a context for each of {n} samples, got {len(context)} (one alone serves all)"
            )
        with eval_mode(self):
            z = self._codes(temperature, context)
            images = self._decode_in_parts(z[:decoded], context[:decoded])
        finite = _finite_rows(z)
        finite[: len(images)] &= _finite_rows(images)
        non_finite = int((~finite).sum())
        return Draw(images[finite[: len(images)]], z[finite], non_finite)

    def _codes(self, temperature: float, context: Tensor) -> Tensor:
        p = self.prior(context, temperature=temperature)
        return p.sample()

    def _decode_in_parts(self, z: Tensor, context: Tensor) -> Tensor:
        codes = z.split(self.at_once)
        contexts = context.split(self.at_once)
        images = []
        for some_codes, some_contexts in zip(codes, contexts, strict=True):
            images.append(self.decode(some_codes, some_contexts))
        return torch.cat(images)

    def sample(
        self,
        n: int,
        temperature: float = 1.0,
        context: Tensor | None = None,
    ) -> Tensor:
        """Mean images of ``n`` samples of the prior, shape ``(n, ...)``.

        A rare sample of a flow may be infinite. Such rows are left out, with a warning that counts them;
        :meth:`draw` returns the count.
        """
        images, _, non_finite = self.draw(n, temperature, context)
        if non_finite:
            message = f"{non_finite} of {n} samples were not finite and are left out"
            warnings.warn(message, stacklevel=2)
        return images

    def as_pyro(self, name: str = "autoencoder") -> tuple[Callable[..., Any], Callable[..., Any]]:
        """``(model, guide)`` for ``pyro.infer.SVI``: functions that register the parameters with Pyro.

        Without the registration ``SVI`` silently trains nothing. ``name`` is the prefix in Pyro's global
        parameter store; two autoencoders of one process need two names.
        """

        def model(*args: Any, **kwargs: Any) -> Tensor:
            pyro.module(name, self)
            return self.model(*args, **kwargs)

        def guide(*args: Any, **kwargs: Any) -> Tensor:
            pyro.module(name, self)
            return self.guide(*args, **kwargs)

        return model, guide


def _finite_rows(tensor: Tensor) -> Tensor:
    return torch.isfinite(tensor.flatten(1)).all(1)
