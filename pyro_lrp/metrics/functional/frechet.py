"""The Fréchet distance between two Gaussians, the statistics that it compares, and its standard error."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from pyro_lrp.metrics.functional.checks import check_finite, check_rows

__all__ = ["FeatureStatistics", "frechet_distance", "frechet_error"]


def frechet_distance(mean1: Tensor, cov1: Tensor, mean2: Tensor, cov2: Tensor) -> float:
    r"""The squared Fréchet (2-Wasserstein) distance between two normal distributions.

    .. math:: |m_1 - m_2|^2 + \mathrm{Tr}\,(C_1 + C_2 - 2 (C_1 C_2)^{1/2})

    The trace of the root is the sum of the square roots of the eigenvalues of
    :math:`C_1^{1/2} C_2 C_1^{1/2}`, which is symmetric. In float64 this is exact for singular covariances too,
    without an iterative matrix root.

    Args:
        mean1: Shape ``(d,)``; a tensor or an array.
        cov1: Shape ``(d, d)``, symmetric positive semi-definite.
        mean2: As ``mean1``.
        cov2: As ``cov1``.

    Returns:
        The distance, at least 0.

    Raises:
        ValueError: If the sizes differ, or a number is not finite.

    References:
        Dowson and Landau (1982); Heusel et al. (2017), for its use on features.

    >>> eye, zero = torch.eye(3), torch.zeros(3)
    >>> frechet_distance(zero, eye, torch.ones(3), eye)
    3.0
    """
    arguments = [torch.as_tensor(t).detach().cpu().double() for t in (mean1, cov1, mean2, cov2)]
    mean1, cov1, mean2, cov2 = arguments
    square = (len(mean1), len(mean1))
    if not (mean1.shape == mean2.shape and cov1.shape == cov2.shape == square):
        raise ValueError(f"expected equal sizes, got {[tuple(t.shape) for t in arguments]}")
    for argument in arguments:
        check_finite(argument, "means and covariances")
    values, vectors = torch.linalg.eigh(cov1)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    eigenvalues = torch.linalg.eigvalsh(root @ cov2 @ root)
    trace = eigenvalues.clamp(min=0).sqrt().sum()
    shift = (mean1 - mean2).square().sum()
    distance = shift + cov1.trace() + cov2.trace() - 2 * trace
    # rounding can take the difference of nearly equal traces below 0
    return max(0.0, distance.item())


class FeatureStatistics:
    """Mean and covariance of features that come in batches; sums are float64.

    >>> statistics = FeatureStatistics()
    >>> statistics.update(torch.tensor([[0.0], [1.0], [2.0]]))
    >>> statistics.mean.item(), statistics.covariance.item()
    (1.0, 1.0)
    """

    def __init__(self) -> None:
        self.n = 0
        self._sum: Tensor | None = None
        self._outer: Tensor | None = None

    def update(self, features: Tensor) -> None:
        """Add a batch.

        Args:
            features: Shape ``(B, d)``; an empty batch adds nothing.

        Raises:
            ValueError: If they are not finite, or have another length than those before.
        """
        features = features.detach().cpu().double()
        check_rows(features, "features", least=0)
        if not len(features):
            return
        if self._sum is None or self._outer is None:
            # subtracted throughout: no cancellation when means are large
            self._shift = features.mean(0)
            dim = len(self._shift)
            self._sum = torch.zeros_like(self._shift)
            self._outer = torch.zeros(dim, dim, dtype=torch.float64)
        dim = len(self._shift)
        if features.shape[1] != dim:
            raise ValueError(f"expected features of length {dim}, as before, got {tuple(features.shape)}")
        centred = features - self._shift
        self.n += len(features)
        self._sum += centred.sum(0)
        self._outer += centred.T @ centred

    @classmethod
    def of(cls, parts: Iterable[Tensor]) -> FeatureStatistics:
        """The statistics of batches of features, each ``(B, d)``."""
        statistics = cls()
        for part in parts:
            statistics.update(part)
        return statistics

    @property
    def mean(self) -> Tensor:
        """The mean, shape ``(d,)``."""
        if self._sum is None:
            raise ValueError("no features were added yet")
        return self._shift + self._sum / self.n

    @property
    def covariance(self) -> Tensor:
        """The covariance with the divisor n - 1, shape ``(d, d)``; it needs at least two features."""
        if self._sum is None or self._outer is None or self.n < 2:
            raise ValueError(f"a covariance needs at least 2 features, got {self.n}")
        centre = self._sum / self.n
        return (self._outer - self.n * torch.outer(centre, centre)) / (self.n - 1)

    def distance(self, other: FeatureStatistics) -> float:
        """The Fréchet distance to other statistics."""
        return frechet_distance(self.mean, self.covariance, other.mean, other.covariance)

    def state(self) -> dict[str, Any]:
        """The sums, for a file."""
        if self._sum is None or self._outer is None:
            raise ValueError("no features were added yet")
        return {
            "n": self.n,
            "shift": self._shift,
            "sum": self._sum,
            "outer": self._outer,
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> FeatureStatistics:
        """The statistics that :meth:`state` was called on."""
        statistics = cls()
        statistics.n = state["n"]
        statistics._shift = state["shift"]
        statistics._sum = state["sum"]
        statistics._outer = state["outer"]
        return statistics


def frechet_error(features: Tensor, reference: FeatureStatistics, groups: int = 10) -> float:
    """Standard error of the Fréchet distance of features to a fixed reference, by the grouped jackknife.

    Args:
        features: Shape ``(n, d)``, in random order, at least two for each group.
        reference: Statistics whose own sampling error is not counted: all sets share it.
        groups: How many groups, at least 2; each is left out once.

    Raises:
        ValueError: If there are fewer features or groups.

    References:
        Efron and Tibshirani (1993), An Introduction to the Bootstrap, section 11.5.
    """
    if groups < 2:
        raise ValueError(f"expected at least 2 groups, got {groups}")
    check_rows(features, "features", least=2 * groups)
    group = torch.arange(len(features)) % groups
    distances = []
    for left_out in range(groups):
        kept = FeatureStatistics.of([features[group != left_out]])
        distances.append(kept.distance(reference))
    values = torch.tensor(distances, dtype=torch.float64)
    return values.var(correction=0).mul(groups - 1).sqrt().item()
