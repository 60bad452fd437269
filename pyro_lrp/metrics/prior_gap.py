"""``prior_gap``: what separates a prior from the aggregate posterior of the data, and what limits samples.

In latent space: densities of training and test codes, two-sample tests, copying, moments in the base, units in
use. In the features of the data set's own network: Fréchet distances of samples, of decoded codes of training
images (what a prior equal to q(z) would give) and of training images themselves. A verdict reads them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_lrp.core.errors import UserError
from pyro_lrp.core.randomness import seeded
from pyro_lrp.data import Split, chunks
from pyro_lrp.metrics.classifier import JUDGED, domain_extractor
from pyro_lrp.metrics.frechet import FeatureStatistics
from pyro_lrp.metrics.metric import Metric, labels_or_attributes, result
from pyro_lrp.metrics.prior_verdict import COPIES, Evidence, verdict
from pyro_lrp.metrics.subject import Results, Subject
from pyro_lrp.metrics.two_sample import (
    CLASSIFIER,
    Copying,
    TwoSample,
    classifier_two_sample_test,
    copying,
    energy_distance,
    moments,
)

__all__ = ["METRICS", "frechet_error", "prior_gap"]

_LEAST = 20  # points, for the halves of a two-sample test and the groups of a jackknife
_REFERENCE = (50_000, 20_000)  # training codes that samples may be copies of; the second is quick
_SOLVED = (1000, 250)  # codes, of a prior that solves an equation to score them; likewise
_FD_SETS = {
    "samples": "prior samples",
    "resampled": "codes of training images, decoded: what a prior equal to q(z) would give",
    "reconstructions": "the test images, encoded and decoded",
    "training": "training images: the floor",
}


def frechet_error(features: Tensor, reference: FeatureStatistics, groups: int = 10) -> float:
    """Standard error of the Fréchet distance of features to a fixed reference, by the grouped jackknife.

    Args:
        features: Shape ``(n, d)``, at least two for each group; in random order.
        reference: Whose own sampling error is not counted: it is common to all that are held against it.
        groups: Each is left out once.

    References:
        Efron and Tibshirani (1993), An Introduction to the Bootstrap, section 11.5.
    """
    group = torch.arange(len(features)) % groups
    kept = (features[group != left_out] for left_out in range(groups))
    found = [FeatureStatistics.of([part]).distance(reference) for part in kept]
    return torch.tensor(found, dtype=torch.float64).var(correction=0).mul(groups - 1).sqrt().item()


@dataclass(frozen=True)
class _Codes:
    """Of images: a sample of q(z|x), its mean and variance, ``(N, *event_shape)``; their contexts."""

    z: Tensor
    mean: Tensor
    variance: Tensor
    context: Tensor

    @property
    def flat(self) -> Tensor:
        return self.z.flatten(1)

    def __getitem__(self, index: Tensor | slice) -> _Codes:
        return _Codes(self.z[index], self.mean[index], self.variance[index], self.context[index])

    def parts(self, size: int) -> list[_Codes]:
        return [self[start : start + size] for start in range(0, len(self.z), size)]


@torch.no_grad()
def _codes(subject: Subject, split: Split, label: str) -> _Codes:
    batches = chunks(split.to(torch.device(subject.device)))
    parts = []
    for number, batch in enumerate(subject.steps(batches, len(split), lambda batch: len(batch.x))):
        q = subject.autoencoder.encode(batch.x, batch.context)
        with seeded(subject.seed, "evaluate", "prior_gap", label, number):
            parts.append([t.cpu() for t in (q.sample(), q.mean, q.variance)])
    z, mean, variance = (torch.cat(column) for column in zip(*parts, strict=True))
    return _Codes(z, mean, variance, split.context.cpu())


def prior_gap(subject: Subject) -> Results:
    """Everything that this module's head names; 10,000 samples and images of each kind (quick: 5,000).

    Codes are samples of q(z|x); "training" images are those that the model saw. What a prior does not offer
    (a density, a base) and what the data do not allow (a network of their own needs labels or attributes) is
    left out, and ``prior_gap`` says so. That result has the ``verdict``, a sentence, and the ``culprit``; its
    value is the share of the samples' distance, above that of training images, that the prior is responsible
    for. Without distances it is called ``prior_gap_in_codes``, and its value is by how much a classifier's
    accuracy on samples exceeds that on training codes.

    Raises:
        UserError: If there are fewer than 20 training images, test images or finite samples.
    """
    n = subject.count(10_000, quick=5_000)
    references = max(n, _REFERENCE[subject.quick])
    pool = _codes(subject, subject.some(subject.train, references, "training"), "training")
    with seeded(subject.seed, "evaluate", "prior_gap", "order"):
        pool = pool[torch.randperm(len(pool.z))]  # a split that is taken whole is in an order of its own
    training, test = pool[:n], _codes(subject, subject.some(subject.data.test, n, "test"), "test")
    samples = torch.cat([codes.flatten(1).cpu() for _, codes in subject.samples(n)])
    least = min(len(training.z), len(test.z), len(samples))
    if least < _LEAST:
        raise UserError(
            f"prior_gap needs {_LEAST} training images, test images and finite samples at least, got {least}"
        )
    results = _densities(subject, training, test)
    results |= _two_samples(subject, samples, training.flat, test.flat)
    results |= _by_scale(subject, samples, training, test)
    results |= _copies(subject, samples, test.flat, pool.flat)
    results |= _base_moments(subject, test) | _active_units(subject, test) | _frechet(subject, n)
    return results | _judged(subject, results, samples)


def _densities(subject: Subject, training: _Codes, test: _Codes) -> Results:
    prior = subject.autoencoder.prior
    if not prior.has_log_prob:
        return {}
    most = _SOLVED[subject.quick] if prior.tolerance else len(training.z)
    protocol = {"unit": "nats", "codes": "a sample of q(z|x) each", **prior.record()}
    results: Results = {}
    means = {}
    for name, codes in (("training", training[:most]), ("test", test[:most])):
        with torch.no_grad():
            parts = []
            for number, part in enumerate(codes.parts(subject.at_once)):
                context = part.context.to(subject.device)
                with seeded(subject.seed, "evaluate", "prior_gap", "density", name, number):
                    parts.append(-prior(context).log_prob(part.z.to(subject.device)).double().cpu())
        nll = torch.cat(parts)
        means[name] = nll.mean().item(), nll.std().item() / len(nll) ** 0.5
        results[f"prior_gap_nll_{name}"] = result(
            subject, means[name][0], len(nll), protocol, standard_error=means[name][1]
        )
    (seen, e1), (new, e2) = means["training"], means["test"]
    results["prior_gap_nll_difference"] = result(
        subject, new - seen, len(nll), {**protocol, "value": "test less training"},
        standard_error=(e1**2 + e2**2) ** 0.5,
    )  # fmt: skip
    return results


def _two_samples(subject: Subject, samples: Tensor, training: Tensor, test: Tensor) -> Results:
    """A classifier's accuracy, and energy distances, of samples and of training codes against test codes."""
    mean, scale = training.mean(0), training.std(0)
    scale = torch.where(scale > 0, scale, 1.0)
    lost = {"non_finite_samples": subject.non_finite}
    c2st = {
        "classifier": CLASSIFIER, "halves": "trained on one, accuracy on the other", "interval": "Wilson, 95 %",
    }  # fmt: skip
    energy = {"estimate": "unbiased (U-statistic)", "standardised": "each dimension, by the training codes"}
    sets: tuple[tuple[str, Tensor, dict[str, Any]], ...] = (("", samples, lost), ("_training", training, {}))
    results = {}
    for end, codes, protocol in sets:
        found = classifier_two_sample_test(codes, test, subject.seed)
        results[f"prior_gap_c2st{end}"] = result(
            subject, found.accuracy, found.n, c2st | protocol,
            interval=list(found.interval), p_value=found.p_value, chance=0.5,
        )  # fmt: skip
        distance = energy_distance((codes - mean) / scale, (test - mean) / scale)
        results[f"prior_gap_energy_distance{end}"] = result(subject, distance, len(codes), energy | protocol)
    return results


