"""The law kit: is this a bijection, is this a density? For our own tests, and for anybody's transform or prior.

Each law measures one figure and has a limit. All run in float64 on the CPU and leave their subject as it was.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from scipy.stats import chi2
from torch import Tensor, nn
from torch.distributions import Transform

from pyro_lrp.priors import Prior
from pyro_lrp.randomness import seeded
from pyro_lrp.transforms import inverse_and_ladj

__all__ = ["Law", "check_prior", "check_transform", "prior_laws", "transform_laws"]

_BATCHES: tuple[tuple[int, ...], ...] = ((), (7,), (6, 5))
_EXACT = 1e-5  # most agree to 1e-14; the matrix exponential of Pyro inverts to 1e-6
_FALSE_ALARM = 1e-7  # of the one statistical law, for a correct prior


class Law(NamedTuple):
    """What was measured: the law holds if ``figure`` is a number of at most ``limit``."""

    name: str
    figure: float
    limit: float

    @property
    def holds(self) -> bool:
        return self.figure <= self.limit  # False for NaN


def check_transform(transform: Transform, dim: int) -> None:
    """Check that ``transform`` is a bijection of vectors of length ``dim``, with the right log-determinant.

    Raises:
        AssertionError: Names the law that broke, and by how much.

    >>> from pyro_lrp.transforms import sigmoid_coupling
    >>> check_transform(sigmoid_coupling(4, [8]), dim=4)
    """
    _assert_all(transform_laws(transform, dim))


def check_prior(prior: Prior | Callable[[], Prior]) -> None:
    """Check that a prior is a density whose sampler, score, parameters and saved state agree.

    At dim 1 and 2 its mass is integrated on a grid, and its sampler is held against the density (a correct
    prior fails that test with probability 1e-7).

    Args:
        prior: A prior over vectors, or a function that builds one. With a function, a second prior, built under
            another seed, must have the same density once it loads the first one's state.

    Raises:
        AssertionError: Names the law that broke, and by how much.

    >>> from pyro_lrp.priors import StandardNormal
    >>> check_prior(lambda: StandardNormal(2))
    """
    _assert_all(prior_laws(prior))


def transform_laws(transform: Transform, dim: int) -> Iterator[Law]:
    """The laws of :func:`check_transform`, one by one."""
    modules = [part for part in (transform, transform.inv) if isinstance(part, nn.Module)]
    module = modules[0] if modules else nn.Module()

    def inverse(v: Tensor) -> Tensor:
        return inverse_and_ladj(transform, v)[0]

    with _float64(module), seeded(0, "transform laws"):
        _jiggle(module)
        x = torch.randn(7, dim, dtype=torch.float64)
        y = transform(x)
        back, ladj = inverse_and_ladj(transform, y.clone())
        yield Law("round trip, base to latent to base", _gap(back, x), _EXACT)
        yield Law("round trip, latent to base to latent", _gap(transform(back), y), _EXACT)
        yield Law("inverse log-determinant against autograd", _gap(ladj, _slogdet(inverse, y)), _EXACT)
        forward = transform.log_abs_det_jacobian(x, y)
        forward = forward.reshape(x.shape[0], -1).sum(-1) if forward.dim() else forward.expand(x.shape[0])
        yield Law("log-determinant against autograd", _gap(forward, _slogdet(transform, x)), _EXACT)
        for batch in _BATCHES:
            z = torch.randn(*batch, dim, dtype=torch.float64)
            z_0, ladj = inverse_and_ladj(transform, z)
            wrong = z_0.shape != z.shape or torch.broadcast_shapes(ladj.shape, batch) != batch
            yield Law(f"shapes for a batch of {batch}", float(wrong), 0.0)
        yield from _gradients(
            module, lambda: torch.cat([t.flatten() for t in inverse_and_ladj(transform, x)]).sum()
        )
        yield from _rescoring(module, lambda: inverse_and_ladj(transform, y)[1], lambda: _slogdet(inverse, y))


def prior_laws(prior: Prior | Callable[[], Prior]) -> Iterator[Law]:
    """The laws of :func:`check_prior`, one by one."""
    build = None if isinstance(prior, nn.Module) else prior
    subject = prior if isinstance(prior, Prior) else _build(prior, seed=0)
    dim = subject.event_shape[0]
    with _float64(subject), seeded(0, "prior laws"), torch.no_grad():
        _jiggle(subject, size=0.05)
        z_0 = torch.randn(7, dim, dtype=torch.float64)
        z = subject.to_latent(z_0)
        yield Law("round trip, base to latent to base", _gap(subject.to_base(z.clone()), z_0), _EXACT)
        at_samples = _gap(subject().log_prob(z), _pushed(subject, z_0))
        yield Law("density at samples, against autograd of the sampler", at_samples, _EXACT)
        at_codes = _gap(subject().log_prob(z_0), _pulled(subject, z_0))
        yield Law("density at codes, against autograd of to_base", at_codes, _EXACT)
        if dim <= 2:
            yield from _mass_and_sampler(subject, dim)
        for batch in _BATCHES:
            codes = torch.randn(*batch, dim, dtype=torch.float64)
            figure = subject().log_prob(codes).shape != batch or subject().sample(batch).shape != codes.shape
            figure |= subject().expand(batch).sample().shape != codes.shape
            yield Law(f"shapes for a batch of {batch}", float(figure), 0.0)
        with torch.enable_grad():
            yield from _gradients(subject, lambda: subject().log_prob(z.clone()).sum())
            yield from _rescoring(subject, lambda: subject().log_prob(z), lambda: _pulled(subject, z))
        yield from _moves_and_reload(subject, build, z)


def _mass_and_sampler(prior: Prior, dim: int, cells: int = 16) -> Iterator[Law]:
    """Quadrature on a grid that follows the samples: mass 1, and the right share of samples in each cell."""
    samples = prior().sample((20_000,))
    limit = 1e-2
    for side in (512, 1024, 2048):  # a sharp density needs a finer grid than most do
        edges = torch.stack([_edges(samples[:, i], side) for i in range(dim)])
        mass = _cell_masses(prior, edges)
        error = abs(mass.sum().item() - 1.0)
        if error <= limit:
            break
    yield Law("mass is 1 by quadrature", error, limit)

    expected = mass.reshape([n for _ in range(dim) for n in (cells, side // cells)])
    expected = expected.sum(tuple(range(1, 2 * dim, 2))).flatten() * len(samples)
    coarse = edges[:, :: side // cells].contiguous()
    index = torch.zeros(len(samples), dtype=torch.long)
    for i in range(dim):
        index = index * cells + (torch.searchsorted(coarse[i], samples[:, i].contiguous()) - 1).clamp(
            0, cells - 1
        )
    observed = torch.bincount(index, minlength=cells**dim).double()
    rare = expected < 10.0
    expected = torch.cat([expected[~rare], expected[rare].sum()[None].clamp(min=1.0)])
    observed = torch.cat([observed[~rare], observed[rare].sum()[None]])
    statistic = ((observed - expected) ** 2 / expected).sum().item()
    threshold = float(chi2.isf(_FALSE_ALARM, len(expected) - 1))
    yield Law("sampler against density (chi-square over its limit)", statistic / threshold, 1.0)


def _edges(values: Tensor, side: int) -> Tensor:
    """``side + 1`` cell edges over the range of the values and one beyond, half of them at their quantiles."""
    even = torch.linspace(values.min().item() - 1.0, values.max().item() + 1.0, side // 2 + 1)
    quantiles = values.quantile(torch.linspace(0.0, 1.0, side // 2))
    return torch.cat([even, quantiles]).sort().values


def _cell_masses(prior: Prior, edges: Tensor) -> Tensor:
    """Density at the middle of each cell times its volume, flattened; edges of shape ``(dim, side + 1)``."""
    grid = torch.cartesian_prod(*(edges[:, :-1] + edges[:, 1:]) / 2).reshape(-1, len(edges))
    volume = torch.cartesian_prod(*edges.diff(dim=1)).reshape(-1, len(edges)).prod(1)
    return torch.cat([prior().log_prob(part) for part in grid.split(2**16)]).exp() * volume


def _gradients(module: nn.Module, value: Callable[[], Tensor]) -> Iterator[Law]:
    learnable = {name: p for name, p in module.named_parameters() if p.requires_grad}
    if not learnable:
        return
    grads = torch.autograd.grad(value(), list(learnable.values()), allow_unused=True)
    silent = [name for name, grad in zip(learnable, grads, strict=True) if grad is None or not grad.any()]
    name = "every parameter receives a gradient" + (f" (not {silent[0]})" if silent else "")
    yield Law(name, float(len(silent)), 0.0)


def _rescoring(module: nn.Module, score: Callable[[], Tensor], truth: Callable[[], Tensor]) -> Iterator[Law]:
    """After an update the very same tensor must get the new density: a stale cache gives the old one."""
    if any(p.requires_grad for p in module.parameters()):
        score()
        _jiggle(module, size=0.02)
        yield Law("rescoring after an update", _gap(score(), truth()), _EXACT)


def _moves_and_reload(prior: Prior, build: Callable[[], Prior] | None, z: Tensor) -> Iterator[Law]:
    truth = prior().log_prob(z)
    state = {name: tensor.clone() for name, tensor in prior.state_dict().items()}
    with _default_dtype(torch.float32):
        prior.float()
        single = prior().log_prob(z.float())
        wrong_dtype = single.dtype != torch.float32 or prior().sample().dtype != torch.float32
    yield Law("dtype follows the prior", float(wrong_dtype), 0.0)
    yield Law(
        "float32 agrees with float64", _gap(single.double(), truth) / (1 + truth.abs().max().item()), 1e-3
    )
    prior.double()
    prior.load_state_dict(state)
    if torch.cuda.is_available():
        moved = prior.cuda()().log_prob(z.cuda())
        yield Law("device follows the prior", _gap(moved.cpu(), truth), 1e-7)
        prior.cpu()
    for tensor in prior.state_dict().values():  # whatever the state does not hold survives this
        tensor.copy_(tensor.flatten()[torch.randperm(tensor.numel())].reshape(tensor.shape))
    prior.load_state_dict(state)
    yield Law("reload into the same prior gives the same density", _gap(prior().log_prob(z), truth), 1e-12)
    if build is not None:
        other = _build(build, seed=1).double()
        other.load_state_dict(state)
        yield Law("reload under another seed gives the same density", _gap(other().log_prob(z), truth), 1e-12)


def _build(build: Callable[[], Prior], seed: int) -> Prior:
    with seeded(seed, "build"):
        return build()


def _pushed(prior: Prior, z_0: Tensor) -> Tensor:
    return _log_normal(z_0) - _slogdet(prior.to_latent, z_0)


def _pulled(prior: Prior, z: Tensor) -> Tensor:
    return _log_normal(prior.to_base(z)) + _slogdet(prior.to_base, z)


def _log_normal(z: Tensor) -> Tensor:
    return -0.5 * (z.square().sum(-1) + z.shape[-1] * math.log(2 * math.pi))


def _slogdet(function: Callable[[Tensor], Tensor], points: Tensor) -> Tensor:
    with torch.enable_grad():
        jacobians = [
            torch.autograd.functional.jacobian(lambda v: function(v[None])[0], point) for point in points
        ]
    return torch.stack([torch.linalg.slogdet(jacobian).logabsdet for jacobian in jacobians])


def _gap(a: Tensor, b: Tensor) -> float:
    return (a - b).abs().max().item()


@torch.no_grad()
def _jiggle(module: nn.Module, size: float = 0.1) -> None:
    """Move parameters off their initial values, at which a wrong law may hold by symmetry."""
    for parameter in module.parameters():
        parameter.add_(size * torch.randn_like(parameter))


@contextmanager
def _float64(module: nn.Module) -> Iterator[None]:
    """The module in float64 within the block; afterwards its state, dtypes and mode are what they were."""
    state = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
    devices = [tensor.device for tensor in state.values()]
    training = module.training
    module.cpu().double().eval()
    try:
        with _default_dtype(torch.float64):
            yield
    finally:
        dtypes = {tensor.dtype for tensor in state.values() if tensor.is_floating_point()}
        module.to(dtypes.pop() if len(dtypes) == 1 else torch.float32)
        module.to(devices[0] if devices else "cpu")
        module.load_state_dict(state)
        module.train(training)


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Some stock transforms (the autoregressive inverse) make tensors of the default dtype."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _assert_all(laws: Iterator[Law]) -> None:
    for law in laws:
        assert law.holds, f"law broken: {law.name}: {law.figure:.3g}, the limit is {law.limit:.3g}"
