"""Inception score: predictions that are sure image by image and varied over all."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from pyro_lrp.metrics.extractors import EXTRACTORS
from pyro_lrp.metrics.metric import Metric, labels, result
from pyro_lrp.metrics.subject import Results, Subject

__all__ = ["METRICS", "inception_score"]


def inception_score(probabilities: Tensor, splits: int = 10) -> tuple[float, float]:
    r"""Mean and standard deviation over splits of :math:`\exp E_x KL(p(y|x) \| p(y))`, between 1 and K.

    Args:
        probabilities: p(y|x) of each image, shape ``(N, K)``, rows that sum to 1.
        splits: Consecutive parts, each with a p(y) of its own.

    Raises:
        ValueError: If there are fewer images than splits.

    References:
        Salimans et al. (2016), Improved Techniques for Training GANs, arXiv:1606.03498; and their code.

    >>> inception_score(torch.eye(4), splits=1)[0]
    4.0
    """
    if not 1 <= splits <= len(probabilities):
        raise ValueError(f"expected 1 to {len(probabilities)} splits, as many as images, got {splits}")
    scores = []
    for p in probabilities.double().tensor_split(splits):
        marginal = p.mean(0)
        # xlogy: a class of probability 0 adds 0
        kl = (torch.xlogy(p, p) - torch.xlogy(p, marginal)).sum(1)
        scores.append(kl.mean().exp())
    values = torch.stack(scores)
    return values.mean().item(), values.std(correction=0).item()


def _score(subject: Subject, name: str, network: str) -> Results:
    """Of prior samples, from the logits of a network."""
    extractor, n, splits = EXTRACTORS[network](subject), subject.count(10_000), 10
    assert extractor.logits is not None, "both networks classify"
    features = subject.rows(extractor, "samples", n)
    with torch.no_grad():
        parts = [extractor.logits(part.to(subject.device)).cpu() for part in features.split(500)]
    mean, deviation = inception_score(torch.cat(parts).softmax(1), min(splits, len(features)))
    protocol = {**extractor.record, "images": "clipped to [0, 1], rounded to uint8", "splits": splits}
    return {name: result(subject, mean, len(features), protocol, standard_deviation=deviation)}


METRICS = {
    "inception_score": Metric(
        partial(_score, name="inception_score", network="inception"), network="inception", hours=True
    ),
    "is_classifier": Metric(partial(_score, name="is_classifier", network="classifier"), needs=(labels,)),
}