@torch.no_grad()
def _by_scale(subject: Subject, samples: Tensor, training: _Codes, test: _Codes) -> Results:
    """The same for each latent of several, ``prior_gap_z1_...``: which scale the prior fits, and which not."""
    prior: Any = subject.autoencoder.prior
    results: Results = {}
    first = 0
    for number, site in enumerate(subject.autoencoder.sites if len(subject.autoencoder.sites) > 1 else ()):
        own = slice(first, first + prior.lengths[number])
        first = own.stop
        found = _two_samples(subject, samples[:, own], training.flat[:, own], test.flat[:, own])
        for name, codes in (("training", training), ("test", test)):
            parts = []
            for part in codes.parts(subject.at_once):
                z, context = part.flat.to(subject.device), part.context.to(subject.device)
                parts.append(-prior.log_probs(z, context)[number].double().cpu())
            nll = torch.cat(parts)
            found[f"prior_gap_nll_{name}"] = result(
                subject, nll.mean().item(), len(nll),
                {"unit": "nats", "given": "the context and the coarser latents"},
                standard_error=nll.std().item() / len(nll) ** 0.5,
            )  # fmt: skip
        results |= {key.replace("prior_gap_", f"prior_gap_{site}_"): value for key, value in found.items()}
    return results


def _copies(subject: Subject, samples: Tensor, test: Tensor, references: Tensor) -> Results:
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
def _base_moments(subject: Subject, test: _Codes) -> Results:
    """Of test codes taken to the base, beside those of as many draws of the base itself."""
    prior = subject.autoencoder.prior
    if not prior.has_base:
        return {}
    taken, drawn = [], []
    for number, part in enumerate(test.parts(subject.at_once)):
        context = part.context.to(subject.device)
        taken.append(prior.to_base(part.z.to(subject.device), context).cpu())
        base = prior.base(context)
        with seeded(subject.seed, "evaluate", "prior_gap", "base", number):
            drawn.append(base.sample().cpu())
    z = torch.cat(taken).flatten(1)
    finite = torch.isfinite(z).all(1)
    if finite.sum() < 2:
        raise UserError(f"prior_gap: in the prior's base {int(finite.sum())} of {len(z)} test codes are finite")
    protocol = {
        "value": "mean |z_0|^2 / d of test codes; all numbers beside those of as many draws of the base",
        "non_finite": len(z) - int(finite.sum()),
    }
    found, known = moments(z[finite]), moments(torch.cat(drawn).flatten(1))
    return {
        "prior_gap_base_moments": result(
            subject, found.square, int(finite.sum()), protocol, **found._asdict(), of_base=known._asdict()
        )
    }


