"""The interface of priors, and the fixed prior N(0, I)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor, nn

__all__ = ["NormalBase", "Prior", "StandardNormal", "broadcast", "checked", "over"]


def over(distribution: TorchDistribution, context: Tensor | None) -> TorchDistribution:
    """Expand a distribution to the batch of a context: one independent code for each context.

    Args:
        distribution: Its batch shape is empty or that of the context already.
        context: Shape ``(*batch, context_dim)``; None leaves the distribution as it is.
    """
    if context is None:
        return distribution
    batch_shape = context.shape[:-1]
    if distribution.batch_shape == batch_shape:
        return distribution
    return distribution.expand(batch_shape)


def broadcast(codes: Tensor, batch: Sequence[int], event_dim: int = 1) -> Tensor:
    """Expand codes to a code for each context of a batch: conditional transforms of Pyro and zuko need it.

    Args:
        codes: Shape ``(*, *event)``, where ``*`` broadcasts against ``batch``.
        batch: The batch shape of the contexts.
        event_dim: The number of dimensions of a code.
    """
    split = codes.dim() - event_dim
    whole = torch.broadcast_shapes(codes.shape[:split], batch)
    return codes.expand(*whole, *codes.shape[split:])


def checked(context: Tensor | None, context_dim: int) -> Tensor:
    """Return the context if a conditional prior can be called with it.

    Raises:
        ValueError: If there is no context, or its length is not ``context_dim``.
    """
    if context is None or context.shape[-1:] == (0,):
        raise ValueError("a conditional prior needs a context, and was called without")
    if context.shape[-1:] != (context_dim,):
        shape = tuple(context.shape)
        raise ValueError(f"expected a context of length {context_dim}, got {shape}")
    return context


class Prior(nn.Module):
    """A learnable density over codes.

    The distribution that a prior returns may define a training loss ``fit_loss(z) -> (B,)`` (flow matching).
    It then also has an attribute ``fitted``, the module that this loss trains. The lower objective minimizes
    ``fit_loss`` instead of -log p(z).

    Attributes:
        event_shape: Shape of one code; ``(d,)`` for a vector.
        context_dim: Length of the context that the prior requires. It is 0 for an unconditional prior, which
            accepts a context of any length and ignores its values.
        has_log_prob: Whether the distributions have a density. Objectives that need one refuse the prior
            otherwise.
        has_rsample: Whether samples pass gradients to the parameters.
        has_base: Whether ``to_base`` and ``to_latent`` are a bijection to and from the space of :meth:`base`.
        tolerance: Numerical error of the density, in nats, and of the maps, relative to a code. It is 0 where
            both are exact up to rounding.
        bound: The module that the prior computes with but does not own, if there is one.
    """

    event_shape: torch.Size
    context_dim: int = 0
    has_log_prob: bool = True
    has_rsample: bool = True
    has_base: bool = False
    tolerance: float = 0.0

    def __call__(self, context: Tensor | None = None, **options: Any) -> TorchDistribution:
        """Call :meth:`forward` and expand the result to the batch of the context."""
        distribution = super().__call__(context, **options)
        return over(distribution, context)

    @property
    def bound(self) -> nn.Module | None:
        return None

    @property
    def estimates(self) -> bool:
        """Whether :meth:`fit` is implemented."""
        return type(self).fit is not Prior.fit

    def bind(self, autoencoder: nn.Module) -> None:
        """Called once with the autoencoder that the prior belongs to. It must not register it."""

    def initialize(self, x: Tensor) -> None:
        """Called once with a batch of training images, before optimizers exist."""

    def check_fit(self, codes: int) -> None:
        """Refuse :meth:`fit` on so many codes: called before training, which would end at it.

        Args:
            codes: The number of codes.

        Raises:
            UserError: If they are too few.
        """

    def fit(self, codes: Tensor, context: Tensor | None = None) -> dict[str, Any] | None:
        """Estimate parameters from codes directly; a prior-only phase calls this first.

        Args:
            codes: All training codes, drawn once from q(z|x), shape ``(N, *event_shape)``.
            context: Contexts of the codes, shape ``(N, context_dim)``.

        Returns:
            Entries for the log; None if nothing was estimated.
        """
        return None

    def stand_in(self) -> Prior:
        """The fixed prior that replaces this one in the first of two training stages."""
        return StandardNormal(self.event_shape.numel())

    def record(self) -> dict[str, Any]:
        """Entries for the summary of a run: approximations of the density, results of :meth:`fit`."""
        return {}

    def base(
        self,
        context: Tensor | None = None,
        *,
        temperature: float = 1.0,
    ) -> TorchDistribution:
        """The distribution of z_0."""
        raise NotImplementedError(f"{type(self).__name__} has no base")

    def forward(
        self,
        context: Tensor | None = None,
        *,
        temperature: float = 1.0,
    ) -> TorchDistribution:
        """The distribution of one code, or of one code for each context of a batch.

        Args:
            context: Shape ``(*batch, context_dim)``; None for one code of an unconditional prior. A prior that
                ignores the context may return the distribution of one code: ``__call__`` expands it to
                ``batch``.
            temperature: Multiplies the standard deviation of the base.
        """
        raise NotImplementedError

    def to_base(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """Latent to base, ``z_T -> z_0``; the identity for a prior without a base."""
        return z

    def to_latent(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """Base to latent, ``z_0 -> z_T``; the inverse of :meth:`to_base`."""
        return z


class NormalBase(Prior):
    """A prior over vectors whose base is N(0, I)."""

    has_base = True
    zero: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        if dim < 1:
            raise ValueError(f"expected a latent_dim of at least 1, got {dim}")
        self.event_shape = torch.Size([dim])
        # the buffer follows the device and dtype of the module
        self.register_buffer("zero", torch.zeros(dim), persistent=False)

    def base(
        self,
        context: Tensor | None = None,
        *,
        temperature: float = 1.0,
    ) -> TorchDistribution:
        """N(0, temperature^2 I)."""
        # filled on the device: copying a Python number there would wait for the device
        scale = torch.full_like(self.zero, temperature)
        normal = dist.Normal(self.zero, scale).to_event(1)
        return over(normal, context)


class StandardNormal(NormalBase):
    """The fixed prior N(0, I) of a plain VAE; it has no parameters.

    >>> round(StandardNormal(2)().log_prob(torch.zeros(2)).item(), 5)
    -1.83788
    """

    def forward(
        self,
        context: Tensor | None = None,
        *,
        temperature: float = 1.0,
    ) -> TorchDistribution:
        return self.base(temperature=temperature)
