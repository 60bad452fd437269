"""Distances of prior samples to test images in the features of a network: FID, KID, IS, precision and recall.

Each metric exists with Inception, and as a surrogate with the data set's own classifier.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pyro_lrp.core.pixels import as_jpeg
from pyro_lrp.core.randomness import seeded
from pyro_lrp.features import Inception
from pyro_lrp.metrics.classifiers import domain_extractor
from pyro_lrp.metrics.functional.inception_score import inception_score
from pyro_lrp.metrics.functional.kernel_distance import kernel_distance
from pyro_lrp.metrics.functional.manifolds import density_and_coverage, precision_and_recall
from pyro_lrp.metrics.metric import (
    Metric,
    Requirement,
    enough_images,
    labels,
    labels_or_attributes,
    result,
)
from pyro_lrp.metrics.subject import AS_FILES, CHUNK, Extractor, Results, Subject, as_files

__all__ = ["METRICS", "as_jpeg", "frechet_distances", "singular", "stretched"]


def inception_extractor(subject: Subject) -> Extractor:
    """Inception-2015-12-05 of pytorch-fid: 2048 features of pool_3, 1008 logits without bias."""

    def load() -> Extractor:
        network = Inception(subject.weights.get("inception"))
        network = network.to(subject.device)
        return Extractor(
            name="inception",
            key=f"inception_{network.sha256[:16]}",
            features=network.features,
            dim=2048,
            record=network.record,
            logits=network.logits,
        )

    return subject.memo(("inception",), load)


_EXTRACTORS: dict[str, Callable[[Subject], Extractor]] = {
    "inception": inception_extractor,
    "classifier": domain_extractor,
}


# --------------------------------------------------------------------- Fréchet distance


def stretched(images: Tensor) -> Tensor:
    """Each image stretched to [0, 1] by its own smallest and largest value.

    A constant image stays as it is. The code of Dai and Wipf (2019) does this to generated images, and to no
    others.

    >>> stretched(torch.tensor([0.25, 0.5, 0.75]).reshape(1, 1, 1, 3)).flatten().tolist()
    [0.0, 0.5, 1.0]
    """
    smallest, largest = images.flatten(1).aminmax(dim=1)
    low = smallest[:, None, None, None]
    high = largest[:, None, None, None]
    flat = high == low
    width = torch.where(flat, 1.0, high - low)
    return torch.where(flat, images, (images - low) / width)


@dataclass(frozen=True)
class _Protocol:
    """The preparation of images before the network sees them."""

    real: Callable[[Tensor], Tensor]
    generated: Callable[[Tensor], Tensor]
    words: str


_CLEAN = _Protocol(as_files, as_files, AS_FILES)
_DAI_WIPF = _Protocol(
    real=as_files,
    generated=stretched,
    words="generated: each stretched to [0, 1] by its own minimum and maximum",
)
_JPEG = _Protocol(
    real=as_jpeg,
    generated=stretched,
    words=f"{_DAI_WIPF.words}; real: through JPEG of quality 75",
)


def frechet_distances(subject: Subject, name: str, network: str, protocol: _Protocol) -> Results:
    """Fréchet distances to the test images: of prior samples, and of two floors that no prior can pass.

    The floors are reconstructions of the test images (the cost of the decoder) and training images (the score
    of real images).

    Args:
        subject: The subject; 10,000 images and samples by default.
        name: The name of the results.
        network: ``"inception"`` or ``"classifier"``.
        protocol: How images are prepared.

    References:
        Heusel et al. (2017), GANs Trained by a Two Time-Scale Update Rule, arXiv:1706.08500.
    """
    extractor = _EXTRACTORS[network](subject)
    n = subject.count(10_000)
    reference = subject.statistics(extractor, "test", n, protocol.real)
    sets = {
        name: ("samples", protocol.generated),
        f"{name}_reconstructions": ("reconstructions", protocol.generated),
        f"{name}_training": ("training", protocol.real),
    }
    results = {}
    for key, (of, prepare) in sets.items():
        statistics = subject.statistics(extractor, of, n, prepare)
        record: dict[str, Any] = {
            **extractor.record,
            "images": protocol.words,
            "reference": f"{reference.n} test images of {subject.data.name}",
        }
        if of == "samples":
            record["non_finite_samples"] = subject.non_finite
            record |= subject.given
        more = {}
        warning = singular(min(statistics.n, reference.n), extractor.dim)
        if warning:
            more["warning"] = warning
        distance = statistics.distance(reference)
        results[key] = result(subject, distance, statistics.n, record, **more)
    return results


def singular(n: int, dim: int) -> str | None:
    """A warning if ``n`` images are too few for a covariance of ``dim`` features."""
    if n > dim:
        return None
    return f"{n} images give a singular covariance of {dim} features: the distance is biased upwards"


# --------------------------------------------------------------------- other scores


def _kernel_distances(subject: Subject, name: str, network: str) -> Results:
    """Kernel distances to the test images, of prior samples and of training images."""
    extractor = _EXTRACTORS[network](subject)
    n = subject.count(10_000)
    subsets = 100
    size = 1000
    test = subject.rows(extractor, "test", n)
    results = {}
    for key, of in ((name, "samples"), (f"{name}_training", "training")):
        rows = subject.rows(extractor, of, n)
        with seeded(subject.seed, "evaluate", key):
            mean, deviation = kernel_distance(rows, test, subsets, size)
        protocol = {
            **extractor.record,
            "images": AS_FILES,
            "kernel": "(x.y/d + 1)^3",
            "subsets": f"{subsets} of {min(size, len(rows), len(test))}",
        }
        if of == "samples":
            protocol |= subject.given
        results[key] = result(subject, mean, len(rows), protocol, standard_deviation=deviation)
    return results


def _inception_score(subject: Subject, name: str, network: str) -> Results:
    """The inception score of prior samples, from the logits of a network."""
    extractor = _EXTRACTORS[network](subject)
    assert extractor.logits is not None, "both networks classify"
    splits = 10
    features = subject.rows(extractor, "samples", subject.count(10_000))
    parts = []
    with torch.no_grad():
        for part in features.split(CHUNK):
            logits = extractor.logits(part.to(subject.device))
            parts.append(logits.cpu())
    probabilities = torch.cat(parts).softmax(1)
    mean, deviation = inception_score(probabilities, min(splits, len(features)))
    protocol = {**extractor.record, "images": AS_FILES, "splits": splits, **subject.given}
    return {name: result(subject, mean, len(features), protocol, standard_deviation=deviation)}


def _manifolds(subject: Subject, suffix: str, network: str) -> Results:
    """Precision, recall, density and coverage of prior samples against test images."""
    extractor = _EXTRACTORS[network](subject)
    n = subject.count(10_000, quick=5_000)
    real = subject.rows(extractor, "test", n)
    generated = subject.rows(extractor, "samples", n)
    precision, recall = precision_and_recall(real, generated, 3)
    density, coverage = density_and_coverage(real, generated, _NEIGHBOUR)
    values = {
        "precision": (precision, 3),
        "recall": (recall, 3),
        "density": (density, _NEIGHBOUR),
        "coverage": (coverage, _NEIGHBOUR),
    }
    results = {}
    for name, (value, k) in values.items():
        protocol = {
            **extractor.record,
            "images": AS_FILES,
            "reference": f"{len(real)} test images",
            "neighbour": k,
            **subject.given,
        }
        results[f"{name}{suffix}"] = result(subject, value, len(generated), protocol)
    return results


# --------------------------------------------------------------------- by name


_NEIGHBOUR = 5  # the furthest neighbour of precision, recall, density and coverage
_LEAST: dict[Callable[..., Results], int] = {
    frechet_distances: 2,
    _kernel_distances: 2,
    _inception_score: 1,
    _manifolds: _NEIGHBOUR + 1,
}
"""The fewest images that a score can be computed from."""


def _with_inception(compute: Callable[..., Results], **options: Any) -> Metric:
    computed = partial(compute, network="inception", **options)
    return Metric(computed, needs=(enough_images(_LEAST[compute]),), network="inception", hours=True)


def _with_classifier(
    compute: Callable[..., Results],
    need: Requirement = labels_or_attributes,
    **options: Any,
) -> Metric:
    computed = partial(compute, network="classifier", **options)
    return Metric(computed, needs=(need, enough_images(_LEAST[compute])))


METRICS = {
    "fid": _with_inception(frechet_distances, name="fid", protocol=_CLEAN),
    "fid_dai_wipf": _with_inception(frechet_distances, name="fid_dai_wipf", protocol=_DAI_WIPF),
    "fid_dai_wipf_jpeg": _with_inception(frechet_distances, name="fid_dai_wipf_jpeg", protocol=_JPEG),
    "fd_classifier": _with_classifier(frechet_distances, name="fd_classifier", protocol=_CLEAN),
    "kid": _with_inception(_kernel_distances, name="kid"),
    "kd_classifier": _with_classifier(_kernel_distances, name="kd_classifier"),
    "inception_score": _with_inception(_inception_score, name="inception_score"),
    "is_classifier": _with_classifier(_inception_score, labels, name="is_classifier"),
    "precision_recall": _with_inception(_manifolds, suffix=""),
    "precision_recall_classifier": _with_classifier(_manifolds, suffix="_classifier"),
}
