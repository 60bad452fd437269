"""Tests of two samples of codes: equal distributions, copied points, moments of a normal distribution."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_lrp.core.randomness import derive_seed
from pyro_lrp.metrics.functional.blocks import distance_blocks
from pyro_lrp.metrics.functional.checks import check_pair, check_rows

__all__ = [
    "CLASSIFIER", "Copying", "Moments", "TwoSample", "classifier_two_sample_test", "copying", "energy_distance",
    "mean_distance", "moments",
]  # fmt: skip

CLASSIFIER = "the mean of an MLP of two layers of 256 and of gradient-boosted trees (scikit-learn)"

_ENTRIES = 4_000_000  # in a block of distances: 32 MB in float64, whatever the number of points


class TwoSample(NamedTuple):
    """Result of :func:`classifier_two_sample_test`.

    Attributes:
        accuracy: On held-out points; 0.5 is chance.
        interval: Wilson's 95 % confidence interval of the accuracy.
        p_value: Probability that a coin guesses as many points right, or more.
        n: Number of points of both samples together.
    """

    accuracy: float
    interval: tuple[float, float]
    p_value: float
    n: int


class Copying(NamedTuple):
    """Result of :func:`copying`.

    Attributes:
        probability: Probability that a generated point is nearer to its nearest training point than a test
            point is to its own. 0.5: as near as new points. 1: copies, or points that stay where training
            points are dense.
        z_score: In standard errors from 0.5, positive towards copies (the authors use the opposite sign).
        relative_probability: The same for the ratio of the distances to the nearest and the second nearest
            training point. The density does not enter it: only copies take it to 1.
        standard_error: Of either probability, if its true value is 0.5.
    """

    probability: float
    z_score: float
    relative_probability: float
    standard_error: float


class Moments(NamedTuple):
    """Result of :func:`moments`; the values under N(0, I) are to first order in the number n of points.

    Attributes:
        mean_norm: Length of the mean; about sqrt(d / n) under N(0, I).
        square: Mean of |z|^2 / d; 1 under N(0, I).
        square_spread: Standard deviation of |z|^2 over sqrt(2 d); 1 under N(0, I), more with heavy tails, less
            if all points lie on one shell.
        correlation: Largest absolute correlation of two dimensions; usually below 2 sqrt(log(d) / n) under
            N(0, I).
    """

    mean_norm: float
    square: float
    square_spread: float
    correlation: float


def classifier_two_sample_test(a: Tensor, b: Tensor, seed: int = 0) -> TwoSample:
    """Accuracy with which a classifier, trained on half of each sample, separates the other halves.

    The classifier is :data:`CLASSIFIER`: the network finds differences that many dimensions share, the trees
    those of few. It takes some seconds for twice 5,000 points of 16 to 64 dimensions. The p-value is binomial,
    the interval Wilson's (1927).

    Args:
        a: Shape ``(n, d)``. Each dimension is standardised by both samples together.
        b: Shape ``(m, d)``. Only min(n, m) points of each sample are taken, at random.
        seed: Seed of the halves and of the classifier.

    Raises:
        ValueError: If either sample has fewer than 20 points, their lengths differ, or a point is not finite.

    References:
        Lopez-Paz and Oquab (2017), Revisiting Classifier Two-Sample Tests.

    >>> generator = torch.Generator().manual_seed(0)
    >>> a, b = torch.randn(2, 200, 3, generator=generator)
    >>> classifier_two_sample_test(a, b + 4.0).accuracy > 0.95
    True
    """
    from scipy.stats import binomtest

    check_pair(a, b, "points", least=20)
    half = min(len(a), len(b)) // 2
    generator = torch.Generator().manual_seed(derive_seed(seed, "classifier_two_sample_test"))
    samples = []
    for x in (a, b):
        rows = torch.randperm(len(x), generator=generator)[: 2 * half]
        samples.append(x[rows].cpu().double())
    both = torch.cat(samples)
    scale = both.std(0)
    both = (both - both.mean(0)) / torch.where(scale > 0, scale, 1.0)
    points = both.numpy()
    position = torch.arange(4 * half)
    held_out = (position % (2 * half) >= half).numpy()
    of_b = (position >= 2 * half).numpy()
    classifier = _classifier(derive_seed(seed, "classifier") % 2**32)
    classifier.fit(points[~held_out], of_b[~held_out])
    predicted = classifier.predict(points[held_out])
    correct = int((predicted == of_b[held_out]).sum())
    test = binomtest(correct, 2 * half, 0.5, alternative="greater")
    two_sided = binomtest(correct, 2 * half)
    interval = two_sided.proportion_ci(0.95, method="wilson")
    return TwoSample(
        accuracy=correct / (2 * half),
        interval=(float(interval.low), float(interval.high)),
        p_value=float(test.pvalue),
        n=4 * half,
    )


def mean_distance(x: Tensor) -> float:
    """The mean distance of two different points of a sample, shape ``(n, d)``, n at least 2.

    >>> mean_distance(torch.tensor([[0.0], [1.0], [5.0]]))
    3.3333333333333335
    """
    n = len(x)
    total = sum(block.sum().item() for block in _distances(x, x))
    return total / (n * (n - 1))


def energy_distance(a: Tensor, b: Tensor, within_b: float | None = None) -> float:
    r"""The energy distance of two samples, :math:`2 E|X-Y| - E|X-X'| - E|Y-Y'|`, without bias.

    The means are over pairs of different points (a U-statistic). The expectation is 0 for samples of one
    distribution, whatever their sizes, so a value may be slightly negative.

    Args:
        a: Shape ``(n, d)``, at least 2 points.
        b: Shape ``(m, d)``, at least 2 points.
        within_b: The :func:`mean_distance` of ``b``, if it is known.

    Raises:
        ValueError: If there are fewer points, their lengths differ, or a point is not finite.

    References:
        Szekely and Rizzo (2013), Energy statistics: a class of statistics based on distances.

    >>> energy_distance(torch.tensor([[0.0], [1.0]]), torch.tensor([[3.0], [5.0]]))
    4.0
    """
    check_pair(a, b, "points", least=2)
    if within_b is None:
        within_b = mean_distance(b)
    total = sum(block.sum().item() for block in _distances(a, b))
    between = 2 * total / (len(a) * len(b))
    return between - mean_distance(a) - within_b


def copying(generated: Tensor, test: Tensor, train: Tensor) -> Copying:
    """Whether generated points lie nearer to the training points than new points of their distribution do.

    This is Mann and Whitney's test on the distances of generated and of test points to the nearest training
    point. The points of a distribution that is only narrower than the data's lie nearer to training points too;
    the ratio of the distances to the nearest and the second nearest separates it from one that copies.

    Args:
        generated: Shape ``(n, d)``.
        test: Shape ``(m, d)``.
        train: Shape ``(k, d)``, at least 2 points.

    Raises:
        ValueError: If there are fewer points, their lengths differ, or a point is not finite.

    References:
        Meehan, Chaudhuri and Dasgupta (2020), A Non-Parametric Test to Detect Data-Copying in Generative Models
        (here with one cell); Lowe (2004), Distinctive image features from scale-invariant keypoints, for the
        ratio.

    >>> points = torch.randn(100, 4, generator=torch.Generator().manual_seed(0))
    >>> copying(points[:20], points[20:40], torch.cat([points[:20], points[40:]])).probability
    1.0
    """
    from scipy.stats import mannwhitneyu

    check_pair(generated, test, "points")
    check_pair(test, train, "points")
    if len(train) < 2:
        raise ValueError("expected at least 2 training points, got 1")
    pairs = len(generated) * len(test)
    error = ((len(generated) + len(test) + 1) / (12 * pairs)) ** 0.5
    near_test = _nearest(test, train)
    near_generated = _nearest(generated, train)

    def probability(measure: Callable[[Tensor], Tensor]) -> float:
        ranks = mannwhitneyu(measure(near_test).numpy(), measure(near_generated).numpy())
        return float(ranks.statistic / pairs)

    absolute = probability(lambda near: near[:, 0])
    relative = probability(lambda near: near[:, 0] / near[:, 1].clamp_min(1e-300))
    return Copying(absolute, (absolute - 0.5) / error, relative, error)


def moments(z: Tensor) -> Moments:
    """Four numbers whose values are known for N(0, I).

    Args:
        z: Shape ``(n, d)``, at least 2 points.

    Raises:
        ValueError: If there are fewer points, or one is not finite.

    >>> moments(torch.tensor([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]])).square
    2.5
    """
    check_rows(z, "points", least=2)
    z = z.detach().cpu().double()
    dim = z.shape[1]
    squares = z.square().sum(1)
    return Moments(
        mean_norm=z.mean(0).norm().item(),
        square=squares.mean().item() / dim,
        square_spread=squares.std().item() / (2 * dim) ** 0.5,
        correlation=_largest_correlation(z),
    )


def _largest_correlation(z: Tensor) -> float:
    """The largest absolute correlation of two dimensions; 0 for a dimension that does not vary."""
    dim = z.shape[1]
    if dim == 1:
        return 0.0
    correlations = torch.nan_to_num(z.T.corrcoef())
    diagonal = torch.eye(dim, dtype=torch.bool)
    return correlations.masked_fill(diagonal, 0.0).abs().max().item()


def _distances(x: Tensor, y: Tensor) -> Iterator[Tensor]:
    """Distances of all rows of ``x`` to all rows of ``y``, on the CPU, in blocks of limited size."""
    batch_size = max(1, _ENTRIES // len(y))
    return distance_blocks(x.detach().cpu(), y.detach().cpu(), batch_size, centred=True)


def _nearest(x: Tensor, to: Tensor) -> Tensor:
    """Distances to the nearest and the second nearest row of ``to``, shape ``(n, 2)``."""
    blocks = _distances(x, to)
    return torch.cat([block.topk(2, largest=False).values for block in blocks])


def _classifier(seed: int) -> Any:
    from sklearn.ensemble import HistGradientBoostingClassifier, VotingClassifier
    from sklearn.neural_network import MLPClassifier

    network = MLPClassifier(
        (256, 256),
        alpha=1.0,
        early_stopping=True,
        max_iter=100,
        random_state=seed,
    )
    trees = HistGradientBoostingClassifier(early_stopping=True, random_state=seed)
    members = [("network", network), ("trees", trees)]
    return VotingClassifier(members, voting="soft")
