"""Metrics of a prior that was fitted to codes: no images are needed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyro
import torch
from torch import Tensor

from pyro_lrp.core.errors import UserError
from pyro_lrp.core.modules import eval_mode
from pyro_lrp.core.randomness import some_rows
from pyro_lrp.fitting.codes import CodeSet
from pyro_lrp.fitting.result import Fitted
from pyro_lrp.latents.codes import DrawnCodes, finite_rows, seeded_chunks
from pyro_lrp.metrics import Metric
from pyro_lrp.metrics.evaluation import known_metrics
from pyro_lrp.metrics.gap_in_codes import (
    FEWEST,
    IN_CODES,
    REFERENCE,
    base_moments,
    copies,
    densities,
    error_of_mean,
    evidence,
    in_codes,
    two_samples,
)
from pyro_lrp.metrics.metric import result
from pyro_lrp.metrics.prior_verdict import Advice, verdict
from pyro_lrp.metrics.subject import Results, no_progress
from pyro_lrp.models import Codes
from pyro_lrp.priors import Prior

__all__ = ["METRICS", "CodeSubject", "evaluate"]

_ADVICE = Advice(
    "more seconds, a richer prior (prior=mixture with more components, prior=flow_matching), or prior=auto",
    "a smaller prior (prior=mixture with fewer components), or more codes",
    "from codes alone",
)


@dataclass
class CodeSubject:
    """A prior, and the codes that it is compared with.

    Args:
        fitted: The prior; it is evaluated where it is.
        codes: The codes that it was fitted to, and those that were held out.
        seed: Seed of all noise.
        n: Codes and samples of a metric; None for the metric's own number.
        quick: Whether a metric's own numbers are the small ones.
        on_step: Called with the steps done and all steps of the current pass.

    Attributes:
        non_finite: Number of samples that were left out of the last set.
        batch_size: Codes at once.
    """

    fitted: Fitted
    codes: CodeSet
    seed: int = 0
    n: int | None = None
    quick: bool = False
    on_step: Callable[[int, int], None] = no_progress
    weights: Mapping[str, Any] = field(default_factory=dict)  # of no network: results match by all requests
    k: int | None = None
    non_finite: int = field(default=0, init=False)
    batch_size: int = field(default=1000, init=False)

    @property
    def prior(self) -> Prior:
        """The prior."""
        return self.fitted.prior

    @property
    def device(self) -> torch.device:
        """Where the prior is."""
        return self.fitted.device

    @property
    def given(self) -> dict[str, Any]:
        """The entry of a protocol that says what the samples of a conditional prior were given."""
        if not self.codes.context_dim:
            return {}
        return {"contexts": "of the held-out codes in random order, each once before one comes again"}

    @property
    def code_of_each(self) -> str:
        """What the codes are, for protocols."""
        return "as they were given; test: held out"

    def count(self, full: int, quick: int) -> int:
        """The number of codes: ``n``, or else the metric's own number."""
        if self.n is not None:
            return self.n
        if self.quick:
            return quick
        return full

    def drawn(self, n: int, *, held_out: bool) -> DrawnCodes:
        """``n`` codes at random, or all if there are no more, as posteriors without noise."""
        z = self.codes.train
        context = self.codes.context
        if held_out:
            z = self.codes.held_out
            context = self.codes.held_out_context
        rows = some_rows(len(z), n, "evaluate", "codes", str(held_out), seed=self.seed)
        z = z[rows]
        no_noise = torch.zeros(()).expand_as(z)
        return DrawnCodes(z, Codes(z, no_noise, context[rows]), torch.zeros(len(z)))

    @torch.no_grad()
    def samples(self, n: int) -> Tensor:
        """Samples of the prior, ``(n, d)`` on the CPU, without those that are not finite.

        Raises:
            UserError: If none is finite.
        """
        contexts = self.codes.held_out_context
        order = some_rows(len(contexts), len(contexts), "evaluate", "contexts", seed=self.seed)

        def draw(rows: slice) -> Tensor:
            places = torch.arange(rows.start, rows.stop) % len(order)
            self.on_step(rows.stop, n)
            return self.prior(contexts[order[places]].to(self.device)).sample().cpu()

        drawn = torch.cat([*seeded_chunks(draw, n, self.batch_size, self.seed, "evaluate", "samples")])
        finite = finite_rows(drawn)
        self.non_finite = n - int(finite.sum())
        if not finite.any():
            raise UserError(f"none of {n} samples of the prior is finite: there is nothing to evaluate")
        return drawn[finite]


