"""``interpolation_distance``: how good images between codes are, before any prior is trained.

A prior can only be as good as the space between the codes that it has to fill. The midpoints of nearest
neighbours among codes are decoded, and the images are compared with test images. Unlike the distance of decoded
codes themselves, it sees the holes of a space of codes; unlike the distance of samples, it needs no prior.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from pyro_lrp.latents.codes import encode_split
from pyro_lrp.metrics.classifiers import domain_extractor
from pyro_lrp.metrics.distances import singular
from pyro_lrp.metrics.functional.frechet import FeatureStatistics
from pyro_lrp.metrics.metric import Metric, enough_images, labels_or_attributes, result
from pyro_lrp.metrics.subject import DECODED, Results, Subject, as_files
from pyro_lrp.models import Codes

__all__ = ["METRICS", "interpolation_distance", "nearest_neighbours"]

_ROWS = 1000  # of a table of distances that is held at once


def interpolation_distance(subject: Subject) -> Results:
    """The Fréchet distance, to test images, of decoded midpoints between nearest neighbours among codes.

    Codes are posterior means of training images, 10,000 by default (quick: 5,000). Beside it stands the
    distance of the same codes, decoded: the floor.

    References:
        Xu et al. (2026), who choose autoencoders for latent diffusion by interpolations of neighbours.
    """
    n = subject.count(10_000, quick=5_000)
    extractor = domain_extractor(subject)
    reference = subject.statistics(extractor, "test", n)
    split = subject.on_device(subject.some(subject.train, n, "training"))
    with torch.no_grad():
        codes = encode_split(subject.autoencoder, split)
        assert isinstance(codes, Codes), "required below"
        neighbours = nearest_neighbours(codes.loc.flatten(1))
        midpoints = 0.5 * (codes.loc + codes.loc[neighbours])
        sets = {"interpolation_distance": midpoints, "interpolation_distance_codes": codes.loc}
        results = {}
        for name, z in sets.items():
            features = (extractor.features(as_files(x)).cpu() for x in _decoded(subject, z, codes.context))
            statistics = FeatureStatistics.of(features)
            protocol: dict[str, Any] = {
                **extractor.record,
                "images": DECODED,
                "codes": "posterior means of training images",
                "pairs": "midpoints of nearest neighbours in the latent space, each code with its own",
                "reference": f"{reference.n} test images of {subject.data.name}",
            }
            if name == "interpolation_distance_codes":
                protocol["pairs"] = "none: the codes themselves"
            more = {}
            warning = singular(min(statistics.n, reference.n), extractor.dim)
            if warning:
                more["warning"] = warning
            results[name] = result(subject, statistics.distance(reference), statistics.n, protocol, **more)
    return results


def nearest_neighbours(points: Tensor) -> Tensor:
    """The index of the nearest other point of each point, shape ``(N,)``; of several, the first.

    Args:
        points: Shape ``(N, d)``, at least two.

    >>> nearest_neighbours(torch.tensor([[0.0], [1.0], [5.0]])).tolist()
    [1, 0, 1]
    """
    nearest = []
    for start in range(0, len(points), _ROWS):
        rows = points[start : start + _ROWS]
        distances = torch.cdist(rows, points)
        own = torch.arange(start, start + len(rows), device=points.device)
        distances.scatter_(1, own[:, None], torch.inf)
        nearest.append(distances.argmin(1))
    return torch.cat(nearest)


def _decoded(subject: Subject, z: Tensor, context: Tensor) -> Iterator[Tensor]:
    """Mean images of codes, in chunks."""
    size = subject.batch_size
    parts = zip(z.split(size), context.split(size), strict=True)
    for codes, contexts in subject.steps(parts, len(z), size=lambda part: len(part[0])):
        yield subject.autoencoder.decode(codes, contexts)


def _stored_codes(subject: Subject) -> str | None:
    """The codes of an image do not depend on a draw."""
    one = subject.on_device(subject.data.test[:2])
    with torch.no_grad():
        codes = subject.autoencoder.codes(one)
    if not isinstance(codes, Codes):
        return "needs one latent, and this model has several"
    return None


METRICS = {
    "interpolation_distance": Metric(
        interpolation_distance, needs=(labels_or_attributes, enough_images(2), _stored_codes)
    )
}
