"""``prior_gap``: the differences between a prior and the aggregate posterior, and the limits of samples.

In latent space: densities of training and test codes, the rate, two-sample tests, copying, moments in the base,
active units. In images: the distortion. In the features of the data set's own network: Fréchet distances of
samples, of decoded codes of training images (the samples of a prior equal to q(z)) and of training images
themselves. A verdict summarises them.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from pyro_lrp.core.errors import UserError
from pyro_lrp.core.randomness import seeded, some_rows
from pyro_lrp.data import Split
from pyro_lrp.latents.codes import DrawnCodes, draw_codes, seeded_chunks
from pyro_lrp.metrics.classifiers import domain_extractor
from pyro_lrp.metrics.functional.frechet import frechet_error
from pyro_lrp.metrics.functional.two_sample import (
    CLASSIFIER,
    Copying,
    TwoSample,
    classifier_two_sample_test,
    copying,
    energy_distance,
    moments,
)
from pyro_lrp.metrics.metric import Metric, enough_images, labels_or_attributes, result
from pyro_lrp.metrics.prior_verdict import COPIES, Evidence, verdict
from pyro_lrp.metrics.reconstruction import reconstruction_mse
from pyro_lrp.metrics.subject import DECODED, Results, Subject

__all__ = ["METRICS", "prior_gap"]

_FEWEST = 20  # points, for the halves of a two-sample test and the groups of a jackknife
_REFERENCE = (50_000, 20_000)  # training codes that samples may be copies of: full and quick
_SOLVED = (1000, 250)  # codes that are scored if the prior solves an equation for it: full and quick
_SETS = {
    "samples": "prior samples",
    "resampled": "codes of training images, decoded: what a prior equal to q(z) would give",
    "reconstructions": "the test images, encoded and decoded",
    "training": "training images: the floor",
}


def prior_gap(subject: Subject) -> Results:
    """All results of this module; 10,000 samples and images of each kind (quick: 5,000).

    Codes are samples of q(z|x); "training" images are those that the model saw. Results that need a density or
    a base of the prior are left out if it has none, and those that need a network of the data set's own if
    there are neither labels nor attributes; ``prior_gap`` lists them. That result has the ``verdict``, a
    sentence, and the ``culprit``. Its value is the prior's share of the distance of samples above that of
    training images. Without distances it is called ``prior_gap_in_codes``, and its value is the difference of a
    classifier's accuracy on samples and on training codes.

    Raises:
        UserError: If there are fewer than 20 training images, test images or finite samples.
    """
    n = subject.count(10_000, quick=5_000)
    references = max(n, _REFERENCE[subject.quick])
    pool = _codes(subject, subject.some(subject.train, references, "training"), "training")
    with seeded(subject.seed, "evaluate", "prior_gap", "order"):
        # a split that is taken whole comes in an order of its own
        pool = pool.rows(torch.randperm(len(pool.z)))
    training = pool.rows(slice(0, n))
    test = _codes(subject, subject.some(subject.data.test, n, "test"), "test")
    samples = torch.cat([draw.latents.flatten(1).cpu() for draw in subject.samples(n)])
    fewest = min(len(training.z), len(test.z), len(samples))
    if fewest < _FEWEST:
        raise UserError(
            f"prior_gap needs {_FEWEST} training images, test images and finite samples at least, got {fewest}"
        )
    results = _densities(subject, training, test)
    results |= _two_samples(subject, samples, training.flat, test.flat)
    results |= _by_scale(subject, samples, training, test)
    results |= _copies(subject, samples, test.flat, pool.flat)
    results |= _base_moments(subject, test)
    results |= _active_units(subject, test)
    results["prior_gap_distortion"] = reconstruction_mse(subject)["reconstruction_mse"]
    results |= _frechet(subject, n)
    return results | _verdict(subject, results, samples)


def _codes(subject: Subject, split: Split, label: str) -> DrawnCodes:
    """A code for each image of a split."""
    labels = ("evaluate", "prior_gap", label)
    progress = subject.progress(len(split))
    split = subject.on_device(split)
    return draw_codes(subject.autoencoder, split, subject.seed, *labels, on_batch=progress)


def _error(values: Tensor) -> float:
    """Standard error of the mean of values."""
    # the last bit of ** 0.5 can differ from that of math.sqrt: stored results are reproduced with this one
    return values.std().item() / len(values) ** 0.5


# --------------------------------------------------------------------- densities


def _densities(subject: Subject, training: DrawnCodes, test: DrawnCodes) -> Results:
    """Mean -log p(z) of training and of test codes, and their difference; the rate of test codes."""
    prior = subject.autoencoder.prior
    if not prior.has_log_prob:
        return {}
    most = len(training.z)
    if prior.tolerance:
        most = _SOLVED[subject.quick]
    protocol = {"unit": "nats", "codes": "a sample of q(z|x) each", **prior.record()}
    results: Results = {}
    for name, codes in (("training", training), ("test", test)):
        if most < len(codes.z):
            # a split that is taken whole comes in an order of its own
            codes = codes.rows(some_rows(len(codes.z), most, "evaluate", "prior_gap", seed=subject.seed))
        nll = _nll(subject, codes, name)
        results[f"prior_gap_nll_{name}"] = result(
            subject, nll.mean().item(), len(nll), protocol, standard_error=_error(nll)
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


def _rate(subject: Subject, codes: DrawnCodes, nll: Tensor) -> Results:
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
        **subject.autoencoder.prior.record(),
    }
    return {
        "prior_gap_rate": result(subject, bits.mean().item(), len(bits), protocol, standard_error=_error(bits))
    }


@torch.no_grad()
def _nll(subject: Subject, codes: DrawnCodes, name: str) -> Tensor:
    """-log p(z) of each code in nats, float64 on the CPU."""

    def score(rows: slice) -> Tensor:
        part = codes.rows(rows)
        prior = subject.autoencoder.prior(part.context.to(subject.device))
        log_density = prior.log_prob(part.z.to(subject.device))
        return -log_density.double().cpu()

    labels = ("evaluate", "prior_gap", "density", name)
    n = len(codes.z)
    parts = seeded_chunks(score, n, subject.batch_size, subject.seed, *labels, by_number=True)
    return torch.cat([*parts])


@torch.no_grad()
def _by_scale(subject: Subject, samples: Tensor, training: DrawnCodes, test: DrawnCodes) -> Results:
    """The same for each of several latents, ``prior_gap_z1_...``: which scale the prior fits, and which not."""
    sites = subject.autoencoder.sites
    if len(sites) == 1:
        return {}
    prior: Any = subject.autoencoder.prior
    results: Results = {}
    start = 0
    for number, site in enumerate(sites):
        own = slice(start, start + prior.lengths[number])
        start = own.stop
        scale = _two_samples(subject, samples[:, own], training.flat[:, own], test.flat[:, own])
        for name, codes in (("training", training), ("test", test)):
            nll = _nll_of_latent(subject, codes, number)
            protocol = {"unit": "nats", "given": "the context and the coarser latents"}
            scale[f"prior_gap_nll_{name}"] = result(
                subject, nll.mean().item(), len(nll), protocol, standard_error=_error(nll)
            )
        for key, value in scale.items():
            results[key.replace("prior_gap_", f"prior_gap_{site}_")] = value
    return results


def _nll_of_latent(subject: Subject, codes: DrawnCodes, number: int) -> Tensor:
    """-log p of one of several latents, given the coarser ones, for each code."""
    prior: Any = subject.autoencoder.prior
    size = subject.batch_size
    pairs = zip(codes.flat.split(size), codes.context.split(size), strict=True)
    parts = []
    for z, context in pairs:
        log_densities = prior.log_probs(z.to(subject.device), context.to(subject.device))
        parts.append(-log_densities[number].double().cpu())
    return torch.cat(parts)


# --------------------------------------------------------------------- tests of codes


def _two_samples(subject: Subject, samples: Tensor, training: Tensor, test: Tensor) -> Results:
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


def _copies(subject: Subject, samples: Tensor, test: Tensor, references: Tensor) -> Results:
    """Whether samples copy training codes."""
    copies = copying(samples, test, references)
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
            subject, copies.probability, len(samples), protocol, relative=copies.relative_probability,
            z_score=copies.z_score, standard_error=copies.standard_error,
        )
    }  # fmt: skip


@torch.no_grad()
def _base_moments(subject: Subject, test: DrawnCodes) -> Results:
    """Moments of test codes mapped to the base, and of as many draws of the base itself."""
    prior = subject.autoencoder.prior
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


def _active_units(subject: Subject, test: DrawnCodes) -> Results:
    """The number of dimensions that depend on the image, by an absolute and by a relative threshold."""
    spread = test.posterior.loc.flatten(1).double().var(0)
    variance = test.posterior.scale.square()
    noise = variance.flatten(1).double().mean(0)
    rules = {
        "active_units": (spread > 0.01, "Var_x(E[z|x]) > 0.01 (Burda et al., 2016)"),
        "active_units_scale_free": (spread > 0.1 * noise, "Var_x(E[z|x]) > 0.1 E_x(Var[z|x])"),
    }
    results = {}
    for name, (active, rule) in rules.items():
        protocol = {"counted": rule, "of": len(spread)}
        results[name] = result(subject, float(active.sum()), len(test.z), protocol)
    return results


# --------------------------------------------------------------------- images and verdict


def _frechet(subject: Subject, n: int) -> Results:
    """Fréchet distances to test images, of sets of equal size where possible, so that biases are equal."""
    if labels_or_attributes(subject) is not None:
        return {}
    extractor = domain_extractor(subject)
    n = min(n, len(subject.train))
    reference = subject.statistics(extractor, "test", n)
    results = {}
    for of, meaning in _SETS.items():
        rows = subject.rows(extractor, of, n)
        distance = subject.statistics(extractor, of, n).distance(reference)
        protocol = {
            **extractor.record,
            "of": meaning,
            "images": DECODED,
            "reference": f"{reference.n} test images",
            "standard_error": "grouped jackknife over these images, the reference being fixed",
        }
        error = frechet_error(rows, reference)
        results[f"prior_gap_fd_{of}"] = result(subject, distance, len(rows), protocol, standard_error=error)
    return results


def _verdict(subject: Subject, results: Results, samples: Tensor) -> Results:
    """The culprit, from the other results."""
    prior = subject.autoencoder.prior
    evidence = _evidence(subject, results, samples)
    judgement = verdict(evidence)
    lacking = {
        "log p(z): the prior has no density": not prior.has_log_prob,
        "moments in the base: the prior has none": not prior.has_base,
        f"distances of images: {labels_or_attributes(subject)}": evidence.fd is None,
    }
    left_out = [reason for reason, lacks in lacking.items() if lacks]
    protocol: dict[str, Any] = {"left_out": left_out}
    entries = {"culprit": judgement.culprit, "verdict": judgement.sentence}
    name = "prior_gap"
    value = judgement.share
    if value is None:
        name = "prior_gap_in_codes"
        value = evidence.c2st.accuracy - evidence.c2st_training.accuracy
        protocol["value"] = "accuracy of prior_gap_c2st less that of prior_gap_c2st_training"
    else:
        protocol["value"] = "(FD samples - FD resampled) / (FD samples - FD training), clipped to [0, 1]"
    return {name: result(subject, value, len(samples), protocol, **entries)}


def _evidence(subject: Subject, results: Results, samples: Tensor) -> Evidence:
    """The results that the verdict depends on."""
    parameters = subject.autoencoder.prior.parameters()
    fd = None
    if "prior_gap_fd_samples" in results:
        fd = {of: _with_error(results[f"prior_gap_fd_{of}"]) for of in _SETS}
    nll = None
    if "prior_gap_nll_difference" in results:
        nll = _with_error(results["prior_gap_nll_difference"])
    copied = results["prior_gap_copying"]
    return Evidence(
        copying=Copying(copied["value"], copied["z_score"], copied["relative"], copied["standard_error"]),
        c2st=_two_sample(results["prior_gap_c2st"]),
        c2st_training=_two_sample(results["prior_gap_c2st_training"]),
        fd=fd,
        nll=nll,
        dim=samples.shape[1],
        learned=any(p.requires_grad for p in parameters),
    )


def _with_error(one: dict[str, Any]) -> tuple[float, float]:
    """A result's value and standard error."""
    return one["value"], one["standard_error"]


def _two_sample(one: dict[str, Any]) -> TwoSample:
    """The test that a result came from."""
    low, high = one["interval"]
    return TwoSample(one["value"], (low, high), one["p_value"], one["n"])


METRICS = {"prior_gap": Metric(prior_gap, needs=(enough_images(_FEWEST),))}
