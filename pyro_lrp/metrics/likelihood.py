"""Likelihood of test images: importance-weighted bounds, and the parts of the ELBO."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_lrp.core.randomness import seeded
from pyro_lrp.data import Batch, Split, chunks
from pyro_lrp.latents.codes import posterior_means
from pyro_lrp.likelihoods import Bernoulli
from pyro_lrp.metrics.functional.importance import (
    STEPS,
    Bound,
    LogJoint,
    importance_weighted_bound,
    refine,
)
from pyro_lrp.metrics.metric import Metric, density, image_density, result, stochastic_encoder
from pyro_lrp.metrics.subject import Results, Subject
from pyro_lrp.models import Autoencoder

__all__ = ["METRICS", "NEEDS", "Bounds", "bounds", "likelihood", "some_seen", "image_numbers"]

_BATCH = 100  # images at once; another number gives other random numbers
_SPREAD = 2000  # training images that the spread of codes is measured on


# --------------------------------------------------------------------- bounds


class Bounds(NamedTuple):
    """Bounds for the same test images, with the encoder as proposal and with the refined one.

    Attributes:
        encoder: With q(z|x).
        refined: With the refined proposal.
        numbers: The numbers of the images in the test split.
    """

    encoder: Bound
    refined: Bound
    numbers: Tensor


def _log_joint(autoencoder: Autoencoder, batch: Batch) -> LogJoint:
    """Log p(x|z) and log p(z) of some images, each under its own context."""

    def log_joint(z: Tensor) -> tuple[Tensor, Tensor]:
        contexts = batch.context.repeat(len(z), 1)
        prior = autoencoder.prior(contexts)
        log_prior = prior.log_prob(z.flatten(0, 1)).reshape(z.shape[:2])
        mean = autoencoder.decode(z, batch.context)
        density = autoencoder.likelihood(mean, batch.x.dim() - 1)
        return density.log_prob(batch.x), log_prior

    return log_joint


def bounds(subject: Subject, n: int, k: int) -> Bounds:
    """Both bounds for ``n`` test images with ``k`` draws each, computed once."""
    return subject.memo(("bounds", n, k), lambda: _computed_bounds(subject, n, k))


def _computed_bounds(subject: Subject, n: int, k: int) -> Bounds:
    autoencoder = subject.autoencoder
    numbers = image_numbers(subject, n)
    test = subject.on_device(subject.data.test[numbers])
    unit = posterior_means(autoencoder, some_seen(subject)).std(0).clamp_min(1e-6)
    encoder = []
    refined = []
    batches = subject.steps(chunks(test, _BATCH), len(test), lambda batch: len(batch.x))
    for number, batch in enumerate(batches):
        log_joint = _log_joint(autoencoder, batch)
        with torch.no_grad():
            q = autoencoder.encode(batch.x, batch.context)
        with seeded(subject.seed, "evaluate", "likelihood", number):
            encoder.append(importance_weighted_bound(log_joint, q, k))
            proposal = refine(log_joint, q.mean, q.stddev, unit=unit)
            refined.append(importance_weighted_bound(log_joint, proposal, k))
    return Bounds(_joined(encoder), _joined(refined), numbers)


def some_seen(subject: Subject) -> Split:
    """Training images whose codes are measured: all, or 2,000 at random."""
    return subject.on_device(subject.some(subject.train, _SPREAD, "spread of codes"))


def _joined(bounds: list[Bound]) -> Bound:
    """The bounds of several batches as one."""
    columns = zip(*bounds, strict=True)
    return Bound(*(torch.cat(column) for column in columns))


def image_numbers(subject: Subject, n: int) -> Tensor:
    """The numbers of the test images: all, or ``n`` at random, in order."""
    numbers = torch.arange(len(subject.data.test))
    if n >= len(numbers):
        return numbers
    with seeded(subject.seed, "evaluate", "likelihood images"):
        return torch.randperm(len(numbers))[:n].sort().values


# --------------------------------------------------------------------- likelihood


def likelihood(subject: Subject) -> Results:
    """Bounds on log p(x) of test images, and the parts of the ELBO; 10,000 images, K = 1,000.

    ``log_likelihood_bound`` has a proposal that is refined for each image
    (:func:`~pyro_lrp.metrics.functional.importance.refine`), ``log_likelihood_bound_encoder`` has q(z|x), which
    is far too narrow at beta = 0. Both are lower bounds, so the larger one is the better. ``elbo`` weighs the
    KL by 1, whatever beta was.
    """
    n = subject.count(10_000, quick=500)
    k = subject.repeats(1000, quick=100)
    found = bounds(subject, n, k)
    protocol = _protocol(subject, k)
    refined = {**protocol, "proposal": f"normal, {STEPS} steps on each image's ELBO"}
    encoder = {**protocol, "proposal": "q(z|x)"}
    return {
        "log_likelihood_bound": _bound_result(subject, found.refined, refined),
        "log_likelihood_bound_encoder": _bound_result(subject, found.encoder, encoder),
        "elbo": _elbo_result(subject, found.encoder, encoder),
    }


def _protocol(subject: Subject, k: int) -> dict[str, Any]:
    protocol = {
        "k": k,
        "images": f"test images of {subject.data.name}, uint8 / 255, without dequantization noise",
        "unit": "nats",
    }
    if isinstance(subject.autoencoder.likelihood, Bernoulli):
        protocol["p(x|z)"] = "cross-entropy: between 0 and 1 it has no normaliser"
    return protocol


def _bound_result(subject: Subject, bound: Bound, protocol: dict[str, Any]) -> dict[str, Any]:
    value = bound.bound.mean().item()
    sample_size = {
        "mean": bound.sample_size.mean().item(),
        "median": bound.sample_size.median().item(),
    }
    return result(
        subject, value, len(bound.bound), protocol,
        standard_error=_standard_error(bound.bound),
        bits_per_dim=_bits_per_dim(subject, value),
        effective_sample_size=sample_size,
    )  # fmt: skip


def _elbo_result(subject: Subject, q: Bound, protocol: dict[str, Any]) -> dict[str, Any]:
    elbo = q.log_likelihood + q.log_prior - q.log_proposal
    value = elbo.mean().item()
    return result(
        subject, value, len(elbo), protocol,
        standard_error=_standard_error(elbo),
        bits_per_dim=_bits_per_dim(subject, value),
        kl=(q.log_proposal - q.log_prior).mean().item(),
        log_likelihood=q.log_likelihood.mean().item(),
        log_prior=q.log_prior.mean().item(),
        entropy=-q.log_proposal.mean().item(),
    )  # fmt: skip


def _standard_error(values: Tensor) -> float | None:
    """Standard error of the mean, or None for a single value."""
    if len(values) < 2:
        return None
    return values.std().item() / math.sqrt(len(values))


def _bits_per_dim(subject: Subject, nats: float) -> float | None:
    """Bits per pixel value of a density over 0..255: log2(255) more than over [0, 1], where x = uint8 / 255."""
    if isinstance(subject.autoencoder.likelihood, Bernoulli):
        return None
    dims = math.prod(subject.data.image_shape)
    return -nats / (dims * math.log(2)) + math.log2(255)


NEEDS = (density, stochastic_encoder, image_density)
METRICS = {"likelihood": Metric(likelihood, needs=NEEDS)}
