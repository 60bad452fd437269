"""The laws of a prior: a density whose sampler, score, parameters and saved state agree."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from pyro_lrp.priors import Prior
from pyro_lrp.testing.chance import statistical
from pyro_lrp.testing.core import (
    BATCHES,
    At,
    Law,
    assert_all,
    contained,
    gap,
    jiggle,
    modules_of,
    relative_gap,
    restored,
    slogdet,
)
from pyro_lrp.testing.parameters import (
    built,
    gradients,
    moves,
    output,
    registered,
    reloads,
    rescoring,
)

__all__ = ["check_prior", "prior_laws"]


def check_prior(prior: Prior | Callable[[], Prior]) -> None:
    """Check that a prior is a density whose sampler, score, parameters and saved state agree.

    The attributes of the prior decide which laws apply: a bijection from the base only with ``has_base``, a
    density only with ``has_log_prob``. A conditional prior is checked at one random context. Every prior is
    also called with a batch of contexts and must return a batch of densities and of independent samples; for an
    unconditional prior these contexts have length 0. Exact results must agree to 1e-5, those of a numerical
    prior to twice its ``tolerance``.

    The mass, and the sampler against the density, are measured on a grid at dim 1 and 2 and by importance
    sampling above; where these cannot decide, the note of the law says "no power". A correct prior fails one of
    the statistical laws with a probability of less than 1e-6. They draw 20,000 codes, and
    fewer from a numerical prior.

    Args:
        prior: A prior over vectors, or a function that builds one. With a function, a second prior, built under
            another seed, must have the same density after it loads the state of the first.

    Raises:
        AssertionError: Names the first law that does not hold, with its figure and limit.

    >>> from pyro_lrp.priors import StandardNormal
    >>> check_prior(lambda: StandardNormal(2))
    """
    assert_all(prior_laws(prior))


def prior_laws(prior: Prior | Callable[[], Prior]) -> Iterator[Law]:
    """The laws of :func:`check_prior`, one by one."""
    build: Callable[[], Prior] | None = None
    if isinstance(prior, Prior):
        subject = prior
    else:
        build = prior
        subject = built(build, seed=0)
    with restored(*modules_of(subject)):
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
        at = at.with_noise(z)
        yield from _base(at)
    else:
        yield from _refusal(at, z)
    yield from _contexts(at, z)
    yield from statistical(at)
    yield from _gradients(at, z)
    if prior.has_log_prob:
        yield from _rescoring(at, z)
    yield from moves(at, z)
    yield from reloads(at, build, z)


def _gradients(at: At, z: Tensor) -> Iterator[Law]:
    """Gradients reach every parameter."""
    distribution = at()
    if hasattr(distribution, "fit_loss"):
        yield from gradients(
            distribution.fitted,
            lambda: at().fit_loss(z).sum(),
            " from its own loss",
        )
    if at.prior.has_log_prob:
        yield from gradients(at.prior, lambda: at().log_prob(z.clone()).sum())
    else:
        yield from gradients(at.prior, lambda: at().rsample((7,)).sum())


def _rescoring(at: At, z: Tensor) -> Iterator[Law]:
    """An update of the parameters changes the density."""
    prior = at.prior

    def score() -> Tensor:
        return at.score(z)

    def truth() -> Tensor:
        if prior.has_base:
            return _pulled(at, z)
        return at.score(z.clone())

    yield from rescoring(
        prior,
        score,
        truth,
        at.exact_score,
        must_move=not prior.has_base,
    )
    if prior.bound is not None:
        yield from rescoring(
            prior.bound,
            score,
            truth,
            at.exact_score,
            must_move=True,
            suffix=" of what it is bound to",
        )


def _shapes(at: At) -> Iterator[Law]:
    for batch in BATCHES:
        z = torch.randn(*batch, at.dim)
        shapes = [
            at().sample(batch).shape,
            at().expand(batch).sample().shape,
        ]
        if at.prior.has_rsample:
            shapes.append(at().rsample(batch).shape)
        wrong = any(shape != z.shape for shape in shapes)
        if at.prior.has_log_prob:
            wrong |= at().log_prob(z).shape != batch
        yield Law(f"shapes for a batch of {batch}", float(wrong), 0.0)


def _base(at: At) -> Iterator[Law]:
    """The bijection from the base, and the density that follows from it."""
    if not at.prior.has_base:
        return
    z_0 = at.base().sample((7,))
    codes = torch.randn(7, at.dim)
    z = at.to_latent(z_0)
    codes_0 = at.to_base(codes)
    figure = relative_gap(at.to_base(z.clone()), z_0)
    yield Law("round trip, base to latent to base", figure, at.exact)
    figure = relative_gap(at.to_latent(codes_0.clone()), codes)
    yield Law("round trip, latent to base to latent", figure, at.exact)
    pushed = at.base().log_prob(z_0) - slogdet(at.to_latent, z_0)
    figure = gap(at.score(z), pushed)
    yield Law("density at samples, against autograd of the sampler", figure, at.exact_score)
    figure = gap(at.score(codes), _pulled(at, codes))
    yield Law("density at codes, against autograd of to_base", figure, at.exact_score)


def _pulled(at: At, z: Tensor) -> Tensor:
    """The density of codes by the change of variables, with autograd of ``to_base``."""
    return at.base().log_prob(at.to_base(z)) + slogdet(at.to_base, z)


def _refusal(at: At, z: Tensor) -> Iterator[Law]:
    try:
        at().log_prob(z)
        refuses = False
    except NotImplementedError:
        refuses = True
    name = "log_prob refuses, as the prior has no density"
    yield Law(name, float(not refuses), 0.0)


def _contexts(at: At, z: Tensor) -> Iterator[Law]:
    """The density depends on the context of a conditional prior; every prior accepts a batch of contexts."""
    contexts = torch.randn(5, len(at.context))
    if at.prior.context_dim:
        yield _depends(at, z, contexts)
    if at.prior.has_log_prob:
        yield _batch_of_densities(at, contexts)
    yield _batch_of_samples(at, contexts)
    if at.prior.context_dim and at.prior.has_log_prob:
        yield _broadcasts(at, contexts)


def _depends(at: At, z: Tensor, contexts: Tensor) -> Law:
    """Figure: the number of contexts whose density is that of another context."""
    expected = output(at, z)
    ignored = 0
    for context in contexts:
        there = replace(at, context=context)
        ignored += gap(output(there, z), expected) <= _noisy_limit(at)
    name = "the samples depend on the context"
    if at.prior.has_log_prob:
        name = "the density depends on the context"
    return Law(name, float(ignored), 0.0)


def _batch_of_densities(at: At, contexts: Tensor) -> Law:
    """A batch of contexts scores each code like its own context alone.

    All codes are scored at each context, because an adaptive solver chooses its steps for a whole batch.
    """
    codes = torch.randn(len(contexts), at.dim)
    together = at.prior(contexts).log_prob(codes)
    rows = []
    for index, context in enumerate(contexts):
        alone = at.prior(context).log_prob(codes)
        rows.append(alone[index])
    figure = _gap_or_infinity(together, torch.stack(rows))
    name = "a batch of contexts gives a batch of densities"
    return Law(name, figure, _noisy_limit(at))


def _broadcasts(at: At, contexts: Tensor) -> Law:
    """One code is scored, and mapped to the base, at each context of a batch as if it were repeated."""
    prior = at.prior
    code = torch.randn(at.dim)
    repeated = code.expand(len(contexts), -1)
    figure = _gap_or_infinity(prior(contexts).log_prob(code), prior(contexts).log_prob(repeated))
    if prior.has_base:
        for function in (prior.to_base, prior.to_latent):
            mapped = _gap_or_infinity(function(code, contexts), function(repeated, contexts))
            figure = max(figure, mapped)
    return Law("one code broadcasts against a batch of contexts", figure, _noisy_limit(at))


def _gap_or_infinity(actual: Tensor, expected: Tensor) -> float:
    if actual.shape != expected.shape:
        return math.inf
    return gap(actual, expected)


def _batch_of_samples(at: At, contexts: Tensor) -> Law:
    count = len(contexts)
    same_context = contexts[:1].expand(count, -1)
    distribution = at.prior(same_context)
    samples = distribution.sample()
    wrong = samples.shape != (count, at.dim)
    wrong |= len(samples.unique(dim=0)) != count
    wrong |= distribution.sample((3,)).shape != (3, count, at.dim)
    name = "a batch of contexts gives as many independent samples"
    return Law(name, float(wrong), 0.0)


def _noisy_limit(at: At) -> float:
    """Limit of differences of single densities, which may be estimates."""
    return at.exact + 12.0 * at.noise
