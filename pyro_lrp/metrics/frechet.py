"""The Fréchet distance between two Gaussians, and the statistics that it compares."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

__all__ = ["FeatureStatistics", "frechet_distance"]


def frechet_distance(mean1: Tensor, cov1: Tensor, mean2: Tensor, cov2: Tensor) -> float:
    r"""The squared Fréchet (2-Wasserstein) distance of two normal distributions.

    .. math:: |m_1 - m_2|^2 + \mathrm{Tr}\,(C_1 + C_2 - 2 (C_1 C_2)^{1/2})

    The root's trace is the sum of the square roots of the eigenvalues of :math:`C_1^{1/2} C_2 C_1^{1/2}`, which
    is symmetric: exact in float64 for singular covariances too, without an iterative matrix root.

    Args:
        mean1: Shape ``(d,)``; a tensor or an array.
        cov1: Shape ``(d, d)``, symmetric positive semi-definite.
        mean2: As ``mean1``.
        cov2: As ``cov1``.

    References:
        Dowson and Landau (1982); Heusel et al. (2017), for its use on features.

    >>> eye, zero = torch.eye(3), torch.zeros(3)
    >>> frechet_distance(zero, eye, torch.ones(3), eye)
    3.0
    """
    mean1, cov1, mean2, cov2 = (torch.as_tensor(t).detach().cpu().double() for t in (mean1, cov1, mean2, cov2))
    if not (mean1.shape == mean2.shape and cov1.shape == cov2.shape == (len(mean1), len(mean1))):
        raise ValueError(f"expected equal sizes, got {[tuple(t.shape) for t in (mean1, cov1, mean2, cov2)]}")
    values, vectors = torch.linalg.eigh(cov1)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    trace = torch.linalg.eigvalsh(root @ cov2 @ root).clamp(min=0).sqrt().sum()
    distance = (mean1 - mean2).square().sum() + cov1.trace() + cov2.trace() - 2 * trace
    return distance.item()


class FeatureStatistics:
    """Mean and covariance of features that come in batches; sums are kept in float64.

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
        """Add a batch, shape ``(B, d)``; a ValueError if it is not finite."""
        features = features.detach().cpu().double()
        if not torch.isfinite(features).all():
            raise ValueError("features are not finite: are there NaN images?")
        if self._sum is None or self._outer is None:
            self._shift = features.mean(0)  # subtracted throughout: no cancellation when means are large
            self._sum = torch.zeros_like(self._shift)
            self._outer = torch.zeros(len(self._shift), len(self._shift), dtype=torch.float64)
        centred = features - self._shift
        self.n += len(features)
        self._sum += centred.sum(0)
        self._outer += centred.T @ centred

    @classmethod
    def of(cls, parts: Iterable[Tensor]) -> FeatureStatistics:
        """Of features that come in batches."""
        statistics = cls()
        for part in parts:
            statistics.update(part)
        return statistics

    @property
    def mean(self) -> Tensor:
        """Shape ``(d,)``."""
        if self._sum is None:
            raise ValueError("no features were added yet")
        return self._shift + self._sum / self.n

    @property
    def covariance(self) -> Tensor:
        """With the divisor n - 1, shape ``(d, d)``; needs two features at least."""
        if self._sum is None or self._outer is None or self.n < 2:
            raise ValueError(f"a covariance needs at least 2 features, got {self.n}")
        centre = self._sum / self.n
        return (self._outer - self.n * torch.outer(centre, centre)) / (self.n - 1)

    def distance(self, other: FeatureStatistics) -> float:
        """The Fréchet distance to other statistics."""
        return frechet_distance(self.mean, self.covariance, other.mean, other.covariance)

    def state(self) -> dict[str, Any]:
        """All that it holds, for a file."""
        if self._sum is None or self._outer is None:
            raise ValueError("no features were added yet")
        return {"n": self.n, "shift": self._shift, "sum": self._sum, "outer": self._outer}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> FeatureStatistics:
        """What :meth:`state` gave."""
        statistics = cls()
        statistics.n, statistics._shift = state["n"], state["shift"]
        statistics._sum, statistics._outer = state["sum"], state["outer"]
        return statistics