def prior_gap(subject: CodeSubject) -> Results:
    """The prior beside codes: densities, two-sample tests, copying, moments in the base; 10,000 of each kind.

    As the metric of the same name of a run, without images: ``prior_gap_in_codes`` has the verdict, and its
    value is the difference of a classifier's accuracy on samples and on training codes.
    """
    n = subject.count(10_000, quick=5_000)
    pool = subject.drawn(max(n, REFERENCE[subject.quick]), held_out=False)
    training = pool.rows(slice(0, n))
    test = subject.drawn(n, held_out=True)
    samples = subject.samples(n)
    fewest = min(len(training.z), len(test.z), len(samples))
    if fewest < FEWEST:
        raise UserError(f"prior_gap needs {FEWEST} codes, held-out codes and finite samples, got {fewest}")
    results = densities(subject, training, test)
    results |= two_samples(subject, samples, training.flat, test.flat)
    results |= copies(subject, samples, test.flat, pool.flat)
    results |= base_moments(subject, test)
    found = evidence(subject, results, samples.shape[1], _ADVICE)
    judgement = verdict(found)
    results["prior_gap_in_codes"] = result(
        subject, in_codes(found), len(samples), {"value": IN_CODES},
        culprit=judgement.culprit, verdict=judgement.sentence,
    )  # fmt: skip
    return results


def likelihood(subject: CodeSubject) -> Results:
    """Mean log p(z) of held-out codes; 10,000 codes.

    ``log_likelihood_normal`` is that of the normal distribution with the mean and the covariance of the codes
    that the prior was fitted to, whatever their contexts: a floor.
    """
    n = subject.count(10_000, quick=5_000)
    if subject.prior.tolerance:
        n = min(n, 1000)  # it solves an equation for each code
    test = subject.drawn(n, held_out=True)
    scores = subject.fitted.log_prob(test.z.unflatten(1, subject.codes.shape), test.context).cpu().double()
    floor = _normal(subject.codes.train).log_prob(test.z.double())
    protocol = {"unit": "nats", "codes": "held out", **subject.prior.record()}
    results = {}
    for name, values in (("log_likelihood", scores), ("log_likelihood_normal", floor)):
        bits = -values.mean().item() / (test.z.shape[1] * math.log(2))
        results[name] = result(
            subject, values.mean().item(), len(values), protocol,
            standard_error=error_of_mean(values), bits_per_dim=bits,
        )  # fmt: skip
        protocol = {"unit": "nats", "codes": "held out", "density": "normal, mean and covariance of the codes"}
    return results


def _normal(z: Tensor) -> torch.distributions.MultivariateNormal:
    """The normal distribution with the mean and the covariance of codes."""
    mean = z.mean(0).double()
    covariance = torch.cov(z.T).double().reshape(len(mean), len(mean))
    ridge = 1e-6 * covariance.diagonal().mean()  # codes that lie in a plane have no density otherwise
    covariance = covariance + ridge * torch.eye(len(mean), dtype=torch.double)
    return torch.distributions.MultivariateNormal(mean, covariance)


METRICS = {"prior_gap": Metric(prior_gap), "likelihood": Metric(likelihood)}
"""The metrics of codes by name."""


def evaluate(fitted: Fitted, codes: CodeSet, metrics: str | list[str] = "auto", **options: Any) -> Results:
    """Compute metrics of a prior that was fitted to codes.

    Args:
        fitted: The prior.
        codes: What :func:`~pyro_lrp.fitting.checked_codes` returns for the codes that it was fitted to.
        metrics: ``"auto"``: all, on fewer codes; or names of :data:`METRICS`.
        **options: Further arguments of :class:`CodeSubject`: ``seed`` and ``n``.

    Returns:
        Results by name, each with ``value``, ``n``, ``seed``, ``protocol`` and further entries.

    >>> z = torch.randn(500, 2)
    >>> from pyro_lrp.fitting import checked_codes, fit
    >>> fitted = fit(z, prior="standard_normal")
    >>> found = evaluate(fitted, checked_codes(z), ["likelihood"])
    >>> sorted(found)
    ['log_likelihood', 'log_likelihood_normal']
    """
    names = known_metrics(metrics, "metrics", METRICS)
    subject = CodeSubject(fitted, codes, quick=names == "auto", **options)
    results: Results = {}
    with eval_mode(fitted.prior), pyro.validation_enabled(False):
        for name in METRICS if names == "auto" else names:
            results |= METRICS[name].compute(subject)
    return results
