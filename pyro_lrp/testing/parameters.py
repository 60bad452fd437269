"""Laws of a prior's parameters: registered, reached by gradients, without stale caches, saved and moved."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from pyro_lrp.core.randomness import seeded
from pyro_lrp.priors import Prior
from pyro_lrp.testing.core import (
    EXACT,
    At,
    Law,
    copied_state,
    default_dtype,
    gap,
    jiggle,
    modules_of,
)

__all__ = [
    "built",
    "gradients",
    "moves",
    "output",
    "registered",
    "reloads",
    "rescoring",
]


def registered(at: At) -> Iterator[Law]:
    """Tensors that receive gradients of a density or sample are parameters of the prior or its bound module.

    The law inspects the autograd graph in the dtype of the prior, which a hidden parameter shares. A hidden
    parameter recurs in a second evaluation; a tensor that an evaluation creates (some differentiate internally)
    does not.
    """
    prior = at.prior
    at = at.like(_floating_tensor(prior))
    reparametrized = not prior.has_rsample or at().has_rsample
    name = "samples are reparametrized if the prior says so"
    yield Law(name, float(not reparametrized), 0.0)

    with_samples = prior.has_rsample and reparametrized
    first = _all_leaves(at, with_samples=with_samples)
    second = _all_leaves(at, with_samples=with_samples)
    known = set()
    for module in modules_of(prior):
        known |= {id(parameter) for parameter in module.parameters()}
    recurring = {id(leaf) for leaf in second} - known
    hidden = {id(leaf): leaf for leaf in first if id(leaf) in recurring}
    shapes = sorted({str(tuple(leaf.shape)) for leaf in hidden.values()})
    note = ""
    if shapes:
        note = f"not registered: shape {', '.join(shapes)}"
    yield Law("every parameter is registered", float(len(hidden)), 0.0, note)


def _floating_tensor(prior: Prior) -> Tensor:
    """A parameter or buffer, whose dtype and device are those of the prior."""
    for tensor in [*prior.parameters(), *prior.buffers()]:
        if tensor.is_floating_point():
            return tensor
    return torch.zeros((), dtype=torch.float32)


def _all_leaves(at: At, *, with_samples: bool) -> list[Tensor]:
    """The leaves of the graphs of one score and one sample."""
    like = at.context
    values = []
    with default_dtype(like.dtype), torch.enable_grad():
        if at.prior.has_log_prob:
            z = torch.randn(3, at.dim).to(like)
            values.append(at().log_prob(z))
        if with_samples:
            values.append(at().rsample((3,)))
        leaves = []
        for value in values:
            leaves += list(_leaves(value))
    return leaves


def _leaves(value: Tensor) -> Iterator[Tensor]:
    """The tensors that accumulate the gradient of a value."""
    nodes = []
    if value.grad_fn is not None:
        nodes.append(value.grad_fn)
    seen = set(nodes)
    while nodes:
        node = nodes.pop()
        if hasattr(node, "variable"):
            yield node.variable
        for function, _ in node.next_functions:
            if function is not None and function not in seen:
                seen.add(function)
                nodes.append(function)


def gradients(
    module: nn.Module,
    value: Callable[[], Tensor],
    suffix: str = "",
) -> Iterator[Law]:
    """Every parameter receives a finite, nonzero gradient; a parameter without any effect is only noted.

    The first weight of an autoregressive network has no effect at dim 1, nor has the weight of a single
    component.

    Args:
        module: Owner of the parameters.
        value: Computes the number to be differentiated.
        suffix: Appended to the name of the law.
    """
    parameters = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            parameters[name] = parameter
    if not parameters:
        return

    def seeded_value() -> Tensor:
        with seeded(0, "gradients"):
            return value()

    grads = _grads(seeded_value, list(parameters.values()))
    silent: list[str] = []
    without_effect: list[str] = []
    for (name, parameter), grad in zip(parameters.items(), grads, strict=True):
        if grad is None or not grad.isfinite().all():
            silent.append(name)
        elif grad.any():
            continue
        elif _matters(parameter, seeded_value):
            silent.append(name)
        else:
            without_effect.append(name)
    note = ""
    if silent:
        note = f"not {', '.join(silent[:3])}"
    elif without_effect:
        note = f"without effect: {', '.join(without_effect[:3])}"
    yield Law(f"every parameter receives a gradient{suffix}", float(len(silent)), 0.0, note)


def _grads(
    value: Callable[[], Tensor],
    parameters: Sequence[Tensor],
) -> Sequence[Tensor | None]:
    with torch.enable_grad():
        differentiable = value()
        if not differentiable.requires_grad:
            return [None] * len(parameters)
        return torch.autograd.grad(differentiable, parameters, allow_unused=True)


@torch.no_grad()
def _matters(parameter: Tensor, value: Callable[[], Tensor]) -> bool:
    """Whether the value depends on a parameter."""
    before = value()
    original = parameter.clone()
    parameter.add_(torch.randn_like(parameter))
    after = value()
    parameter.copy_(original)
    return not torch.equal(before, after)


def rescoring(
    module: nn.Module,
    score: Callable[[], Tensor],
    truth: Callable[[], Tensor],
    limit: float = EXACT,
    *,
    must_move: bool = False,
    suffix: str = "",
) -> Iterator[Law]:
    """After an update the same tensor has the new density: a stale cache returns the old one.

    Args:
        module: Module whose parameters are updated.
        score: Scores one tensor, always the same.
        truth: Computes the correct score.
        limit: Limit of the difference.
        must_move: Whether every update changes the score, so that an unchanged score is stale.
        suffix: Appended to the name of the law.
    """
    if not any(p.requires_grad for p in module.parameters()):
        return
    with torch.enable_grad():  # caches may behave differently in training
        before = score().detach()
        jiggle(module, size=0.05)
        after = score().detach()
    stale = must_move and torch.equal(before, after)
    figure = gap(after, truth())
    if stale:
        figure = math.inf
    yield Law(f"rescoring after an update{suffix}", figure, limit)


def moves(at: At, z: Tensor) -> Iterator[Law]:
    """The prior follows dtype and device; in float32 it has nearly the density that it has in float64."""
    expected = output(at, z)
    yield from _moves_to_float32(at, z, expected)
    if torch.cuda.is_available():
        yield from _moves_to_cuda(at, z, expected)


def _moves_to_float32(at: At, z: Tensor, expected: Tensor) -> Iterator[Law]:
    modules = modules_of(at.prior)
    states = [copied_state(module) for module in modules]
    with default_dtype(torch.float32):
        for module in modules:
            module.float()
        z_single = z.float()
        at_single = at.like(z_single)
        single = output(at_single, z_single)
        sample = at_single().sample()
    right = single.dtype == sample.dtype == torch.float32
    yield Law("dtype follows the prior", float(not right), 0.0)
    for module, state in zip(modules, states, strict=True):
        module.double().load_state_dict(state)
    if at.prior.has_log_prob:
        figure = gap(single.double(), expected) / _size(expected)
        yield Law("float32 agrees with float64", figure, max(1e-3, at.exact))


def _moves_to_cuda(at: At, z: Tensor, expected: Tensor) -> Iterator[Law]:
    modules = modules_of(at.prior)
    for module in modules:
        module.cuda()
    z_cuda = z.cuda()
    at_cuda = at.like(z_cuda)
    moved = output(at_cuda, z_cuda)
    sample = at_cuda().sample()
    figure = 0.0
    if not (sample.is_cuda and moved.is_cuda):
        figure = math.inf
    elif at.prior.has_log_prob and not at.noise:  # random numbers differ between devices
        figure = gap(moved.cpu(), expected) / _size(expected)
    yield Law("device follows the prior", figure, max(1e-7, at.prior.tolerance))
    for module in modules:
        module.cpu()


def _size(scores: Tensor) -> float:
    return 1.0 + scores.abs().max().item()


def reloads(at: At, build: Callable[[], Prior] | None, z: Tensor) -> Iterator[Law]:
    """A saved state determines the density and, under one torch seed, the samples."""
    prior = at.prior
    subject = "samples"
    if prior.has_log_prob:
        subject = "density"
    expected = output(at, z)
    state = copied_state(prior)
    _shuffle(prior)
    prior.load_state_dict(state)
    figure = gap(output(at, z), expected)
    yield Law(f"reload into the same prior gives the same {subject}", figure, 1e-12)
    if build is None:
        return
    with default_dtype(torch.float32):
        other = built(build, seed=1)
    for module in modules_of(other):
        module.cpu().double().eval()
    other.load_state_dict(state)
    if other.bound is not None and prior.bound is not None:
        other.bound.load_state_dict(prior.bound.state_dict())
    figure = gap(output(At(other, at.context), z), expected)
    yield Law(f"reload under another seed gives the same {subject}", figure, 1e-12)


def _shuffle(prior: Prior) -> None:
    """Permute the entries of every tensor of the state; values outside the state are left unchanged."""
    for tensor in prior.state_dict().values():
        order = torch.randperm(tensor.numel())
        shuffled = tensor.flatten()[order]
        tensor.copy_(shuffled.reshape(tensor.shape))


def built(build: Callable[[], Prior], seed: int) -> Prior:
    """The prior that a function builds under a seed."""
    with seeded(seed, "build"):
        return build()


def output(at: At, z: Tensor) -> Tensor:
    """The density of codes or, without one, samples; under a fixed seed, because some densities are random."""
    with seeded(0, "answer"):
        if at.prior.has_log_prob:
            return at().log_prob(z)
        return at().sample((64,))