def _active_units(subject: Subject, test: _Codes) -> Results:
    """Dimensions that depend on the image, by an absolute and by a relative threshold."""
    spread = test.mean.flatten(1).double().var(0)
    noise = test.variance.flatten(1).double().mean(0)
    rules = {
        "active_units": (spread > 0.01, "Var_x(E[z|x]) > 0.01 (Burda et al., 2016)"),
        "active_units_scale_free": (spread > 0.1 * noise, "Var_x(E[z|x]) > 0.1 E_x(Var[z|x])"),
    }
    return {
        name: result(subject, float(active.sum()), len(test.z), {"counted": rule, "of": len(spread)})
        for name, (active, rule) in rules.items()
    }


def _frechet(subject: Subject, n: int) -> Results:
    """Fréchet distances to test images, of sets that are equally large where they can be: equal biases."""
    if labels_or_attributes(subject) is not None:
        return {}
    extractor = domain_extractor(subject)
    n = min(n, len(subject.train))
    reference = subject.statistics(extractor, "test", n)
    results = {}
    for of, meaning in _FD_SETS.items():
        rows = subject.rows(extractor, of, n)
        protocol = {
            **extractor.record, "of": meaning, "images": JUDGED, "reference": f"{reference.n} test images",
            "standard_error": "grouped jackknife over these images, the reference being fixed",
        }  # fmt: skip
        distance = subject.statistics(extractor, of, n).distance(reference)
        results[f"prior_gap_fd_{of}"] = result(
            subject, distance, len(rows), protocol, standard_error=frechet_error(rows, reference)
        )
    return results


def _judged(subject: Subject, results: Results, samples: Tensor) -> Results:
    prior = subject.autoencoder.prior
    pairs = {name: (found["value"], found.get("standard_error", 0.0)) for name, found in results.items()}
    fd = {of: pairs[f"prior_gap_fd_{of}"] for of in _FD_SETS} if "prior_gap_fd_samples" in pairs else None
    copied, c2st, yardstick = (results[f"prior_gap_{name}"] for name in ("copying", "c2st", "c2st_training"))
    found = verdict(
        Evidence(
            Copying(copied["value"], copied["z_score"], copied["relative"], copied["standard_error"]),
            _two_sample(c2st), _two_sample(yardstick), fd, pairs.get("prior_gap_nll_difference"),
            dim=samples.shape[1], learned=any(p.requires_grad for p in prior.parameters()),
        )
    )  # fmt: skip
    lacking = {
        "log p(z): the prior has no density": not prior.has_log_prob,
        "moments in the base: the prior has none": not prior.has_base,
        f"distances of images: {labels_or_attributes(subject)}": fd is None,
    }
    protocol: dict[str, Any] = {"left_out": [what for what, lacks in lacking.items() if lacks]}
    said = {"culprit": found.culprit, "verdict": found.sentence}
    if found.share is None:
        protocol["value"] = "accuracy of prior_gap_c2st less that of prior_gap_c2st_training"
        return {
            "prior_gap_in_codes": result(
                subject, c2st["value"] - yardstick["value"], len(samples), protocol, **said
            )
        }
    protocol["value"] = "(FD samples - FD resampled) / (FD samples - FD training), clipped to [0, 1]"
    return {"prior_gap": result(subject, found.share, len(samples), protocol, **said)}


def _two_sample(found: Mapping[str, Any]) -> TwoSample:
    low, high = found["interval"]
    return TwoSample(found["value"], (low, high), found["p_value"], found["n"])


METRICS = {"prior_gap": Metric(prior_gap)}
