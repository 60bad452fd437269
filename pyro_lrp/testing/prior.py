"""The laws of a prior: a density whose sampler, score, parameters and saved state agree."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from pyro_lrp.priors import Prior
from pyro_lrp.testing.chance import statistical
from pyro_lrp.testing.core import (
    BATCHES,
    At,
    Law,
    as_it_was,
    assert_all,
    contained,
    gap,
    jiggle,
    modules_of,
    relative_gap,
    slogdet,
)
from pyro_lrp.testing.parameters import answer, built, gradients, moves, registered, reloads, rescoring

__all__ = ["check_prior", "prior_laws"]


def check_prior(prior: Prior | Callable[[], Prior]) -> None:
    """Check that a prior is a density whose sampler, score, parameters and saved state agree.

    What is checked depends on what the prior says of itself: a bijection from its base only where there is one
    (``has_base``), a density where it has one (``has_log_prob``), all at one random context where it needs one.
    Answers that are exact must agree to 1e-5 and more; of a numerical prior to twice its ``tolerance``.

    Its mass, and its sampler against its density, are measured on a grid at dim 1 and 2 and by importance
    sampling above; where these cannot tell, the law's note says "no power". A correct prior fails one of the
    laws of chance with a probability of less than 1e-6. They draw 20,000 codes, or what some seconds allow.

    Args:
        prior: A prior over vectors, or a function that builds one. With a function, a second prior, built under
            another seed, must have the same density once it loads the first one's state.

    Raises:
        AssertionError: Names the law that broke, and by how much.

    >>> from pyro_lrp.priors import StandardNormal
    >>> check_prior(lambda: StandardNormal(2))
    """
    assert_all(prior_laws(prior))


def prior_laws(prior: Prior | Callable[[], Prior]) -> Iterator[Law]:
    """The laws of :func:`check_prior`, one by one."""
    build = None if isinstance(prior, nn.Module) else prior
    subject = prior if isinstance(prior, Prior) else built(prior, seed=0)
    with as_it_was(*modules_of(subject)):
        yield from contained(_laws(subject, build))


def _laws(prior: Prior, build: Callable[[], Prior] | None) -> Iterator[Law]:
    at = At(prior, torch.randn(prior.context_dim))
    yield from registered(at)
    for module in modules_of(prior):
        module.cpu().double()
    jiggle(*modules_of(prior))
    yield from _shapes(at)
    z = at().sample((7,))
    if prior.has_log_prob:
        at = at.noticed(z)
        yield from _base(at)
    else:
        yield from _refusal(at, z)
    yield from _contexts(at, z)
    yield from statistical(at)
    yield from _learning(at, z)
    yield from moves(at, z)
    yield from reloads(at, build, z)


def _learning(at: At, z: Tensor) -> Iterator[Law]:
    """Gradients reach every parameter, and an update every density."""
    prior = at.prior
    if hasattr(at(), "fit_loss"):
        yield from gradients(at().fitted, lambda: at().fit_loss(z).sum(), of=" from its own loss")
    if not prior.has_log_prob:
        yield from gradients(prior, lambda: at().rsample((7,)).sum())
        return
    yield from gradients(prior, lambda: at().log_prob(z.clone()).sum())
    score, limit = (lambda: at.score(z)), at.exact_score
    truth = (lambda: _pulled(at, z)) if prior.has_base else (lambda: at.score(z.clone()))
    yield from rescoring(prior, score, truth, limit, must_move=not prior.has_base)
    if prior.bound is not None:
        yield from rescoring(prior.bound, score, truth, limit, must_move=True, of=" of what it is bound to")


def _shapes(at: At) -> Iterator[Law]:
    for batch in BATCHES:
        codes = torch.randn(*batch, at.dim)
        wrong = at().sample(batch).shape != codes.shape or at().expand(batch).sample().shape != codes.shape
        if at.prior.has_log_prob:
            wrong |= at().log_prob(codes).shape != batch
        if at.prior.has_rsample:
            wrong |= at().rsample(batch).shape != codes.shape
        yield Law(f"shapes for a batch of {batch}", float(wrong), 0.0)


def _base(at: At) -> Iterator[Law]:
    """The bijection from the base, and the density that follows from it."""
    if not at.prior.has_base:
        return
    z_0, codes = at.base().sample((7,)), torch.randn(7, at.dim)
    z, there = at.to_latent(z_0), at.to_base(codes)
    around = relative_gap(at.to_base(z.clone()), z_0)
    yield Law("round trip, base to latent to base", around, at.exact)
    around = relative_gap(at.to_latent(there.clone()), codes)
    yield Law("round trip, latent to base to latent", around, at.exact)
    pushed = at.base().log_prob(z_0) - slogdet(at.to_latent, z_0)
    limit = at.exact_score
    yield Law("density at samples, against autograd of the sampler", gap(at.score(z), pushed), limit)
    yield Law("density at codes, against autograd of to_base", gap(at.score(codes), _pulled(at, codes)), limit)


def _pulled(at: At, z: Tensor) -> Tensor:
    return at.base().log_prob(at.to_base(z)) + slogdet(at.to_base, z)


def _refusal(at: At, z: Tensor) -> Iterator[Law]:
    try:
        at().log_prob(z)
        refuses = False
    except NotImplementedError:
        refuses = True
    yield Law("log_prob refuses, as the prior has no density", float(not refuses), 0.0)


def _contexts(at: At, z: Tensor) -> Iterator[Law]:
    """Another context is another density, and a batch of contexts a batch of densities, for every prior."""
    prior = at.prior
    others = torch.randn(5, len(at.context))
    limit = at.exact + 12.0 * at.noise
    if prior.context_dim:
        here = answer(at, z)
        ignored = sum(gap(answer(replace(at, context=other), z), here) <= limit for other in others)
        what = "density depends" if prior.has_log_prob else "samples depend"
        yield Law(f"the {what} on the context", float(ignored), 0.0)
    if prior.has_log_prob:
        codes = torch.randn(len(others), at.dim)
        together = prior(others).log_prob(codes)
        rows = torch.stack([prior(other).log_prob(code) for other, code in zip(others, codes, strict=True)])
        figure = gap(together, rows) if together.shape == rows.shape else math.inf
        yield Law("a batch of contexts gives a batch of densities", figure, limit)
    alike = prior(others[:1].expand(len(others), -1))
    drawn, wrong = alike.sample(), alike.sample((3,)).shape != (3, len(others), at.dim)
    wrong |= drawn.shape != (len(others), at.dim) or len(drawn.unique(dim=0)) != len(others)
    yield Law("a batch of contexts gives as many independent samples", float(wrong), 0.0)
