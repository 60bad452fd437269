"""``prior_gap``: the differences between a prior and the aggregate posterior, and the limits of samples.

In latent space: densities of training and test codes, the rate, two-sample tests, copying, moments in the base,
active units. In images: the distortion. In the features of the data set's own network: Fréchet distances of
samples, of decoded codes of training images (the samples of a prior equal to q(z)) and of training images
themselves. A verdict summarises them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from pyro_lrp.core.errors import UserError
from pyro_lrp.core.randomness import seeded
from pyro_lrp.data import Split
from pyro_lrp.latents.codes import DrawnCodes, draw_codes
from pyro_lrp.metrics.classifiers import domain_extractor
from pyro_lrp.metrics.functional.frechet import frechet_error
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
    with_error,
)
from pyro_lrp.metrics.metric import Metric, enough_images, labels_or_attributes, result
from pyro_lrp.metrics.prior_verdict import OF_A_RUN, OF_A_TRAINING, Verdict, verdict
from pyro_lrp.metrics.reconstruction import reconstruction_mse
from pyro_lrp.metrics.subject import DECODED, Results, Subject

__all__ = ["METRICS", "prior_gap", "verdict_in_codes"]

_QUICK = 1000  # codes of each kind for a verdict at the end of a training
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
    results, samples, training, test = _compared(subject, n, max(n, REFERENCE[subject.quick]))
    results |= _by_scale(subject, samples, training, test)
    results |= base_moments(subject, test)
    results |= _active_units(subject, test)
    results["prior_gap_distortion"] = reconstruction_mse(subject)["reconstruction_mse"]
    results |= _frechet(subject, n)
    return results | _verdict(subject, results, samples)


def _compared(subject: Subject, n: int, references: int) -> tuple[Results, Tensor, DrawnCodes, DrawnCodes]:
    """Densities, two-sample tests and copying; samples of the prior, training codes and test codes.

    Args:
        subject: The model and its data.
        n: Codes of each kind.
        references: Training codes that samples may be copies of.
    """
    pool = _codes(subject, subject.some(subject.train, references, "training"), "training")
    with seeded(subject.seed, "evaluate", "prior_gap", "order"):
        # a split that is taken whole comes in an order of its own
        pool = pool.rows(torch.randperm(len(pool.z)))
    training = pool.rows(slice(0, n))
    test = _codes(subject, subject.some(subject.data.test, n, "test"), "test")
    samples = torch.cat([draw.latents.flatten(1).cpu() for draw in subject.samples(n)])
    fewest = min(len(training.z), len(test.z), len(samples))
    if fewest < FEWEST:
        raise UserError(
            f"prior_gap needs {FEWEST} training images, test images and finite samples at least, got {fewest}"
        )
    results = densities(subject, training, test)
    results |= two_samples(subject, samples, training.flat, test.flat)
    results |= copies(subject, samples, test.flat, pool.flat)
    return results, samples, training, test


def verdict_in_codes(subject: Subject) -> Verdict:
    """Whether the prior over- or under-fits, in a second: from 1,000 codes of each kind, without images.

    Raises:
        UserError: If there are fewer than 20 training images, test images or finite samples.
    """
    results, samples, _, _ = _compared(subject, _QUICK, 10 * _QUICK)
    return verdict(evidence(subject, results, samples.shape[1], OF_A_TRAINING))


def _codes(subject: Subject, split: Split, label: str) -> DrawnCodes:
    """A code for each image of a split."""
    labels = ("evaluate", "prior_gap", label)
    progress = subject.progress(len(split))
    split = subject.on_device(split)
    return draw_codes(subject.autoencoder, split, subject.seed, *labels, on_batch=progress)


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
        scale = two_samples(subject, samples[:, own], training.flat[:, own], test.flat[:, own])
        for name, codes in (("training", training), ("test", test)):
            nll = _nll_of_latent(subject, codes, number)
            protocol = {"unit": "nats", "given": "the context and the coarser latents"}
            scale[f"prior_gap_nll_{name}"] = result(
                subject, nll.mean().item(), len(nll), protocol, standard_error=error_of_mean(nll)
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
    fd = None
    if "prior_gap_fd_samples" in results:
        fd = {of: with_error(results[f"prior_gap_fd_{of}"]) for of in _SETS}
    found = replace(evidence(subject, results, samples.shape[1], OF_A_RUN), fd=fd)
    judgement = verdict(found)
    lacking = {
        "log p(z): the prior has no density": not prior.has_log_prob,
        "moments in the base: the prior has none": not prior.has_base,
        f"distances of images: {labels_or_attributes(subject)}": fd is None,
    }
    left_out = [reason for reason, lacks in lacking.items() if lacks]
    protocol: dict[str, Any] = {"left_out": left_out}
    entries = {"culprit": judgement.culprit, "verdict": judgement.sentence}
    name = "prior_gap"
    value = judgement.share
    if value is None:
        name = "prior_gap_in_codes"
        value = in_codes(found)
        protocol["value"] = IN_CODES
    else:
        protocol["value"] = "(FD samples - FD resampled) / (FD samples - FD training), clipped to [0, 1]"
    return {name: result(subject, value, len(samples), protocol, **entries)}


METRICS = {"prior_gap": Metric(prior_gap, needs=(enough_images(FEWEST),))}
