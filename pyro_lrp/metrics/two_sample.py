"""Two samples of codes: are they of one distribution, and does one copy? Tensors in, numbers out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_lrp.core.randomness import derive_seed

__all__ = [
    "CLASSIFIER", "Copying", "Moments", "TwoSample", "classifier_two_sample_test", "copying", "energy_distance",
    "moments",
]  # fmt: skip

CLASSIFIER = "the mean of an MLP of two layers of 256 and of gradient-boosted trees (scikit-learn)"

_ENTRIES = 4_000_000  # of a block of distances, in float64: 32 MB, however many points there are


class TwoSample(NamedTuple):
    """Result of :func:`classifier_two_sample_test`.

    Attributes:
        accuracy: On held-out points; 0.5 is chance.
        interval: Wilson's 95 % confidence interval of it.
        p_value: Chance that a coin guesses as many of them right, or more.
        n: Points that it is from, of both samples.
    """

    accuracy: float
    interval: tuple[float, float]
    p_value: float
    n: int


class Copying(NamedTuple):
    """Result of :func:`copying`.

    Attributes:
        probability: That a generated point is nearer to its nearest training point than a test point is to its
            own. 0.5: as near as if new; 1: copies, or points that keep to where training points are dense.
        z_score: In standard errors from 0.5, positive towards copies (the authors' sign is the opposite one).
        relative_probability: The same of the distance to the nearest training point over that to the second
            nearest, which density does not enter: only copies take it to 1.
        standard_error: Of either probability, where the truth is 0.5.
    """

    probability: float
    z_score: float
    relative_probability: float
    standard_error: float


class Moments(NamedTuple):
    """Result of :func:`moments`; its values under N(0, I) are those of n points, to first order.

    Attributes:
        mean_norm: Length of the mean; about sqrt(d / n) under N(0, I).
        square: Mean of |z|^2 / d; 1 under N(0, I).
        square_spread: Standard deviation of |z|^2 over sqrt(2 d); 1 under N(0, I), more with heavy tails, less
            if all lie on one shell.
        correlation: Largest absolute correlation of two dimensions; below 2 sqrt(log(d) / n), as a rule, under
            N(0, I).
    """

    mean_norm: float
    square: float
    square_spread: float
    correlation: float


def classifier_two_sample_test(a: Tensor, b: Tensor, seed: int = 0) -> TwoSample:
    """How well a classifier that was trained on half of each of two samples tells the other halves apart.

    The classifier is :data:`CLASSIFIER`: the network finds differences that many dimensions share, the trees
    those of few. It needs some seconds for twice 5,000 points of 16 to 64 dimensions. The p-value is binomial,
    the interval Wilson's (1927).

    Args:
        a: Shape ``(n, d)``. Each dimension is standardised by both samples together.
        b: Shape ``(m, d)``. Only min(n, m) points of each are taken, at random.
        seed: Of the halves and of the classifier.

    Raises:
        ValueError: If there are fewer than 20 points of either, or their lengths differ.

    References:
        Lopez-Paz and Oquab (2017), Revisiting Classifier Two-Sample Tests.

    >>> generator = torch.Generator().manual_seed(0)
    >>> a, b = torch.randn(2, 200, 3, generator=generator)
    >>> classifier_two_sample_test(a, b + 4.0).accuracy > 0.95
    True
    """
    from scipy.stats import binomtest

    _check(a, b, least=20)
    half = min(len(a), len(b)) // 2
    generator = torch.Generator().manual_seed(derive_seed(seed, "classifier_two_sample_test"))
    a, b = (x[torch.randperm(len(x), generator=generator)[: 2 * half]].cpu().double() for x in (a, b))
    both = torch.cat([a, b])
    scale = both.std(0)
    both = (both - both.mean(0)) / torch.where(scale > 0, scale, 1.0)
    held_out = (torch.arange(len(both)) % (2 * half) >= half).numpy()
    points, of_b = both.numpy(), (torch.arange(len(both)) >= 2 * half).numpy()
    classifier = _classifier(derive_seed(seed, "classifier") % 2**32)
    classifier.fit(points[~held_out], of_b[~held_out])
    right = int((classifier.predict(points[held_out]) == of_b[held_out]).sum())
    test = binomtest(right, 2 * half, 0.5, alternative="greater")
    interval = binomtest(right, 2 * half).proportion_ci(0.95, method="wilson")
    low, high = float(interval.low), float(interval.high)
    return TwoSample(right / (2 * half), (low, high), float(test.pvalue), 4 * half)


def energy_distance(a: Tensor, b: Tensor) -> float:
    r"""The energy distance of two samples, :math:`2 E|X-Y| - E|X-X'| - E|Y-Y'|`, without bias.

    The means are over pairs of different points (a U-statistic): its expectation is 0 for samples of one
    distribution, whatever their sizes, so that it may be slightly negative. Distances are float64, in blocks.

    Args:
        a: Shape ``(n, d)``, at least 2 points.
        b: Shape ``(m, d)``, at least 2 points.

    Raises:
        ValueError: If there are fewer points, or their lengths differ.

    References:
        Szekely and Rizzo (2013), Energy statistics: a class of statistics based on distances.

    >>> energy_distance(torch.tensor([[0.0], [1.0]]), torch.tensor([[3.0], [5.0]]))
    4.0
    """
    _check(a, b, least=2)

    def total(x: Tensor, y: Tensor) -> float:
        return sum(block.sum().item() for block in _distances(x, y))

    n, m = len(a), len(b)
    return 2 * total(a, b) / (n * m) - total(a, a) / (n * (n - 1)) - total(b, b) / (m * (m - 1))


def copying(generated: Tensor, test: Tensor, train: Tensor) -> Copying:
    """Whether generated points keep nearer to the training points than new ones of their distribution do.

    Mann and Whitney's test, of distances to the nearest training point, of generated against test points. A
    distribution that is only narrower than the data's has points nearer to training points too; the ratio of
    the distances to the nearest and the second nearest tells it from one that copies.

    Args:
        generated: Shape ``(n, d)``.
        test: Shape ``(m, d)``.
        train: Shape ``(k, d)``, at least 2 points.

    Raises:
        ValueError: If there are none, or their lengths differ.

    References:
        Meehan, Chaudhuri and Dasgupta (2020), A Non-Parametric Test to Detect Data-Copying in Generative Models
        (here with one cell); Lowe (2004), Distinctive image features from scale-invariant keypoints, for the
        ratio.

    >>> points = torch.randn(100, 4, generator=torch.Generator().manual_seed(0))
    >>> copying(points[:20], points[20:40], torch.cat([points[:20], points[40:]])).probability
    1.0
    """
    from scipy.stats import mannwhitneyu

    _check(generated, train, least=1)
    _check(test, train, least=1)
    if len(train) < 2:
        raise ValueError("expected at least 2 training points, got 1")
    pairs = len(generated) * len(test)
    error = ((len(generated) + len(test) + 1) / (12 * pairs)) ** 0.5

    def nearer(judge: Callable[[Tensor], Tensor]) -> float:
        of_test, of_generated = (judge(_nearest(x, train)).numpy() for x in (test, generated))
        return float(mannwhitneyu(of_test, of_generated).statistic / pairs)

    probability = nearer(lambda distances: distances[:, 0])
    relative = nearer(lambda distances: distances[:, 0] / distances[:, 1].clamp_min(1e-300))
    return Copying(probability, (probability - 0.5) / error, relative, error)


def moments(z: Tensor) -> Moments:
    """Four numbers that are known of N(0, I).

    Args:
        z: Shape ``(n, d)``, at least 2 points.

    >>> moments(torch.tensor([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]])).square
    2.5
    """
    z = z.detach().cpu().double()
    dim = z.shape[1]
    squares = z.square().sum(1)
    largest = 0.0
    if dim > 1:
        others = torch.nan_to_num(z.T.corrcoef()) - torch.eye(dim)  # 0 for a dimension that does not vary
        largest = others.masked_fill(torch.eye(dim, dtype=torch.bool), 0.0).abs().max().item()
    return Moments(
        z.mean(0).norm().item(), squares.mean().item() / dim, squares.std().item() / (2 * dim) ** 0.5, largest
    )


def _check(a: Tensor, b: Tensor, least: int) -> None:
    if a.dim() != 2 or b.dim() != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < least:
        shapes = f"{tuple(a.shape)} and {tuple(b.shape)}"
        raise ValueError(f"expected two samples (n, d) of at least {least} points, got {shapes}")


def _distances(x: Tensor, y: Tensor) -> Iterator[Tensor]:
    """Euclidean distances of all rows of ``x`` to all of ``y``, some rows of ``x`` at a time."""
    x, y = x.detach().cpu().double(), y.detach().cpu().double()
    centre = y.mean(0)  # cdist expands squares: far from the origin they would cancel
    for rows in x.split(max(1, _ENTRIES // len(y))):
        yield torch.cdist(rows - centre, y - centre)


def _nearest(x: Tensor, to: Tensor) -> Tensor:
    """Distances to the nearest and second nearest of ``to``, shape ``(n, 2)``."""
    return torch.cat([block.topk(2, largest=False).values for block in _distances(x, to)])


def _classifier(seed: int) -> Any:
    from sklearn.ensemble import HistGradientBoostingClassifier, VotingClassifier
    from sklearn.neural_network import MLPClassifier

    network = MLPClassifier((256, 256), alpha=1.0, early_stopping=True, max_iter=100, random_state=seed)
    trees = HistGradientBoostingClassifier(early_stopping=True, random_state=seed)
    return VotingClassifier([("network", network), ("trees", trees)], voting="soft")
