"""The laws of a prior's parameters: registered, reached by gradients, never stale, saved and moved."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from pyro_lrp.core.randomness import seeded
from pyro_lrp.priors import Prior
from pyro_lrp.testing.core import EXACT, At, Law, default_dtype, gap, jiggle, modules_of

__all__ = ["answer", "built", "gradients", "moves", "registered", "reloads", "rescoring"]


def registered(at: At) -> Iterator[Law]:
    """Whatever a density or sample is differentiated for is a parameter of the prior, or of its bound module.

    Law by the autograd graph, in the prior's own dtype, which a hidden parameter shares. What is hidden is met
    again in a second evaluation, what an evaluation makes for itself (some differentiate on the way) is not.
    """
    prior = at.prior
    floating = (t for t in [*prior.parameters(), *prior.buffers()] if t.is_floating_point())
    like = next(floating, torch.zeros((), dtype=torch.float32))
    at = at.like(like)
    says_so = not prior.has_rsample or at().has_rsample
    yield Law("samples are reparametrized if the prior says so", float(not says_so), 0.0)

    def leaves() -> list[Tensor]:
        with default_dtype(like.dtype), torch.enable_grad():
            scored = [at().log_prob(torch.randn(3, at.dim).to(like))] if prior.has_log_prob else []
            drawn = [at().rsample((3,))] if prior.has_rsample and says_so else []
            return [leaf for value in scored + drawn for leaf in _leaves(value)]

    first, second = leaves(), leaves()
    known = {id(p) for module in modules_of(prior) for p in module.parameters()}
    again = {id(leaf) for leaf in second} - known
    hidden = {id(leaf): leaf for leaf in first if id(leaf) in again}
    shapes = sorted({str(tuple(leaf.shape)) for leaf in hidden.values()})
    note = f"not registered: shape {', '.join(shapes)}" if shapes else ""
    yield Law("every parameter is registered", float(len(hidden)), 0.0, note)


def _leaves(value: Tensor) -> Iterator[Tensor]:
    """The tensors that a value's gradient would be accumulated in."""
    nodes = [] if value.grad_fn is None else [value.grad_fn]
    seen = set(nodes)
    while nodes:
        node = nodes.pop()
        if hasattr(node, "variable"):
            yield node.variable
        following = {function for function, _ in node.next_functions if function is not None} - seen
        nodes += following
        seen |= following


def gradients(module: nn.Module, value: Callable[[], Tensor], of: str = "") -> Iterator[Law]:
    """Every parameter gets a finite gradient other than zero; one that has no effect at all is only noted.

    The first weight of an autoregressive network has none at dim 1, nor the weight of a single component.
    """
    learnable = {name: p for name, p in module.named_parameters() if p.requires_grad}
    if not learnable:
        return

    def total() -> Tensor:
        with seeded(0, "gradients"):
            return value()

    with torch.enable_grad():
        reached = total()
        grads: Sequence[Tensor | None] = [None] * len(learnable)
        if reached.requires_grad:
            grads = torch.autograd.grad(reached, list(learnable.values()), allow_unused=True)
    silent: list[str] = []
    without_effect: list[str] = []
    for (name, parameter), grad in zip(learnable.items(), grads, strict=True):
        if grad is None or not grad.isfinite().all():
            silent.append(name)
        elif not grad.any():
            (silent if _matters(parameter, total) else without_effect).append(name)
    note = f"not {', '.join(silent[:3])}" if silent else ""
    note = note or (f"without effect: {', '.join(without_effect[:3])}" if without_effect else "")
    yield Law(f"every parameter receives a gradient{of}", float(len(silent)), 0.0, note)


@torch.no_grad()
def _matters(parameter: Tensor, total: Callable[[], Tensor]) -> bool:
    before, kept = total(), parameter.clone()
    parameter.add_(torch.randn_like(parameter))
    after = total()
    parameter.copy_(kept)
    return not torch.equal(before, after)


