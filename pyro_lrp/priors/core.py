"""What every prior is, and the fixed one."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor, nn

__all__ = ["NormalBase", "Prior", "StandardNormal", "checked", "over"]


def over(distribution: TorchDistribution, context: Tensor | None) -> TorchDistribution:
    """The distribution of a code for each context of a batch, independent of one another.

    Args:
        distribution: Of the context's batch already, or of one code.
        context: Shape ``(*batch, context_dim)``; None leaves the distribution as it is.
    """
    if context is None or distribution.batch_shape == context.shape[:-1]:
        return distribution
    return distribution.expand(context.shape[:-1])


def checked(context: Tensor | None, context_dim: int) -> Tensor:
    """The context, if a conditional prior can be called with it.

    Raises:
        ValueError: If there is none, or its length is not ``context_dim``.
    """
    if context is None or context.shape[-1:] == (0,):
        raise ValueError("a conditional prior needs a context, and was called without")
    if context.shape[-1:] != (context_dim,):
        raise ValueError(f"expected a context of length {context_dim}, got {tuple(context.shape)}")
    return context


class Prior(nn.Module):
    """A learnable density over codes.

    A distribution that a prior returns may bring a loss of its own, ``fit_loss(z) -> (B,)`` (flow matching),
    and then says in ``fitted`` which module that trains: the lower objective descends it, not -log p(z).

    Attributes:
        event_shape: Shape of one code; ``(d,)`` for a vector.
        context_dim: Length of the context that it must be called with; 0 for an unconditional prior, which is
            called with a context of any length and ignores what is in it.
        has_log_prob: Whether its distributions have a density. Objectives that need one refuse it otherwise.
        has_rsample: Whether samples pass gradients to its parameters.
        has_base: Whether ``to_base`` and ``to_latent`` are a bijection from and to the space of :meth:`base`.
        tolerance: Error that its density and maps may have, in nats and relative to a code; 0 where they are
            exact but for rounding.
        bound: The module that it was bound to and does not own, if it computes with one.
    """

    event_shape: torch.Size
    context_dim: int = 0
    has_log_prob: bool = True
    has_rsample: bool = True
    has_base: bool = False
    tolerance: float = 0.0

    def __call__(self, context: Tensor | None = None, **options: Any) -> TorchDistribution:
        """What :meth:`forward` returns, over the context's batch: also where a prior ignores contexts."""
        return over(super().__call__(context, **options), context)

    @property
    def bound(self) -> nn.Module | None:
        return None

    @property
    def estimates(self) -> bool:
        """Whether :meth:`fit` does anything."""
        return type(self).fit is not Prior.fit

    def bind(self, autoencoder: nn.Module) -> None:
        """Called once with the autoencoder that the prior belongs to. It must not register it."""

    def initialize(self, x: Tensor) -> None:
        """Called once with a batch of training images, before optimizers exist."""

    def fit(self, codes: Tensor, context: Tensor | None = None) -> dict[str, Any] | None:
        """An estimator of its own, which a prior-only phase calls first.

        Args:
            codes: All training codes, drawn once from q(z|x), shape ``(N, *event_shape)``.
            context: Their contexts, shape ``(N, context_dim)``.

        Returns:
            What is worth a line in the log; None if it did nothing.
        """
        return None

    def stand_in(self) -> Prior:
        """The fixed prior over the same codes, in whose place this one comes in training of two stages."""
        return StandardNormal(self.event_shape.numel())

    def record(self) -> dict[str, Any]:
        """How its figures come about, for the summary of a run: what is approximate, what was fitted."""
        return {}

    def base(self, context: Tensor | None = None, *, temperature: float = 1.0) -> TorchDistribution:
        """The distribution of z_0."""
        raise NotImplementedError(f"{type(self).__name__} has no base")

    def forward(self, context: Tensor | None = None, *, temperature: float = 1.0) -> TorchDistribution:
        """The distribution of one code, or of a code for each context of a batch.

        Args:
            context: Shape ``(*batch, context_dim)``; None for one code of an unconditional prior. A prior that
                ignores it may return the distribution of one code: the call expands it to ``batch``.
            temperature: Factor of the standard deviation of the base.
        """
        raise NotImplementedError

    def to_base(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """Latent to base, ``z_T -> z_0``; the identity where a prior has no base of its own."""
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
        self.register_buffer("zero", torch.zeros(dim), persistent=False)  # follows device and dtype

    def base(self, context: Tensor | None = None, *, temperature: float = 1.0) -> TorchDistribution:
        """N(0, temperature^2 I)."""
        # filled on the device: a Python number would be copied there, which waits for it
        return over(dist.Normal(self.zero, torch.full_like(self.zero, temperature)).to_event(1), context)


class StandardNormal(NormalBase):
    """The fixed prior N(0, I) of a plain VAE; it has no parameters.

    >>> round(StandardNormal(2)().log_prob(torch.zeros(2)).item(), 5)
    -1.83788
    """

    def forward(self, context: Tensor | None = None, *, temperature: float = 1.0) -> TorchDistribution:
        return self.base(temperature=temperature)
