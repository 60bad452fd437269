"""Flow priors: a base pushed through any stack of transforms, with or without a context."""

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
from pyro_lrp.priors.core import Prior, broadcast, checked
from pyro_lrp.priors.stack import Stack, uncached
from pyro_lrp.transforms import inverse_and_ladj

__all__ = [
    "ConditionalFlow",
    "ConditionalFlowDistribution",
    "Flow",
    "FlowDistribution",
    "conditional_paper_flow",
    "paper_flow",
]


class FlowDistribution(dist.TransformedDistribution):
    """A ``TransformedDistribution`` that computes densities in one pass, in float32 or better.

    Transforms that offer ``inverse_and_ladj`` are evaluated once; the stock class evaluates each twice when
    caches are off.
    """

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density of codes that broadcast against the batch: ``(*, dim) -> (*)``."""
        event_dim = len(self.event_shape)
        with torch.autocast(value.device.type, enabled=False):
            x = broadcast(full_precision(value), self.batch_shape, event_dim)
            total: Tensor | float = 0.0
            for transform in reversed(self.transforms):
                if getattr(transform, "volume_preserving", False):
                    x = transform.inv(x)
                    continue
                x, ladj = inverse_and_ladj(transform, x, event_dim)
                total = total + ladj
            return self.base_dist.log_prob(x) + total

    @property
    def shifts_alone(self) -> bool:
        """Whether it is a normal in which each coordinate's mean depends only on the coordinates before it."""
        if len(self.transforms) != 1:
            return False
        return getattr(self.transforms[0], "autoregressive_shift", False) is True

    def conditionals(self, value: Tensor) -> TorchDistribution:
        """The normal of each coordinate given those of ``value`` before it; requires :attr:`shifts_alone`."""
        with torch.autocast(value.device.type, enabled=False):
            x = broadcast(full_precision(value), self.batch_shape)
            noise, _ = inverse_and_ladj(self.transforms[0], x, 1)
            shift = x - noise
        mean = self.base_dist.mean + shift
        return dist.Normal(mean, self.base_dist.stddev).to_event(1)


class Flow(Stack):
    r"""A base pushed through ANY list of invertible Pyro transforms.

    :math:`\log p(z_T) = \log p(z_0) + \log|\det dz_0/dz_T|`, with :math:`z_0` from :meth:`to_base`.

    The flow owns the tensors of the transforms: parameters are registered, fixed tensors such as a permutation
    are saved and loaded as buffers, and all move with ``.to()``. Caches are switched off, because that of a
    stock transform returns the density of the old parameters after an update.

    Args:
        dim: Length of a code.
        transforms: From base to latent, so the one nearest the data is last; nested lists are flattened. Pyro's
            ``iterated`` and ``ComposeTransformModule``, ``.inv`` and parameter-free transforms are accepted. An
            item may be a factory, which is called to build a transform.
        layers: Number of repetitions of the list. With more than one the items must be factories, so that each
            repetition has separate parameters.
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
        self,
        dim: int,
        transforms: Sequence[Any],
        *,
        layers: int = 1,
        base: Prior | None = None,
        whiten: str | None = None,
    ) -> None:
        super().__init__(
            dim,
            transforms,
            layers=layers,
            whiten=whiten,
            kinds=(Transform,),
        )
        self.base_prior = base
        if base is not None:
            fits = base.has_log_prob and base.event_shape == self.event_shape
            if not fits:
                raise ValueError(f"expected a base with a density over vectors of length {dim}, got {base}")
            self.has_rsample = base.has_rsample
            self.tolerance = base.tolerance
        self.refuse_unless_invertible(self.transforms)
        self._fused = paper_transforms.fused(self.transforms, dim)

    def base(
        self,
        context: Tensor | None = None,
        *,
        temperature: float = 1.0,
    ) -> TorchDistribution:
        """The distribution of z_0: N(0, temperature^2 I), or that of the base prior."""
        if self.base_prior is None:
            return super().base(context, temperature=temperature)
        return self.base_prior(context, temperature=temperature)

    @property
    def estimates(self) -> bool:
        if super().estimates:
            return True
        return self.base_prior is not None and self.base_prior.estimates

    def fit(self, codes: Tensor, context: Tensor | None = None) -> dict[str, Any] | None:
        """Set the whitening, then fit the base prior to the codes mapped to the base."""
        record = self.whiten(codes)
        if self.base_prior is not None:
            with torch.no_grad():
                base_codes = self.to_base(codes)
                record |= self.base_prior.fit(base_codes) or {}
        return record or None

    def forward(
        self,
        context: Tensor | None = None,
        *,
        temperature: float = 1.0,
    ) -> TorchDistribution:
        base = self.base(temperature=temperature)
        return FlowDistribution(base, self._fused)


class ConditionalFlowDistribution(dist.ConditionalTransformedDistribution):
    """Pyro's class, conditioned to a :class:`FlowDistribution` over the batch of the context."""

    def condition(self, context: Tensor) -> FlowDistribution:
        base = self.base_dist.condition(context)
        base = base.expand(context.shape[:-1])
        transforms = []
        for transform in self.transforms:
            conditioned = transform.condition(context)
            transforms.append(uncached(conditioned))
        return FlowDistribution(base, transforms)


