"""Likelihood of test images: importance-weighted bounds, the ELBO's parts, scores of single images."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from typing import NamedTuple

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor

from pyro_lrp.core.errors import UserError
from pyro_lrp.core.files import write_atomically
from pyro_lrp.core.randomness import seeded
from pyro_lrp.data import Batch, chunks
from pyro_lrp.likelihoods import Bernoulli
from pyro_lrp.metrics.metric import Metric, density, image_density, result, stochastic_encoder
from pyro_lrp.metrics.subject import Results, Subject
from pyro_lrp.models import Autoencoder

__all__ = ["METRICS", "Bound", "importance_weighted_bound", "refine"]

LogJoint = Callable[[Tensor], "tuple[Tensor, Tensor]"]
_IMAGES, _DRAWS = 100, 2_000  # images at once, and codes of theirs at once
_STEPS, _RATE = 200, 0.05


class Bound(NamedTuple):
    """Of each image, shape ``(B,)``, float64, in nats.

    Attributes:
        bound: Lower bound on log p(x), in expectation.
        sample_size: Effective sample size of its weights, between 1 and K.
        log_likelihood: Mean of log p(x|z) over the proposal.
        log_prior: Mean of log p(z).
        log_proposal: Mean of log q(z).
    """

    bound: Tensor
    sample_size: Tensor
    log_likelihood: Tensor
    log_prior: Tensor
    log_proposal: Tensor


@torch.no_grad()
def importance_weighted_bound(log_joint: LogJoint, proposal: TorchDistribution, k: int) -> Bound:
    r"""The bound :math:`\log \frac1K \sum_k p(x|z_k) p(z_k) / q(z_k)`, with :math:`z_k \sim q`.

    Its expectation never exceeds log p(x) and rises with K. An effective sample size near 1 says that one draw
    carries the sum: the proposal does not fit the posterior, and the bound is loose.

    Args:
        log_joint: Maps codes ``(k, B, *event)`` to log p(x|z) and log p(z), each ``(k, B)``.
        proposal: q, of batch shape ``(B,)``.
        k: Draws for each image.

    References:
        Burda, Grosse and Salakhutdinov (2016), Importance Weighted Autoencoders, arXiv:1509.00519, Eq. 8.
    """
    parts = []
    size = max(1, _DRAWS // proposal.batch_shape[0])
    for start in range(0, k, size):
        z = proposal.sample((min(size, k - start),))
        log_likelihood, log_prior = log_joint(z)
        parts.append(torch.stack([log_likelihood, log_prior, proposal.log_prob(z)]).double())
    log_likelihood, log_prior, log_proposal = torch.cat(parts, dim=1)
    log_weight = log_likelihood + log_prior - log_proposal
    total = log_weight.logsumexp(0)
    sample_size = (2 * total - (2 * log_weight).logsumexp(0)).exp()
    means = (term.mean(0) for term in (log_likelihood, log_prior, log_proposal))
    return Bound(total - math.log(k), sample_size, *means)


def refine(
    log_joint: LogJoint, loc: Tensor, scale: Tensor, *, unit: Tensor, steps: int = _STEPS, rate: float = _RATE
) -> TorchDistribution:
    """A normal proposal for each image, ascended on its own ELBO (at a weight of 1) from the encoder's.

    At beta = 0 nothing made the encoder's scale that of the posterior, and its bound says little; this
    proposal does not depend on what the encoder was trained for.

    Args:
        log_joint: As in :func:`importance_weighted_bound`.
        loc: The encoder's means, ``(B, *event)``.
        scale: Its standard deviations; one below a twentieth of ``unit`` starts there.
        unit: Spread of each dimension of codes, ``event``: steps are in these units.
        steps: Of Adam, the rate falling to 0 as a cosine.
        rate: Where it starts.

    References:
        Kim et al. (2018), Semi-Amortized Variational Autoencoders, arXiv:1802.02550.
    """
    shift = torch.zeros_like(loc, requires_grad=True)
    log_scale = torch.maximum(scale, unit / 20).log().detach().requires_grad_()
    adam = torch.optim.Adam([shift, log_scale], lr=rate)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
    events = loc.dim() - 1

    def proposal() -> TorchDistribution:
        return dist.Normal(loc + unit * shift, log_scale.exp()).to_event(events)

    with torch.enable_grad():
        for _ in range(steps):
            q = proposal()
            elbo = sum(log_joint(q.rsample((1,)))) + log_scale.flatten(1).sum(
                1
            )  # the entropy, but for constants
            # of these two alone: the model's own parameters get no gradients
            grads = torch.autograd.grad(-elbo.sum(), [shift, log_scale])
            shift.grad, log_scale.grad = (torch.nan_to_num(g, 0.0, 0.0, 0.0) for g in grads)
            adam.step()
            falling.step()
    shift, log_scale = shift.detach(), log_scale.detach()
    return proposal()


def _log_joint(autoencoder: Autoencoder, batch: Batch) -> LogJoint:
    """Of some images, under the model; every image under its own context."""

    def log_joint(z: Tensor) -> tuple[Tensor, Tensor]:
        k, flat = len(z), z.flatten(0, 1)
        log_prior = autoencoder.prior(batch.context.repeat(k, 1)).log_prob(flat).reshape(z.shape[:2])
        mean = autoencoder.decode(z, batch.context)
        likelihood = autoencoder.likelihood(mean, batch.x.dim() - 1).log_prob(batch.x)
        return likelihood, log_prior

    return log_joint


class _Bounds(NamedTuple):
    """Of the same test images: under the encoder as proposal, and under the refined one."""

    encoder: Bound
    refined: Bound
    numbers: Tensor  # of these images in the test split


def _bounds(subject: Subject, n: int, k: int) -> _Bounds:
    def make() -> _Bounds:
        ae, device = subject.autoencoder, torch.device(subject.device)
        numbered = _numbers(subject, n)
        test = subject.data.test[numbered].to(device)
        with torch.no_grad():
            some = chunks(subject.train[:2000].to(device))
            spread = torch.cat([ae.encode(batch.x, batch.context).mean for batch in some])
        unit = spread.std(0).clamp_min(1e-6)
        found: tuple[list[Bound], list[Bound]] = ([], [])
        for number, batch in enumerate(subject.steps(chunks(test, _IMAGES), len(test), lambda b: len(b.x))):
            log_joint = _log_joint(ae, batch)
            with torch.no_grad():
                q = ae.encode(batch.x, batch.context)
            with seeded(subject.seed, "evaluate", "likelihood", number):
                found[0].append(importance_weighted_bound(log_joint, q, k))
                proposal = refine(log_joint, q.mean, q.stddev, unit=unit)
                found[1].append(importance_weighted_bound(log_joint, proposal, k))
        encoder, refined = (Bound(*map(torch.cat, zip(*parts, strict=True))) for parts in found)
        return _Bounds(encoder, refined, numbered)

    return subject.memo(("bounds", n, k), make)


def _numbers(subject: Subject, n: int) -> Tensor:
    """Which test images: all, or ``n`` at random, in order."""
    numbers = torch.arange(len(subject.data.test))
    if n < len(numbers):
        with seeded(subject.seed, "evaluate", "likelihood images"):
            numbers = torch.randperm(len(numbers))[:n].sort().values
    return numbers


def likelihood(subject: Subject) -> Results:
    """Bounds on log p(x) of test images, and the ELBO's parts, for any beta; 10,000 images, K = 1,000.

    ``log_likelihood_bound`` is under a proposal refined for each image (:func:`refine`),
    ``log_likelihood_bound_encoder`` under q(z|x) as it is, which at beta = 0 is far too narrow. Both are lower
    bounds, so the larger is the better one. ``elbo`` weighs the KL by 1, whatever beta was.
    """
    n, k = subject.count(10_000, quick=500), subject.repeats(1000, quick=100)
    bounds = _bounds(subject, n, k)
    images = len(bounds.numbers)
    protocol = {
        "k": k,
        "images": f"test images of {subject.data.name}, uint8 / 255, without dequantization noise",
        "unit": "nats",
    }
    if isinstance(subject.autoencoder.likelihood, Bernoulli):
        protocol["p(x|z)"] = "cross-entropy: between 0 and 1 it has no normaliser"
    results = {}
    proposals = {
        "log_likelihood_bound": (bounds.refined, f"normal, {_STEPS} steps on each image's ELBO"),
        "log_likelihood_bound_encoder": (bounds.encoder, "q(z|x)"),
    }
    for name, (bound, proposal) in proposals.items():
        results[name] = result(
            subject, bound.bound.mean().item(), images, {**protocol, "proposal": proposal},
            standard_error=_standard_error(bound.bound),
            bits_per_dim=_bits_per_dim(subject, bound.bound.mean().item()),
            effective_sample_size={
                "mean": bound.sample_size.mean().item(), "median": bound.sample_size.median().item(),
            },
        )  # fmt: skip
    q = bounds.encoder
    parts = {
        "log_likelihood": q.log_likelihood.mean().item(),
        "log_prior": q.log_prior.mean().item(),
        "entropy": -q.log_proposal.mean().item(),
    }
    elbo = q.log_likelihood + q.log_prior - q.log_proposal
    kl = (q.log_proposal - q.log_prior).mean().item()
    results["elbo"] = result(
        subject, elbo.mean().item(), images, {**protocol, "proposal": "q(z|x)"},
        standard_error=_standard_error(elbo), bits_per_dim=_bits_per_dim(subject, elbo.mean().item()),
        kl=kl, **parts,
    )  # fmt: skip
    return results


def _standard_error(values: Tensor) -> float | None:
    return values.std().item() / math.sqrt(len(values)) if len(values) > 1 else None


def _bits_per_dim(subject: Subject, nats: float) -> float | None:
    """Of a density over [0, 1] as one over 0..255: 8 bits more for each pixel value."""
    if isinstance(subject.autoencoder.likelihood, Bernoulli):
        return None
    return -nats / (math.prod(subject.data.image_shape) * math.log(2)) + 8


@torch.no_grad()
def scores(subject: Subject) -> Results:
    """One row for each test image, ``scores.csv`` in the run's directory, for those who look for outliers.

    Columns: ``index`` in the test split, ``label``, ``squared_error`` (per pixel value, of the decoded mean of
    q(z|x)), ``log_prior`` (of that mean, where the prior has a density), and, where p(x) has a bound, ``bound``
    (nats) and ``effective_sample_size``.

    Raises:
        UserError: If the subject has no directory.
    """
    if subject.directory is None:
        raise UserError("scores needs a run directory to write its table to")
    n, k = subject.count(10_000, quick=500), subject.repeats(100, quick=100)
    ae, device = subject.autoencoder, torch.device(subject.device)
    bounded = not any(need(subject) for need in _NEEDS)
    bounds = _bounds(subject, n, k) if bounded else None
    index = _numbers(subject, n) if bounds is None else bounds.numbers
    test = subject.data.test[index].to(device)
    columns: dict[str, list[float]] = {"index": index.tolist()}
    if test.labels is not None:
        columns["label"] = test.labels.tolist()
    errors, densities = [], []
    for batch in chunks(test):
        z = ae.encode(batch.x, batch.context).mean
        errors.append((ae.decode(z, batch.context) - batch.x).square().flatten(1).mean(1))
        if ae.prior.has_log_prob:
            densities.append(ae.prior(batch.context).log_prob(z))
    columns["squared_error"] = torch.cat(errors).tolist()
    if densities:
        columns["log_prior"] = torch.cat(densities).tolist()
    if bounds is not None:
        columns["bound"] = bounds.refined.bound.tolist()
        columns["effective_sample_size"] = bounds.refined.sample_size.tolist()
    path = subject.directory / "scores.csv"

    def write(target: object) -> None:
        with open(str(target), "w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(columns)
            for row in zip(*columns.values(), strict=True):
                table.writerow([f"{v:.6g}" if isinstance(v, float) else v for v in row])

    write_atomically(path, write)
    protocol = {"file": path.name, "columns": list(columns)} | ({"k": k} if bounded else {})
    return {"scores": result(subject, float(len(index)), len(index), protocol)}


_NEEDS = (density, stochastic_encoder, image_density)
METRICS = {"likelihood": Metric(likelihood, needs=_NEEDS), "scores": Metric(scores)}
