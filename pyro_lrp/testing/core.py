"""Parts that all laws share: the result of a law, a prior at a context, and the state in which laws run."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from pyro_lrp.core.modules import eval_mode
from pyro_lrp.core.randomness import seeded, untouched_generators
from pyro_lrp.priors import Prior

__all__ = [
    "BATCHES",
    "EXACT",
    "At",
    "Law",
    "assert_all",
    "contained",
    "copied_state",
    "default_dtype",
    "gap",
    "jiggle",
    "modules_of",
    "relative_gap",
    "restored",
    "slogdet",
]

BATCHES: tuple[tuple[int, ...], ...] = ((), (7,), (6, 5))
EXACT = 1e-5  # most transforms agree to 1e-14; Pyro's matrix exponential inverts to 1e-6
State = dict[str, Tensor]
_ROWS = 128  # rows of Jacobians that are computed in one pass
_REPEATS = 16  # evaluations of a density that is an estimate


class Law(NamedTuple):
    """Result of a law, which holds if ``figure`` is a number of at most ``limit``.

    A law that could not be decided has an infinite limit and a ``note`` that starts with "no power:".

    >>> Law("mass is 1", 0.2, limit=0.01).holds, Law("mass is 1", 0.2, math.inf, "no power: one sample").holds
    (False, True)
    """

    name: str
    figure: float
    limit: float
    note: str = ""

    @property
    def holds(self) -> bool:
        return self.figure <= self.limit  # False for NaN


@dataclass(frozen=True)
class At:
    """A prior at one context.

    Attributes:
        prior: A prior over vectors.
        context: Shape ``(context_dim,)``; of length 0 for an unconditional prior.
        noise: Standard deviation of ``log_prob``, if that is an unbiased estimate (Hutchinson's trace).
    """

    prior: Prior
    context: Tensor
    noise: float = 0.0

    @property
    def dim(self) -> int:
        return self.prior.event_shape[0]

    @property
    def exact(self) -> float:
        """Limit of differences; each of two numerical results may be wrong by the tolerance."""
        return max(EXACT, 2.0 * self.prior.tolerance)

    @property
    def exact_score(self) -> float:
        """Limit of differences of log densities, one of which may be a mean of estimates."""
        standard_error = self.noise / math.sqrt(_REPEATS)
        return self.exact + 8.0 * standard_error

    def __call__(self) -> Any:
        return self.prior(self.context)

    def base(self) -> Any:
        return self.prior.base(self.context)

    def to_base(self, z: Tensor) -> Tensor:
        return self.prior.to_base(z, self.context)

    def to_latent(self, z_0: Tensor) -> Tensor:
        return self.prior.to_latent(z_0, self.context)

    def score(self, z: Tensor) -> Tensor:
        """Log density of codes ``(n, d)``, or the mean of many estimates of it."""
        if self.noise == 0.0:
            return self().log_prob(z)
        return self._estimates(z).mean(0)

    def like(self, tensor: Tensor) -> At:
        """The same prior with the context in the dtype and on the device of a tensor."""
        return replace(self, context=self.context.to(tensor))

    def with_noise(self, z: Tensor) -> At:
        """The same prior with its noise measured, if repeated densities of the codes ``z`` differ."""
        first = self().log_prob(z)
        second = self().log_prob(z)
        if torch.equal(first, second):
            return self
        deviations = self._estimates(z).std(0)
        return replace(self, noise=deviations.max().item())

    @torch.no_grad()
    def _estimates(self, z: Tensor) -> Tensor:
        repeated = z.expand(_REPEATS, *z.shape)
        return self().log_prob(repeated)


def modules_of(prior: Prior) -> list[nn.Module]:
    """The prior and, if there is one, the module that it is bound to."""
    modules: list[nn.Module] = [prior]
    if prior.bound is not None:
        modules.append(prior.bound)
    return modules


def assert_all(laws: Iterator[Law]) -> None:
    """Raise an ``AssertionError`` with the first law that does not hold, its figure and its limit."""
    with closing(laws):  # type: ignore[type-var]
        for law in laws:
            message = f"law broken: {law.name}: {law.figure:.3g}, the limit is {law.limit:.3g}"
            if law.note:
                message += f" ({law.note})"
            assert law.holds, message


def contained(laws: Iterator[Law]) -> Iterator[Law]:
    """Measure each law with float64 as the default, without gradients and with seeded generators.

    Distributions do not validate meanwhile: a NaN should break the law in which it occurs. Between two laws the
    caller's settings and generators are restored.
    """
    with seeded(0, "laws"):
        state = torch.get_rng_state()
    while True:
        with ExitStack() as settings:
            settings.enter_context(untouched_generators())
            settings.enter_context(default_dtype(torch.float64))
            settings.enter_context(torch.no_grad())
            settings.enter_context(_unvalidated())
            torch.set_rng_state(state)
            law = next(laws, None)
            state = torch.get_rng_state()
        if law is None:
            return
        yield law


@contextmanager
def restored(*modules: nn.Module) -> Iterator[None]:
    """Eval mode within the block; states, dtypes, devices and modes are restored afterwards."""
    states = [copied_state(module) for module in modules]
    with ExitStack() as modes:
        for module in modules:
            modes.enter_context(eval_mode(module))
        try:
            yield
        finally:
            for module, state in zip(modules, states, strict=True):
                _restore(module, state)


def copied_state(module: nn.Module) -> State:
    """A copy of the state of a module."""
    state = {}
    for name, tensor in module.state_dict().items():
        state[name] = tensor.detach().clone()
    return state


def _restore(module: nn.Module, state: State) -> None:
    dtypes = {tensor.dtype for tensor in state.values() if tensor.is_floating_point()}
    dtype = torch.float32
    if len(dtypes) == 1:
        dtype = dtypes.pop()
    device = torch.device("cpu")
    for tensor in state.values():
        device = tensor.device
        break
    module.to(dtype)
    module.to(device)
    module.load_state_dict(state)


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Set the default dtype: some stock transforms (the autoregressive inverse) create tensors of it."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def _unvalidated() -> Iterator[None]:
    before = Distribution._validate_args
    Distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        Distribution.set_default_validate_args(before)


@torch.no_grad()
def jiggle(*modules: nn.Module, size: float = 0.1) -> None:
    """Add noise to parameters, since a wrong law may hold by symmetry at their initial values.

    The output of a layer changes by about ``size`` times its input, whatever its width: noise has standard
    deviation ``size / sqrt(fan_in)`` for a weight and ``size`` for a vector. At 0.3 a flow of 24 couplings
    overflows.
    """
    for module in modules:
        for parameter in module.parameters():
            fan_in = math.prod(parameter.shape[1:])  # 1 for a vector
            noise = torch.randn_like(parameter)
            parameter.add_(noise, alpha=size / math.sqrt(fan_in))


def slogdet(function: Callable[[Tensor], Tensor], points: Tensor) -> Tensor:
    """The logarithm of |det J| of a map of vectors at each point, ``(n, d) -> (n,)``.

    Each point is repeated d times, so that one backward pass computes all rows of its Jacobian: a pass may be
    hundreds of steps of a solver. A pass has at most ``_ROWS`` rows.
    """
    count, dim = points.shape
    units = torch.eye(dim, dtype=points.dtype, device=points.device)
    blocks = units.split(max(1, _ROWS // count))
    rows = torch.cat([_products(function, points, block) for block in blocks])
    # one matrix at a time: for a batch of large matrices MKL's LU failed on several threads (DLASWP)
    values = []
    for jacobian in rows.unbind(1):
        values.append(torch.linalg.slogdet(jacobian).logabsdet)
    return torch.stack(values)


def _products(
    function: Callable[[Tensor], Tensor],
    points: Tensor,
    directions: Tensor,
) -> Tensor:
    """Directions times the Jacobian at each point, ``(k, n, d)``."""
    with torch.enable_grad():
        repeated = points.detach().repeat(len(directions), 1)
        repeated.requires_grad_()
        cotangents = directions.repeat_interleave(len(points), dim=0)
        outputs = function(repeated)
        (products,) = torch.autograd.grad(outputs, repeated, cotangents)
    return products.reshape(-1, *points.shape)


def gap(a: Tensor, b: Tensor) -> float:
    """The largest difference."""
    return (a - b).abs().max().item()


def relative_gap(a: Tensor, b: Tensor) -> float:
    """The largest difference between two lists of vectors, divided by 1 plus the vector's largest entry."""
    differences = (a - b).abs().amax(-1)
    sizes = 1.0 + b.abs().amax(-1)
    return (differences / sizes).max().item()