def rescoring(
    module: nn.Module, score: Callable[[], Tensor], truth: Callable[[], Tensor], limit: float = EXACT,
    *, must_move: bool = False, of: str = "",
) -> Iterator[Law]:  # fmt: skip
    """After an update the very same tensor must get the new density: a stale cache gives the old one.

    Args:
        module: Whose parameters are updated.
        score: Scores one tensor, always the same.
        truth: What that should be.
        limit: Of the difference.
        must_move: Whether every update changes the score, so that one which stays is stale.
        of: What was updated, for the law's name.
    """
    if not any(p.requires_grad for p in module.parameters()):
        return
    with torch.enable_grad():  # as training does: caches keep what they keep in training
        before = score().detach()
        jiggle(module, size=0.05)
        after = score().detach()
    stale = must_move and torch.equal(before, after)
    yield Law(f"rescoring after an update{of}", math.inf if stale else gap(after, truth()), limit)


def moves(at: At, z: Tensor) -> Iterator[Law]:
    """It follows dtype and device, and in float32 has the density that it has in float64, or nearly."""
    modules, scores = modules_of(at.prior), at.prior.has_log_prob
    states = [{k: v.clone() for k, v in module.state_dict().items()} for module in modules]
    truth = answer(at, z)
    with default_dtype(torch.float32):
        for module in modules:
            module.float()
        single = answer(at.like(z.float()), z.float())
        sample = at.like(z.float())().sample()
    wrong = single.dtype != torch.float32 or sample.dtype != torch.float32
    yield Law("dtype follows the prior", float(wrong), 0.0)
    for module, state in zip(modules, states, strict=True):
        module.double().load_state_dict(state)
    scale = 1.0 + truth.abs().max().item()
    if scores:
        yield Law("float32 agrees with float64", gap(single.double(), truth) / scale, max(1e-3, at.exact))
    if torch.cuda.is_available():
        for module in modules:
            module.cuda()
        moved = answer(at.like(z.cuda()), z.cuda())
        followed = at.like(z.cuda())().sample().is_cuda and moved.is_cuda
        figure = gap(moved.cpu(), truth) / scale if scores and not at.noise else 0.0  # generators differ
        limit = max(1e-7, at.prior.tolerance)
        yield Law("device follows the prior", figure if followed else math.inf, limit)
        for module in modules:
            module.cpu()


def reloads(at: At, build: Callable[[], Prior] | None, z: Tensor) -> Iterator[Law]:
    """A saved state holds all that a density, and under one torch seed a sample, depends on."""
    prior, what = at.prior, "density" if at.prior.has_log_prob else "samples"
    truth = answer(at, z)
    state = {name: tensor.clone() for name, tensor in prior.state_dict().items()}
    for tensor in prior.state_dict().values():  # whatever the state does not hold survives this
        tensor.copy_(tensor.flatten()[torch.randperm(tensor.numel())].reshape(tensor.shape))
    prior.load_state_dict(state)
    yield Law(f"reload into the same prior gives the same {what}", gap(answer(at, z), truth), 1e-12)
    if build is None:
        return
    with default_dtype(torch.float32):
        other = built(build, seed=1)
    for module in modules_of(other):
        module.cpu().double().eval()
    other.load_state_dict(state)
    if other.bound is not None and prior.bound is not None:
        other.bound.load_state_dict(prior.bound.state_dict())
    figure = gap(answer(At(other, at.context), z), truth)
    yield Law(f"reload under another seed gives the same {what}", figure, 1e-12)


def built(build: Callable[[], Prior], seed: int) -> Prior:
    """The prior as built under a seed."""
    with seeded(seed, "build"):
        return build()


def answer(at: At, z: Tensor) -> Tensor:
    """The density of codes or, without one, some samples; under a fixed seed, for some densities draw too."""
    with seeded(0, "answer"):
        return at().log_prob(z) if at.prior.has_log_prob else at().sample((64,))
