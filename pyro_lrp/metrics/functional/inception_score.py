"""Inception score: high if predictions are sure for each image and varied over all images."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_lrp.metrics.functional.checks import check_rows

__all__ = ["inception_score"]


def inception_score(probabilities: Tensor, splits: int = 10) -> tuple[float, float]:
    r"""Mean and standard deviation over splits of :math:`\exp E_x KL(p(y|x) \| p(y))`, between 1 and K.

    Args:
        probabilities: p(y|x) of each image, shape ``(N, K)``; rows sum to 1.
        splits: How many consecutive parts; each has its own p(y).

    Raises:
        ValueError: If there are fewer images than splits, or a row is no probabilities.

    References:
        Salimans et al. (2016), Improved Techniques for Training GANs, arXiv:1606.03498; and their code.

    >>> inception_score(torch.eye(4), splits=1)[0]
    4.0
    """
    check_rows(probabilities, "probabilities")
    sums = probabilities.double().sum(1)
    off = (sums - 1).abs().max().item()
    if off > 1e-3 or probabilities.min() < 0:
        raise ValueError(f"expected rows of probabilities, whose sum is 1, got a sum that is off by {off:.3g}")
    n = len(probabilities)
    if not 1 <= splits <= n:
        raise ValueError(f"expected 1 to {n} splits, as many as images, got {splits}")
    scores = []
    for p in probabilities.double().tensor_split(splits):
        marginal = p.mean(0)
        # xlogy: a class of probability 0 adds 0
        kl = (torch.xlogy(p, p) - torch.xlogy(p, marginal)).sum(1)
        scores.append(kl.mean().exp())
    values = torch.stack(scores)
    return values.mean().item(), values.std(correction=0).item()
