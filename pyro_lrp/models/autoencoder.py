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
from pyro_lrp.models.codes import Codes, ImageCodes
from pyro_lrp.priors import Prior

__all__ = ["Autoencoder", "Draw"]


class Draw(NamedTuple):
    """Samples of the prior, decoded; rows whose code or image was not finite are left out and counted."""

    images: Tensor
    latents: Tensor
    non_finite: int


class Autoencoder(nn.Module):
    """A generative autoencoder: q(z|x), p(x|z) and a prior p(z) that may be learned.

    β-VAE, FactorVAE, AAE and the flow-prior VAE are this one class; they differ in prior, likelihood and
    objective. Parameters are ordinary module parameters, never entries of Pyro's global store.

    Attributes:
        at_once: How many images are decoded at once while sampling: bounds memory, whatever n is.

    Args:
        encoder: Maps ``x`` to ``(loc, scale)``, each ``(B, *prior.event_shape)``; a ``scale`` of None makes
            the code deterministic.
        decoder: Maps codes to mean images.
        prior: Called with a context or with none, returns p(z).
        likelihood: Called with a mean image, returns p(x|z).

    >>> from pyro_lrp import likelihoods, networks, priors
    >>> encoder, decoder = networks.mlp((1, 8, 8), latent_dim=2, hidden_dims=(16,))
    >>> ae = Autoencoder(encoder, decoder, priors.StandardNormal(2), likelihoods.Gaussian())
    >>> ae.sample(5).shape
    torch.Size([5, 1, 8, 8])
    """

    at_once: int = 500

    def __init__(self, encoder: nn.Module, decoder: nn.Module, prior: Prior, likelihood: Likelihood) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        self.prior, self.likelihood = prior, likelihood
        prior.bind(self)

    @property
    def sites(self) -> list[str]:
        """The names of the latents in Pyro's traces."""
        return ["z"]

    def contexts(self, context: Tensor | None, like: Tensor) -> Tensor:
        """The context, or where there is none one of length 0 for each row of ``like``."""
        return no_context(like) if context is None else context

    def initialize(self, x: Tensor, context: Tensor | None = None) -> None:
        """Data-dependent initialisation, called once with a batch of training images and their contexts."""
        self.prior.initialize(x)

    def model(self, x: Tensor | None = None, context: Tensor | None = None) -> Tensor:
        """p(x|z) p(z|context), with ``x`` observed when it is given, shape ``(B, ...)``. Returns the image."""
        given = next((tensor for tensor in (x, context) if tensor is not None), torch.zeros(1, 0))
        context = self.contexts(context, given)
        with pyro.plate("batch", len(given)):
            z = pyro.sample("z", self.prior(boundary(context)))
            return self.observe(z, context, x)

    def observe(self, z: Tensor, context: Tensor, x: Tensor | None) -> Tensor:
        """p(x|z) as the site ``"x"``; a subclass may add terms of its own, such as ``pyro.factor``."""
        mean = self.decode(z, context)
        event_dim = mean.dim() - (z.dim() - len(self.prior.event_shape))
        return pyro.sample("x", self.likelihood(mean, event_dim), obs=x)

    def guide(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """q(z|x). Returns the code, ``(B, *event_shape)``."""
        with pyro.plate("batch", x.shape[0]):
            return pyro.sample("z", self.encode(x, context))

    def encode(self, x: Tensor, context: Tensor | None = None) -> TorchDistribution:
        """q(z|x) of a batch of images: normal, or a delta if the encoder is deterministic.

        Args:
            x: Images, shape ``(B, ...)``.
            context: Of these images. This autoencoder's networks see none; those of
                :class:`~pyro_lrp.models.HierarchicalAutoencoder` do.
        """
        loc, scale = self.encoder(x)
        event_dim = len(self.prior.event_shape)
        if scale is None:
            return dist.Delta(full_precision(loc), event_dim=event_dim)
        return dist.Normal(full_precision(loc), full_precision(scale)).to_event(event_dim)

    def codes(self, images: Split | Batch) -> Codes | ImageCodes:
        """The codes of a minibatch, or of a whole split, which is encoded in parts."""
        if isinstance(images, Split):
            return Codes.joined([self.codes(batch) for batch in chunks(images)])  # type: ignore[misc]
        q = self.encode(images.x, images.context)
        return Codes(q.mean, q.stddev, images.context)

    def with_prior(self, prior: Prior) -> Autoencoder:
        """This autoencoder, its networks shared, with another prior."""
        other = copy.copy(self)
        other._modules = dict(self._modules)  # a copy of a module shares the dict
        other.prior = prior
        prior.bind(other)
        return other

    def decode(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """Mean images of codes ``(*batch, *event_shape)``; decoder noise is never added (spec, Eq. 8-10).

        Args:
            z: Codes.
            context: As for :meth:`encode`; it broadcasts against the codes' batch.
        """
        event = self.prior.event_shape
        batch = z.shape[: z.dim() - len(event)]
        mean = self.decoder(z.reshape(-1, *event))
        return full_precision(mean.reshape(*batch, *mean.shape[1:]))

    @torch.no_grad()
    def reconstruct(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """The mean image of a code drawn from q(z|x), with the networks in eval mode."""
        with eval_mode(self):
            return self.decode(self.encode(x, context).sample(), context)

    @torch.no_grad()
    def draw(self, n: int, temperature: float = 1.0, context: Tensor | None = None) -> Draw:
        """``n`` samples of the prior and their mean images, less those that are not finite.

        Args:
            n: Number of samples asked for.
            temperature: Multiplies the standard deviation of the prior's base.
            context: The context of each sample, shape ``(n, context_dim)``, or one for all of them,
                ``(context_dim,)`` or ``(1, context_dim)``. An unconditional prior ignores it.

        Raises:
            ValueError: If there are neither one nor ``n`` contexts.
        """
        context = self.contexts(context, torch.zeros(n, 0))
        if context.dim() == 1 or (len(context) == 1 and n != 1):
            context = context.expand(n, -1)
        if len(context) != n:
            raise ValueError(f"expected a context for each of {n} samples, got {len(context)}")
        with eval_mode(self):
            z = self._codes(temperature, context)
            images = self._decode_in_parts(z, context)
        finite = torch.isfinite(images.flatten(1)).all(1) & torch.isfinite(z.flatten(1)).all(1)
        return Draw(images[finite], z[finite], int((~finite).sum()))

    def _codes(self, temperature: float, context: Tensor) -> Tensor:
        return self.prior(context, temperature=temperature).sample()

    def _decode_in_parts(self, z: Tensor, context: Tensor) -> Tensor:
        parts = zip(z.split(self.at_once), context.split(self.at_once), strict=True)
        return torch.cat([self.decode(*part) for part in parts])

    def sample(self, n: int, temperature: float = 1.0, context: Tensor | None = None) -> Tensor:
        """Mean images of ``n`` samples of the prior, shape ``(n, ...)``.

        A flow may send a rare draw to infinity. Such rows are left out, with a warning that counts them;
        :meth:`draw` gives the count.
        """
        images, _, non_finite = self.draw(n, temperature, context)
        if non_finite:
            warnings.warn(f"{non_finite} of {n} samples were not finite and are left out", stacklevel=2)
        return images

    def as_pyro(self, name: str = "autoencoder") -> tuple[Callable[..., Any], Callable[..., Any]]:
        """``(model, guide)`` for ``pyro.infer.SVI``: functions that register the parameters with Pyro.

        Without the registration ``SVI`` silently trains nothing. ``name`` is the prefix in Pyro's global
        parameter store; give two autoencoders of one process two names.
        """

        def model(*args: Any, **kwargs: Any) -> Tensor:
            pyro.module(name, self)
            return self.model(*args, **kwargs)

        def guide(*args: Any, **kwargs: Any) -> Tensor:
            pyro.module(name, self)
            return self.guide(*args, **kwargs)

        return model, guide
