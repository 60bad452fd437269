"""The differences between a prior and codes, in latent space: for runs, and for codes without images."""

from __future__ import annotations

import math
from typing import Any, Protocol

import torch
from torch import Tensor

from pyro_lrp.core.errors import UserError
from pyro_lrp.core.randomness import some_rows
from pyro_lrp.latents.codes import DrawnCodes, seeded_chunks
from pyro_lrp.metrics.functional.two_sample import (
    CLASSIFIER,
    Copying,
    TwoSample,
    classifier_two_sample_test,
    copying,
    energy_distance,
    moments,
)
from pyro_lrp.metrics.metric import result
from pyro_lrp.metrics.prior_verdict import COPIES, Advice, Evidence
from pyro_lrp.metrics.subject import Results
from pyro_lrp.priors import Prior

__all__ = [
    "FEWEST", "IN_CODES", "REFERENCE", "Compared", "base_moments", "copies", "densities", "error_of_mean",
    "evidence", "in_codes", "two_samples", "with_error",
]  # fmt: skip

FEWEST = 20  # points, for the halves of a two-sample test and the groups of a jackknife
REFERENCE = (50_000, 20_000)  # training codes that samples may be copies of: full and quick
IN_CODES = "accuracy of prior_gap_c2st less that of prior_gap_c2st_training"
_SOLVED = (1000, 250)  # codes that are scored if the prior solves an equation for it: full and quick


class Compared(Protocol):
    """A prior that is compared with codes, such as that of a :class:`~pyro_lrp.metrics.Subject`.

    Attributes:
        seed: Seed of all noise.
        quick: Whether numbers of codes are the small ones.
        non_finite: Number of samples that were left out.
        device: Where the prior is.
        prior: The prior, in eval mode.
        batch_size: Codes at once. Another number gives other random numbers.
        given: The entry of a protocol that says which contexts samples were given.
        code_of_each: What the codes are, for protocols.
    """

    seed: int
    quick: bool
    non_finite: int

    @property
    def device(self) -> torch.device | str: ...

    @property
    def prior(self) -> Prior: ...

    @property
    def batch_size(self) -> int: ...

    @property
    def given(self) -> dict[str, Any]: ...

    @property
    def code_of_each(self) -> str: ...


def error_of_mean(values: Tensor) -> float:
    """Standard error of the mean of values."""
    # the last bit of ** 0.5 can differ from that of math.sqrt: stored results are reproduced with this one
    return values.std().item() / len(values) ** 0.5


def in_codes(found: Evidence) -> float:
    """The value of ``prior_gap_in_codes``, of which :data:`IN_CODES` is the meaning."""
    return found.c2st.accuracy - found.c2st_training.accuracy


# --------------------------------------------------------------------- densities


def densities(subject: Compared, training: DrawnCodes, test: DrawnCodes) -> Results:
    """Mean -log p(z) of training and of test codes, and their difference; the rate of test codes."""
    prior = subject.prior
    if not prior.has_log_prob:
        return {}
    most = len(training.z)
    if prior.tolerance:
        most = _SOLVED[subject.quick]
    protocol = {"unit": "nats", "codes": subject.code_of_each, **prior.record()}
    results: Results = {}
    for name, codes in (("training", training), ("test", test)):
        if most < len(codes.z):
            # a split that is taken whole comes in an order of its own
            codes = codes.rows(some_rows(len(codes.z), most, "evaluate", "prior_gap", seed=subject.seed))
        nll = _nll(subject, codes, name)
        results[f"prior_gap_nll_{name}"] = result(
            subject, nll.mean().item(), len(nll), protocol, standard_error=error_of_mean(nll)
        )
        if name == "test":
            results |= _rate(subject, codes, nll)
    seen = results["prior_gap_nll_training"]
    new = results["prior_gap_nll_test"]
    results["prior_gap_nll_difference"] = result(
        subject, new["value"] - seen["value"], new["n"],
        {**protocol, "value": "test less training"},
        standard_error=(seen["standard_error"] ** 2 + new["standard_error"] ** 2) ** 0.5,
    )  # fmt: skip
    return results


def _rate(subject: Compared, codes: DrawnCodes, nll: Tensor) -> Results:
    """E_q[log q(z|x) - log p(z)]: the information that a code has about its image, and the cost of the prior.

    It is the mutual information of image and code plus KL(q(z) || p(z)). A deterministic encoder has none.
    """
    if codes.deterministic:
        return {}
    bits = (codes.log_q.double() + nll) / (codes.flat.shape[1] * math.log(2))
    protocol = {
        "unit": "bits per dimension",
        "value": "mean of log q(z|x) - log p(z)",
        "codes": "a sample of q(z|x) for each test image",
        **subject.prior.record(),
    }
    return {
        "prior_gap_rate": result(
            subject, bits.mean().item(), len(bits), protocol, standard_error=error_of_mean(bits)
        )
    }


