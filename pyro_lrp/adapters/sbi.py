"""A learned prior of parameters for sbi, the toolbox of simulation-based inference."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from pyro_lrp import fitting, priors
from pyro_lrp.core.errors import UserError

__all__ = ["LearnedPrior"]

_DRAWS = 10_000  # by which mean and variance are estimated


class LearnedPrior(Distribution):
    """A prior over parameters, as the inference classes of sbi take one: ``NPE(LearnedPrior(fitted))``.

    It is a copy that learns no more. Its support is all of R^d, so parameters that are bounded are fitted, and
    given to the simulator, through their logarithm or logit. Mean and variance, by which sbi scales
    parameters, are those of 10,000 samples.

    Args:
        prior: What :func:`pyro_lrp.fit` or :func:`pyro_lrp.fitting.load` returns, or a prior over vectors.
        context: What a conditional prior is conditional on, ``(context_dim,)``: one for all samples; empty for
            other priors.

    Raises:
        UserError: If the prior has no density, or its codes are no vectors.
        ValueError: If the context is missing or has another length.

    >>> from pyro_lrp.priors import Mixture
    >>> prior = LearnedPrior(Mixture(2, components=3))
    >>> prior.sample((5,)).shape, prior.log_prob(torch.zeros(5, 2)).shape
    (torch.Size([5, 2]), torch.Size([5]))
    """

    arg_constraints: ClassVar = {}
    support = constraints.real_vector

    def __init__(self, prior: fitting.Fitted | priors.Prior, context: Any = ()) -> None:
        if isinstance(prior, fitting.Fitted):
            module = prior.prior
            shape = prior.shape
        else:
            module = prior
            shape = prior.event_shape
        if not module.has_log_prob:
            raise UserError(f"prior: a {type(module).__name__} has no density, and sbi needs one")
        if len(shape) != 1:
            raise UserError(
                f"prior: expected one over vectors of parameters, got codes of shape {tuple(shape)}"
            )
        self._prior = copy.deepcopy(module).eval().requires_grad_(False)
        device = next(module.parameters(), torch.zeros(())).device
        self._context = torch.as_tensor(context, dtype=torch.float32, device=device)
        super().__init__(event_shape=shape, validate_args=False)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            draws = self.sample(torch.Size([_DRAWS]))
        self._mean = draws.mean(0)
        self._variance = draws.var(0)

    def _distribution(self) -> Distribution:
        return self._prior(self._context)

    @property
    def mean(self) -> Tensor:
        """Shape ``(d,)``."""
        return self._mean

    @property
    def variance(self) -> Tensor:
        """Shape ``(d,)``."""
        return self._variance

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw parameters, ``(*sample_shape, d)``."""
        return self._distribution().sample(torch.Size(sample_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        """Log p of parameters ``(*, d)`` in nats, shape ``(*)``, with gradients to them."""
        return self._distribution().log_prob(value)

    def to(self, device: str | torch.device) -> LearnedPrior:
        """Move the prior to a device, as sbi does, and return it."""
        self._prior.to(device)
        self._context = self._context.to(device)
        self._mean = self._mean.to(device)
        self._variance = self._variance.to(device)
        return self
