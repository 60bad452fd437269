"""Flows of the package zuko as priors."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from pyro.contrib.zuko import ZukoToPyro
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal, constraints

from pyro_lrp.core.errors import UserError
from pyro_lrp.core.gradients import full_precision
from pyro_lrp.priors.core import Prior, broadcast, checked, over

__all__ = ["Zuko", "ZukoDistribution"]

_WRONG_SHAPE = (RuntimeError, ValueError, TypeError, IndexError, AttributeError, AssertionError)


class ZukoDistribution(ZukoToPyro):
    """A zuko distribution in Pyro, in float32 or better and without the cache of ``ZukoToPyro``.

    That cache keeps the densities of samples, which are wrong once the parameters are updated.

    Args:
        distribution: Distribution that a zuko flow returned.
        device_type: Device type of its parameters, such as ``"cuda"``.
    """

    arg_constraints: ClassVar = {}
    support = constraints.real_vector

    def __init__(self, distribution: Distribution, device_type: str) -> None:
        super().__init__(distribution)
        self.device_type = device_type

    def __call__(self, sample_shape: Sequence[int] = ()) -> Tensor:
        if self.has_rsample:
            return self.rsample(sample_shape)
        return self.sample(sample_shape)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        with torch.autocast(self.device_type, enabled=False):
            return self.dist.rsample(torch.Size(sample_shape))

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        with torch.no_grad(), torch.autocast(self.device_type, enabled=False):
            return self.dist.sample(torch.Size(sample_shape))

    def log_prob(self, x: Tensor) -> Tensor:
        with torch.autocast(self.device_type, enabled=False):
            return self.dist.log_prob(broadcast(full_precision(x), self.batch_shape))

    def expand(
        self,
        batch_shape: Sequence[int],
        _instance: object = None,
    ) -> ZukoDistribution:
        expanded = self.dist.expand(torch.Size(batch_shape))
        return ZukoDistribution(expanded, self.device_type)


class Zuko(Prior):
    """A flow of the package zuko (``pip install 'pyro_lrp[zuko]'``), with a context or without.

    A flow with a normal base has ``to_base``, ``to_latent`` and a temperature; others (a mixture, a circular
    flow) have only samples and a density. Importing zuko switches off torch's validation of distributions.

    Args:
        dim: Length of a code.
        flow: A zuko flow over vectors of that length, such as ``zuko.flows.NSF(features=dim)``; the prior owns
            it. Splines of zuko are the identity beyond 5 and -5.
        context_dim: Length of a context, for a flow built with ``context=context_dim``; None for an
            unconditional flow.

    Raises:
        UserError: If zuko is not installed.
        ValueError: If the flow is not over such vectors or contexts, cannot be both sampled and scored, or does
            not reach all codes; when it is called without a context or with one of another length; or for a
            temperature other than 1 without a normal base.

    References:
        Rozet et al. (2022), Zuko: Normalizing flows in PyTorch.

    >>> import zuko
    >>> prior = Zuko(4, zuko.flows.NSF(features=4, transforms=2, hidden_features=[8]))
    >>> z = torch.randn(5, 4)
    >>> bool(torch.allclose(prior.to_latent(prior.to_base(z)), z, atol=1e-4))
    True
    >>> prior().log_prob(z).shape
    torch.Size([5])
    """

    zero: Tensor

    def __init__(
        self,
        dim: int,
        flow: nn.Module,
        context_dim: int | None = None,
    ) -> None:
        normalizing_flow = _normalizing_flow()
        super().__init__()
        if dim < 1:
            raise ValueError(f"expected dim to be at least 1, got {dim}")
        if context_dim is not None and context_dim < 1:
            raise ValueError(f"expected context_dim to be at least 1, or None, got {context_dim}")
        if not isinstance(flow, nn.Module):
            raise ValueError(f"expected flow to be a zuko flow, got {flow!r}")
        self.event_shape = torch.Size([dim])
        self.context_dim = context_dim or 0
        self.flow = flow
        tensors = chain(flow.parameters(), flow.buffers())
        like = next(tensors, torch.zeros(()))
        # the buffer follows the device and dtype of the module
        self.register_buffer("zero", like.new_zeros(dim), persistent=False)
        distribution = self._refuse_unless_usable(normalizing_flow)
        self.has_rsample = distribution.has_rsample
        self.tolerance = 100 * _solver_error(flow)
        if isinstance(distribution, normalizing_flow):
            self.has_base = _normal(distribution.base) is not None

    def forward(
        self,
        context: Tensor | None = None,
        *,
        temperature: float = 1.0,
    ) -> ZukoDistribution:
        distribution = self._distribution(context)
        if temperature != 1.0:
            distribution = self._at_temperature(distribution, temperature)
        return ZukoDistribution(distribution, self.zero.device.type)

    def _at_temperature(self, distribution: Any, temperature: float) -> Any:
        if not self.has_base:
            name = type(self.flow).__name__
            raise ValueError(
                f"expected temperature to be 1, as the base of a {name} is not normal, got {temperature}"
            )
        base = _scaled(distribution.base, temperature)
        return type(distribution)(distribution.transform, base)

    def base(
        self,
        context: Tensor | None = None,
        *,
        temperature: float = 1.0,
    ) -> TorchDistribution:
        """The distribution of z_0, over the batch of the context."""
        if not self.has_base:
            raise NotImplementedError(f"a {type(self.flow).__name__} has no normal base")
        base = self._distribution(context).base
        return over(_scaled(base, temperature), context)

    def to_base(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """Latent to base, ``z_T -> z_0``, shape ``(*, dim)``; the identity without a normal base."""
        if not self.has_base:
            return z
        with torch.autocast(z.device.type, enabled=False):
            transform = self._distribution(context).transform
            return transform(full_precision(z))

    def to_latent(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """Base to latent, ``z_0 -> z_T``, shape ``(*, dim)``; the identity without a normal base."""
        if not self.has_base:
            return z
        with torch.autocast(z.device.type, enabled=False):
            transform = self._distribution(context).transform
            return transform.inv(full_precision(z))

    def _distribution(self, context: Tensor | None) -> Any:
        if not self.context_dim:
            return self.flow(None)  # which computes nothing yet
        with torch.autocast(self.zero.device.type, enabled=False):
            context = checked(context, self.context_dim)
            return self.flow(context.to(self.zero.dtype))

    @torch.no_grad()
    def _refuse_unless_usable(self, normalizing_flow: Any) -> Any:
        """The flow's distribution for two contexts, after a check that it can serve as a prior."""
        name = f"the flow ({type(self.flow).__name__})"
        dim = len(self.zero)
        context = None
        contexts = ""
        if self.context_dim:
            context = self.zero.new_zeros(2, self.context_dim)
            contexts = f" and contexts of length {self.context_dim}"
        points = torch.linspace(
            -4.0,
            4.0,
            2 * dim,
            dtype=self.zero.dtype,
            device=self.zero.device,
        ).view(2, dim)
        back = points
        try:
            distribution = self._distribution(context)
            event = tuple(distribution.event_shape)
            if event != (dim,):
                raise ValueError(f"its codes have shape {event}")
            density = distribution.log_prob(points)
            distribution.sample()
            if isinstance(distribution, normalizing_flow):
                transform = distribution.transform
                back = transform.inv(transform(points))
        except (NotImplementedError, KeyError) as error:
            raise ValueError(f"{name} has no inverse; a prior must be sampled and scored") from error
        except _WRONG_SHAPE as error:
            line = " ".join(str(error).split())[:200]
            raise ValueError(f"{name} does not accept vectors of length {dim}{contexts}: {line}") from error
        if not density.isfinite().all() or not torch.allclose(back, points, atol=1e-2):
            raise ValueError(f"{name} does not reach all codes, so some have no density")
        return distribution


def _solver_error(flow: nn.Module) -> float:
    """The largest tolerance of the solvers inside a flow; 0 if there are none."""
    errors = [0.0]
    for part in flow.modules():
        attributes = vars(part)
        if "rtol" in attributes and "atol" in attributes:
            errors.append(attributes["rtol"])
            errors.append(attributes["atol"])
    return max(errors)


def _normalizing_flow() -> Any:
    """Zuko's class of distributions with a base. This is the only import of zuko."""
    try:
        from zuko.distributions import NormalizingFlow
    except ImportError as error:
        raise UserError("prior=zuko needs a package: pip install 'pyro_lrp[zuko]'") from error
    return NormalizingFlow


def _normal(base: Distribution) -> Normal | None:
    while isinstance(base, Independent):
        base = base.base_dist
    if not isinstance(base, Normal):
        return None
    return base


def _scaled(base: Distribution, temperature: float) -> TorchDistribution:
    normal = _normal(base)
    assert normal is not None, "the flow has no normal base"
    scale = normal.scale * temperature
    return dist.Normal(normal.loc, scale).to_event(1)