@torch.no_grad()
def _nll(subject: Compared, codes: DrawnCodes, name: str) -> Tensor:
    """-log p(z) of each code in nats, float64 on the CPU."""

    def score(rows: slice) -> Tensor:
        part = codes.rows(rows)
        prior = subject.prior(part.context.to(subject.device))
        log_density = prior.log_prob(part.z.to(subject.device))
        return -log_density.double().cpu()

    labels = ("evaluate", "prior_gap", "density", name)
    n = len(codes.z)
    parts = seeded_chunks(score, n, subject.batch_size, subject.seed, *labels, by_number=True)
    return torch.cat([*parts])


# --------------------------------------------------------------------- tests of codes


def two_samples(subject: Compared, samples: Tensor, training: Tensor, test: Tensor) -> Results:
    """A classifier's accuracy, and energy distances, of samples and of training codes against test codes."""
    mean = training.mean(0)
    scale = training.std(0)
    scale = torch.where(scale > 0, scale, 1.0)
    lost = {"non_finite_samples": subject.non_finite, **subject.given}
    results = {}
    sets: tuple[tuple[str, Tensor, dict[str, Any]], ...] = (
        ("", samples, lost),
        ("_training", training, {}),
    )
    for suffix, codes, more in sets:
        protocol = {
            "classifier": CLASSIFIER,
            "halves": "trained on one, accuracy on the other",
            "interval": "Wilson, 95 %",
        }
        test_result = classifier_two_sample_test(codes, test, subject.seed)
        results[f"prior_gap_c2st{suffix}"] = result(
            subject, test_result.accuracy, test_result.n, protocol | more,
            interval=list(test_result.interval), p_value=test_result.p_value, chance=0.5,
        )  # fmt: skip
        protocol = {
            "estimate": "unbiased (U-statistic)",
            "standardised": "each dimension, by the training codes",
        }
        distance = energy_distance((codes - mean) / scale, (test - mean) / scale)
        results[f"prior_gap_energy_distance{suffix}"] = result(subject, distance, len(codes), protocol | more)
    return results


def copies(subject: Compared, samples: Tensor, test: Tensor, references: Tensor) -> Results:
    """Whether samples copy training codes."""
    found = copying(samples, test, references)
    protocol = {
        "value": "chance that a sample is nearer to its nearest training code than a test code is to its own",
        "relative": "the same of the distance over that to the second nearest",
        "training_codes": len(references),
        "test_codes": len(test),
        "no_copying": 0.5,
        "copies": f"both above {COPIES}, and by 5 standard errors above 0.5",
    }
    return {
        "prior_gap_copying": result(
            subject, found.probability, len(samples), protocol, relative=found.relative_probability,
            z_score=found.z_score, standard_error=found.standard_error,
        )
    }  # fmt: skip


@torch.no_grad()
def base_moments(subject: Compared, test: DrawnCodes) -> Results:
    """Moments of test codes mapped to the base, and of as many draws of the base itself."""
    prior = subject.prior
    if not prior.has_base:
        return {}

    def pair(rows: slice) -> tuple[Tensor, Tensor]:
        part = test.rows(rows)
        context = part.context.to(subject.device)
        drawn = prior.base(context).sample()
        mapped = prior.to_base(part.z.to(subject.device), context)
        return mapped.cpu(), drawn.cpu()

    labels = ("evaluate", "prior_gap", "base")
    n = len(test.z)
    pairs = seeded_chunks(pair, n, subject.batch_size, subject.seed, *labels, by_number=True)
    mapped, drawn = zip(*pairs, strict=True)
    z = torch.cat(mapped).flatten(1)
    finite = torch.isfinite(z).all(1)
    count = int(finite.sum())
    if count < 2:
        raise UserError(f"prior_gap: in the prior's base {count} of {n} test codes are finite")
    protocol = {
        "value": "mean |z_0|^2 / d of test codes; all numbers beside those of as many draws of the base",
        "non_finite": n - count,
    }
    of_codes = moments(z[finite])
    of_base = moments(torch.cat(drawn).flatten(1))
    return {
        "prior_gap_base_moments": result(
            subject, of_codes.square, count, protocol, **of_codes._asdict(), of_base=of_base._asdict()
        )
    }


def evidence(subject: Compared, results: Results, dim: int, advice: Advice) -> Evidence:
    """What the verdict depends on, without distances of images.

    Args:
        subject: The prior.
        results: Those of this module.
        dim: Length of a code.
        advice: Remedies that the user of such a prior has.
    """
    parameters = subject.prior.parameters()
    nll = None
    if "prior_gap_nll_difference" in results:
        nll = with_error(results["prior_gap_nll_difference"])
    copied = results["prior_gap_copying"]
    return Evidence(
        copying=Copying(copied["value"], copied["z_score"], copied["relative"], copied["standard_error"]),
        c2st=_two_sample(results["prior_gap_c2st"]),
        c2st_training=_two_sample(results["prior_gap_c2st_training"]),
        fd=None,
        nll=nll,
        dim=dim,
        learned=any(p.requires_grad for p in parameters),
        advice=advice,
    )


def with_error(one: dict[str, Any]) -> tuple[float, float]:
    """A result's value and standard error."""
    return one["value"], one["standard_error"]


def _two_sample(one: dict[str, Any]) -> TwoSample:
    """The test that a result came from."""
    low, high = one["interval"]
    return TwoSample(one["value"], (low, high), one["p_value"], one["n"])
