"""What the laws are made of: a row, a prior at a context, and the state in which it is measured."""

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
    "BATCHES", "EXACT", "At", "Law", "as_it_was", "assert_all", "contained", "default_dtype", "gap", "jiggle",
    "modules_of", "relative_gap", "slogdet",
]  # fmt: skip

BATCHES: tuple[tuple[int, ...], ...] = ((), (7,), (6, 5))
EXACT = 1e-5  # most agree to 1e-14; the matrix exponential of Pyro inverts to 1e-6
_ROWS = 128
_REPEATS = 16  # of a density that is itself an estimate


class Law(NamedTuple):
    """What was measured: the law holds if ``figure`` is a number of at most ``limit``.

    A law that could not be decided says so in its ``note`` ("no power: ...") and has no limit.

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
        prior: Over vectors.
        context: Shape ``(context_dim,)``; of length 0 for an unconditional prior.
        noise: Standard deviation of its log_prob, where that is an unbiased estimate (Hutchinson's of a trace).
    """

    prior: Prior
    context: Tensor
    noise: float = 0.0

    @property
    def dim(self) -> int:
        return self.prior.event_shape[0]

    @property
    def exact(self) -> float:
        """The limit of what should agree; of two numerical answers each may be wrong by its tolerance."""
        return max(EXACT, 2.0 * self.prior.tolerance)

    @property
    def exact_score(self) -> float:
        """The limit of densities that should agree, where one of them may be a mean of estimates."""
        return self.exact + 8.0 * self.noise / math.sqrt(_REPEATS)

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
        return self._estimates(z).mean(0) if self.noise else self().log_prob(z)

    def like(self, tensor: Tensor) -> At:
        """With its context in the dtype of a tensor, and on its device."""
        return replace(self, context=self.context.to(tensor))

    def noticed(self, z: Tensor) -> At:
        """With its noise, if it gives the same codes another density when asked again."""
        if torch.equal(self().log_prob(z), self().log_prob(z)):
            return self
        return replace(self, noise=self._estimates(z).std(0).max().item())

    @torch.no_grad()
    def _estimates(self, z: Tensor) -> Tensor:
        return self().log_prob(z.expand(_REPEATS, *z.shape))


def modules_of(prior: Prior) -> list[nn.Module]:
    """The prior, and the module that it computes with and does not own, if there is one."""
    return [prior] if prior.bound is None else [prior, prior.bound]


def assert_all(laws: Iterator[Law]) -> None:
    """Raise an ``AssertionError`` that names the first law that broke, and by how much."""
    with closing(laws):  # type: ignore[type-var]
        for law in laws:
            remark = f" ({law.note})" if law.note else ""
            assert law.holds, f"law broken: {law.name}: {law.figure:.3g}, the limit is {law.limit:.3g}{remark}"


def contained(laws: Iterator[Law]) -> Iterator[Law]:
    """The same laws, each measured with float64 as the default, without gradients and with seeded generators.

    Distributions do not validate meanwhile: a NaN should break the law under which it arises. Between the rows
    the caller's settings are the caller's.
    """
    with seeded(0, "laws"):
        state = torch.get_rng_state()
    while True:
        with untouched_generators(), default_dtype(torch.float64), torch.no_grad(), _unvalidated():
            torch.set_rng_state(state)
            law = next(laws, None)
            state = torch.get_rng_state()
        if law is None:
            return
        yield law


@contextmanager
def as_it_was(*modules: nn.Module) -> Iterator[None]:
    """Eval mode within the block; afterwards states, dtypes, devices and modes are what they were."""
    states = [{k: v.detach().clone() for k, v in module.state_dict().items()} for module in modules]
    with ExitStack() as modes:
        for module in modules:
            modes.enter_context(eval_mode(module))
        try:
            yield
        finally:
            for module, state in zip(modules, states, strict=True):
                dtypes = {tensor.dtype for tensor in state.values() if tensor.is_floating_point()}
                devices = [tensor.device for tensor in state.values()]
                module.to(dtypes.pop() if len(dtypes) == 1 else torch.float32)
                module.to(devices[0] if devices else "cpu")
                module.load_state_dict(state)


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Some stock transforms (the autoregressive inverse) make tensors of the default dtype."""
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
    """Move parameters off their initial values, at which a wrong law may hold by symmetry.

    Each output of a layer moves by about ``size`` times its input, however wide the layer: a weight gets noise
    of standard deviation ``size / sqrt(fan_in)``, a vector of ``size``. At 0.3 a flow of 24 couplings
    overflows.
    """
    for module in modules:
        for parameter in module.parameters():
            fan_in = math.prod(parameter.shape[1:]) if parameter.dim() > 1 else 1
            parameter.add_(torch.randn_like(parameter), alpha=size / math.sqrt(fan_in))


def slogdet(function: Callable[[Tensor], Tensor], points: Tensor) -> Tensor:
    """The logarithm of |det J| of a map of vectors at each point, ``(n, d) -> (n,)``.

    Each point goes in d times over, so that one backward pass gives all rows of its Jacobian: a pass may be
    hundreds of steps of a solver. At most ``_ROWS`` go in at a time.
    """
    count, dim = points.shape
    units = torch.eye(dim, dtype=points.dtype, device=points.device)
    blocks = units.split(max(1, _ROWS // count))
    rows = torch.cat([_products(function, points, block) for block in blocks])
    # one by one: of a batch of large ones on several threads, MKL's LU has been seen to go wrong (DLASWP)
    return torch.stack([torch.linalg.slogdet(jacobian).logabsdet for jacobian in rows.unbind(1)])


def _products(function: Callable[[Tensor], Tensor], points: Tensor, directions: Tensor) -> Tensor:
    """Directions times the Jacobian at each point, ``(k, n, d)``."""
    with torch.enable_grad():
        many = points.detach().repeat(len(directions), 1).requires_grad_()
        cotangents = directions.repeat_interleave(len(points), dim=0)
        return torch.autograd.grad(function(many), many, cotangents)[0].reshape(-1, *points.shape)


def gap(a: Tensor, b: Tensor) -> float:
    """The largest difference."""
    return (a - b).abs().max().item()


def relative_gap(a: Tensor, b: Tensor) -> float:
    """The largest difference between two lists of vectors, as a share of one and the vector's largest entry."""
    return ((a - b).abs().amax(-1) / (1.0 + b.abs().amax(-1))).max().item()