class _ConditionalNormal(ConditionalDistribution):
    """N(m(context), scale^2 I)."""

    def __init__(self, mean: Callable[[Tensor], Tensor], scale: Tensor) -> None:
        self.mean = mean
        self.scale = scale

    def condition(self, context: Tensor) -> TorchDistribution:
        mean = self.mean(context)
        return dist.Normal(mean, self.scale).to_event(1)


class ConditionalFlow(Stack):
    r"""A flow prior p(z | context), on Pyro's ``ConditionalTransformedDistribution``.

    The base is :math:`N(m(c), I)` with a linear m that starts at zero, and every conditional transform depends
    on c. The input of m and of the transforms is the context or, with a ``context_network``, its output.

    Args:
        dim: Length of a code.
        transforms: From base to latent: conditional transforms (ours, Pyro's ``conditional_affine_coupling``,
            ``conditional_spline``, ...) and ordinary ones, in any order; factories are called.
        context_dim: Length of a context.
        layers: See :class:`Flow`.
        context_network: Maps contexts ``(*, context_dim)`` to features ``(*, features)``; the prior owns it.
        conditional_base: Whether the mean of the base is a linear map of the context; the base is N(0, I) if
            not. A network replaces the linear map.
        whiten: See :class:`Flow`.

    Raises:
        ValueError: See :class:`Flow`; also from a call without a context or with one of another length.

    References:
        Morrow and Chiu, section 6 (the U-Net's priors); Winkler et al. (2019), Conditional Normalizing Flows.

    >>> stack = paper_transforms.conditional_paper_flow(4, 3, layers=2, width=8)
    >>> prior = ConditionalFlow(4, stack, context_dim=3)
    >>> context = torch.eye(3)
    >>> prior(context).sample().shape, prior(context).log_prob(torch.zeros(3, 4)).shape
    (torch.Size([3, 4]), torch.Size([3]))
    """

    def __init__(
        self,
        dim: int,
        transforms: Sequence[Any],
        context_dim: int,
        *,
        layers: int = 1,
        context_network: nn.Module | None = None,
        conditional_base: bool | nn.Module = True,
        whiten: str | None = None,
    ) -> None:
        if not isinstance(context_dim, int) or context_dim < 1:
            raise ValueError(f"expected a context_dim of at least 1, got {context_dim}")
        super().__init__(
            dim,
            transforms,
            layers=layers,
            whiten=whiten,
            kinds=(Transform, ConditionalTransform),
        )
        self.context_dim = context_dim
        self.context_network = context_network
        with torch.no_grad():
            features = self._features(torch.zeros(2, context_dim))
        self.mean: nn.Module | None = None
        if isinstance(conditional_base, nn.Module):
            self.mean = conditional_base
        elif conditional_base is True:
            self.mean = nn.Linear(features.shape[-1], dim)
            for parameter in self.mean.parameters():
                nn.init.zeros_(parameter)
        self.refuse_unless_invertible(self.transforms, features)

    def conditional(self, *, temperature: float = 1.0) -> ConditionalFlowDistribution:
        """The prior as Pyro's conditional distribution, to be conditioned on features of a context."""
        base = self._base(temperature)
        return ConditionalFlowDistribution(base, self.transforms)

    def forward(
        self,
        context: Tensor | None = None,
        *,
        temperature: float = 1.0,
    ) -> TorchDistribution:
        conditional = self.conditional(temperature=temperature)
        return conditional.condition(self._features(context))

    def base(
        self,
        context: Tensor | None = None,
        *,
        temperature: float = 1.0,
    ) -> TorchDistribution:
        """The distribution of z_0, N(m(context), temperature^2 I), over the batch of the context."""
        features = self._features(context)
        base = self._base(temperature)
        if isinstance(base, ConditionalDistribution):
            base = base.condition(features)
        return base.expand(features.shape[:-1])

    def fit(self, codes: Tensor, context: Tensor | None = None) -> dict[str, Any] | None:
        """Set the whitening, if there is one."""
        return self.whiten(codes) or None

    def to_base(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """Latent to base, ``z_T -> z_0``, shape ``(*, dim)``; the context broadcasts against it."""
        features = self._features(context)
        z = broadcast(z, features.shape[:-1])
        return self._backward(self._conditioned(features), z)

    def to_latent(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """Base to latent, ``z_0 -> z_T``, shape ``(*, dim)``; the context broadcasts against it."""
        features = self._features(context)
        z = broadcast(z, features.shape[:-1])
        return self._forward(self._conditioned(features), z)

    def _base(self, temperature: float) -> Any:
        if self.mean is None:
            return super().base(temperature=temperature)
        scale = torch.full_like(self.zero, temperature)
        return _ConditionalNormal(self.mean, scale)

    def _conditioned(self, features: Tensor) -> list[Transform]:
        return self.conditional().condition(features).transforms

    def _features(self, context: Tensor | None) -> Tensor:
        context = checked(context, self.context_dim).to(self.zero.dtype)
        if self.context_network is None:
            return context
        return self.context_network(context)


def paper_flow(
    dim: int,
    layers: int = 24,
    width: int = 1024,
    *,
    permute: str = "swap",
    seed: int = 0,
    dropout: float = 0.0,
    whiten: str | None = None,
    base: Prior | None = None,
) -> Flow:
    """The paper's flow prior (appendix A.1); see :func:`pyro_lrp.transforms.paper_flow` and :class:`Flow`.

    >>> sum(p.numel() for p in paper_flow(16, layers=8, width=256).parameters())
    577792
    """
    stack = paper_transforms.paper_flow(
        dim,
        layers,
        width,
        permute=permute,
        seed=seed,
        dropout=dropout,
    )
    return Flow(dim, stack, whiten=whiten, base=base)


def conditional_paper_flow(
    dim: int,
    context_dim: int,
    layers: int = 24,
    width: int = 1024,
    *,
    permute: str = "swap",
    seed: int = 0,
    dropout: float = 0.0,
    whiten: str | None = None,
    context_network: nn.Module | None = None,
) -> ConditionalFlow:
    """The conditional form of :func:`paper_flow`, on the context or on the output of a context network."""
    features = context_dim
    if context_network is not None:
        with torch.no_grad():
            outputs = context_network(torch.zeros(2, context_dim))
        features = outputs.shape[-1]
    stack = paper_transforms.conditional_paper_flow(
        dim,
        features,
        layers,
        width,
        permute=permute,
        seed=seed,
        dropout=dropout,
    )
    return ConditionalFlow(
        dim,
        stack,
        context_dim,
        context_network=context_network,
        whiten=whiten,
    )
