"""Priors made of transforms: a base pushed through any stack of them, with a context or without."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions.conditional import ConditionalDistribution, ConditionalTransform
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor, nn
from torch.distributions import Transform

from pyro_lrp import transforms as paper_transforms
from pyro_lrp.core.gradients import full_precision
from pyro_lrp.priors.core import Prior, checked
from pyro_lrp.priors.stack import Stack, uncached
from pyro_lrp.transforms import inverse_and_ladj

__all__ = [
    "ConditionalFlow", "ConditionalFlowDistribution", "Flow", "FlowDistribution", "conditional_paper_flow",
    "paper_flow",
]  # fmt: skip


class FlowDistribution(dist.TransformedDistribution):
    """A ``TransformedDistribution`` that scores in one pass and never in less than float32.

    Transforms that offer ``inverse_and_ladj`` are evaluated once; the stock class evaluates each twice when
    caches are off.
    """

    def log_prob(self, value: Tensor) -> Tensor:
        event_dim = len(self.event_shape)
        with torch.autocast(value.device.type, enabled=False):
            x = full_precision(value)
            total: Tensor | float = 0.0
            for transform in reversed(self.transforms):
                x, ladj = inverse_and_ladj(transform, x, event_dim)
                total = total + ladj
            return self.base_dist.log_prob(x) + total

    @property
    def shifts_alone(self) -> bool:
        """Whether it is a normal whose coordinates have means that only coordinates before them decide."""
        return [getattr(t, "autoregressive_shift", False) for t in self.transforms] == [True]

    def conditionals(self, value: Tensor) -> TorchDistribution:
        """If it :attr:`shifts_alone`: the normal of each coordinate given those of ``value`` before it."""
        with torch.autocast(value.device.type, enabled=False):
            x = full_precision(value)
            shift = x - inverse_and_ladj(self.transforms[0], x, 1)[0]
        return dist.Normal(self.base_dist.mean + shift, self.base_dist.stddev).to_event(1)


class Flow(Stack):
    r"""A base pushed through ANY list of invertible Pyro transforms.

    :math:`\log p(z_T) = \log p(z_0) + \log|\det dz_0/dz_T|`, with :math:`z_0` from :meth:`to_base`.

    The flow owns what the transforms hold: parameters are registered, fixed tensors such as a permutation are
    saved and loaded as buffers, and all move with ``.to()``. Caches are switched off, since a stock transform's
    cache returns the density of the old parameters after an update.

    Args:
        dim: Length of a code.
        transforms: From base to latent, so the one nearest the data is last; nested lists are flattened. Pyro's
            ``iterated`` and ``ComposeTransformModule``, ``.inv`` and parameter-free transforms all serve. An
            item that is a factory, which makes a transform when it is called, is called.
        layers: How many times over the list is taken: its items must then be factories, so that each time
            has parameters of its own.
        base: Prior of z_0; N(0, I) if None.
        whiten: ``"standardize"`` or ``"pca"`` puts a fixed :class:`pyro_lrp.transforms.Whitening` nearest the
            data; :meth:`fit` sets it from the codes.

    Raises:
        ValueError: If a transform does not map vectors of length ``dim`` to such vectors, if it has no inverse
            (planar, radial, Sylvester, polynomial, block and neural autoregressive: these cannot score an
            encoder's codes), or if the stack does not reach all codes. The message names the transform.

    References:
        Dinh et al. (2017), RealNVP; Morrow and Chiu, section 4 and appendix A.1.

    >>> from pyro_lrp.transforms import paper_flow
    >>> prior = Flow(4, paper_flow(4, layers=2, width=8))
    >>> z = torch.randn(5, 4)
    >>> bool(torch.allclose(prior.to_latent(prior.to_base(z)), z, atol=1e-6))
    True
    >>> prior().log_prob(z).shape
    torch.Size([5])
    """

    def __init__(
        self, dim: int, transforms: Sequence[Any], *, layers: int = 1, base: Prior | None = None,
        whiten: str | None = None,
    ) -> None:  # fmt: skip
        super().__init__(dim, transforms, layers=layers, whiten=whiten, kinds=(Transform,))
        if base is not None and (not base.has_log_prob or base.event_shape != self.event_shape):
            raise ValueError(f"expected a base with a density over vectors of length {dim}, got {base}")
        self.base_prior = base
        if base is not None:
            self.has_rsample, self.tolerance = base.has_rsample, base.tolerance
        self.refuse_unless_invertible(self.transforms)

    def base(self, context: Tensor | None = None, *, temperature: float = 1.0) -> TorchDistribution:
        """The distribution of z_0: N(0, temperature^2 I), or what the base prior returns."""
        if self.base_prior is None:
            return super().base(context, temperature=temperature)
        return self.base_prior(context, temperature=temperature)

    @property
    def estimates(self) -> bool:
        return super().estimates or (self.base_prior is not None and self.base_prior.estimates)

    def fit(self, codes: Tensor, context: Tensor | None = None) -> dict[str, Any] | None:
        """Set the whitening, then let the base estimate itself from the codes taken to it."""
        done = self.whiten(codes)
        if self.base_prior is not None:
            with torch.no_grad():
                done |= self.base_prior.fit(self.to_base(codes)) or {}
        return done or None

    def forward(self, context: Tensor | None = None, *, temperature: float = 1.0) -> TorchDistribution:
        return FlowDistribution(self.base(temperature=temperature), self.transforms)


class ConditionalFlowDistribution(dist.ConditionalTransformedDistribution):
    """Pyro's, whose conditioned distribution is a :class:`FlowDistribution` over the context's batch."""

    def condition(self, context: Tensor) -> FlowDistribution:
        base = self.base_dist.condition(context).expand(context.shape[:-1])
        return FlowDistribution(base, [uncached(t.condition(context)) for t in self.transforms])


class _ConditionalNormal(ConditionalDistribution):
    """N(m(context), scale^2 I)."""

    def __init__(self, mean: Callable[[Tensor], Tensor], scale: Tensor) -> None:
        self.mean, self.scale = mean, scale

    def condition(self, context: Tensor) -> TorchDistribution:
        return dist.Normal(self.mean(context), self.scale).to_event(1)


class ConditionalFlow(Stack):
    r"""A flow prior p(z | context), on Pyro's ``ConditionalTransformedDistribution``.

    The base is :math:`N(m(c), I)` with a linear m that starts at zero, and every conditional transform sees c;
    m and the transforms get the context itself or, with a ``context_network``, the features it makes of it.

    Args:
        dim: Length of a code.
        transforms: From base to latent: conditional transforms (ours, Pyro's ``conditional_affine_coupling``,
            ``conditional_spline``, ...) and ordinary ones, in any mixture; factories of them are called.
        context_dim: Length of a context.
        layers: As in :class:`Flow`.
        context_network: Maps contexts ``(*, context_dim)`` to features ``(*, features)``; the prior owns it.
        conditional_base: Whether the base's mean sees the context, through a linear map; N(0, I) if not. Or the
            network that makes the mean of it.
        whiten: As in :class:`Flow`.

    Raises:
        ValueError: As in :class:`Flow`, or when it is called without a context or with one of another length.

    References:
        Morrow and Chiu, section 6 (the U-Net's priors); Winkler et al. (2019), Conditional Normalizing Flows.

    >>> stack = paper_transforms.conditional_paper_flow(4, 3, layers=2, width=8)
    >>> prior = ConditionalFlow(4, stack, context_dim=3)
    >>> context = torch.eye(3)
    >>> prior(context).sample().shape, prior(context).log_prob(torch.zeros(3, 4)).shape
    (torch.Size([3, 4]), torch.Size([3]))
    """

    def __init__(
        self, dim: int, transforms: Sequence[Any], context_dim: int, *, layers: int = 1,
        context_network: nn.Module | None = None, conditional_base: bool | nn.Module = True,
        whiten: str | None = None,
    ) -> None:  # fmt: skip
        if not isinstance(context_dim, int) or context_dim < 1:
            raise ValueError(f"expected a context_dim of at least 1, got {context_dim}")
        kinds = (Transform, ConditionalTransform)
        super().__init__(dim, transforms, layers=layers, whiten=whiten, kinds=kinds)
        self.context_dim, self.context_network = context_dim, context_network
        with torch.no_grad():
            features = self._features(torch.zeros(2, context_dim))
        self.mean: nn.Module | None = conditional_base if isinstance(conditional_base, nn.Module) else None
        if conditional_base is True:
            self.mean = nn.Linear(features.shape[-1], dim)
            for parameter in self.mean.parameters():
                nn.init.zeros_(parameter)
        self.refuse_unless_invertible(self.transforms, features)

    def conditional(self, *, temperature: float = 1.0) -> ConditionalFlowDistribution:
        """The prior as Pyro's conditional distribution, of what the context network makes of a context."""
        return ConditionalFlowDistribution(self._base(temperature), self.transforms)

    def forward(self, context: Tensor | None = None, *, temperature: float = 1.0) -> TorchDistribution:
        return self.conditional(temperature=temperature).condition(self._features(context))

    def base(self, context: Tensor | None = None, *, temperature: float = 1.0) -> TorchDistribution:
        """The distribution of z_0, N(m(context), temperature^2 I), over the context's batch."""
        features = self._features(context)
        base = self._base(temperature)
        base = base.condition(features) if isinstance(base, ConditionalDistribution) else base
        return base.expand(features.shape[:-1])

    def fit(self, codes: Tensor, context: Tensor | None = None) -> dict[str, Any] | None:
        """Set the whitening, if there is one."""
        return self.whiten(codes) or None

    def to_base(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """Latent to base, ``z_T -> z_0``, shape ``(*, dim)``; the context broadcasts against it."""
        return self._backward(self._conditioned(context), z)

    def to_latent(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """Base to latent, ``z_0 -> z_T``, shape ``(*, dim)``; the context broadcasts against it."""
        return self._forward(self._conditioned(context), z)

    def _base(self, temperature: float) -> Any:
        if self.mean is None:
            return super().base(temperature=temperature)
        return _ConditionalNormal(self.mean, torch.full_like(self.zero, temperature))

    def _conditioned(self, context: Tensor | None) -> list[Transform]:
        return self.conditional().condition(self._features(context)).transforms

    def _features(self, context: Tensor | None) -> Tensor:
        context = full_precision(checked(context, self.context_dim))
        return context if self.context_network is None else self.context_network(context)


def paper_flow(
    dim: int, layers: int = 24, width: int = 1024, *, permute: str = "swap", seed: int = 0,
    dropout: float = 0.0, whiten: str | None = None, base: Prior | None = None,
) -> Flow:  # fmt: skip
    """The paper's flow prior (appendix A.1); see :func:`pyro_lrp.transforms.paper_flow` and :class:`Flow`.

    >>> sum(p.numel() for p in paper_flow(16, layers=8, width=256).parameters())
    577792
    """
    stack = paper_transforms.paper_flow(dim, layers, width, permute=permute, seed=seed, dropout=dropout)
    return Flow(dim, stack, whiten=whiten, base=base)


def conditional_paper_flow(
    dim: int, context_dim: int, layers: int = 24, width: int = 1024, *, permute: str = "swap", seed: int = 0,
    dropout: float = 0.0, whiten: str | None = None, context_network: nn.Module | None = None,
) -> ConditionalFlow:  # fmt: skip
    """The conditional twin of :func:`paper_flow`, on the context itself or on a network's features of it."""
    features = context_dim
    if context_network is not None:
        with torch.no_grad():
            features = context_network(torch.zeros(2, context_dim)).shape[-1]
    stack = paper_transforms.conditional_paper_flow(
        dim, features, layers, width, permute=permute, seed=seed, dropout=dropout
    )
    return ConditionalFlow(dim, stack, context_dim, context_network=context_network, whiten=whiten)
