"""A learned prior as an estimator of scikit-learn: a density, a sampler, and an outlier detector."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, DensityMixin, OutlierMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from pyro_lrp.fitting import fit_one
from pyro_lrp.fitting.result import SCORES

__all__ = ["LearnedPrior"]


class LearnedPrior(OutlierMixin, DensityMixin, BaseEstimator):
    """The density of vectors, by any prior of this library.

    As a density estimator it has ``score_samples``, log p(x), and ``sample``. As an outlier detector it has
    ``decision_function``, which is negative, and ``predict``, which is -1, for the share ``contamination`` of
    the training vectors that are most outlying, and for all that are more so. Smaller values of
    ``decision_function`` are more outlying, as everywhere in scikit-learn (in pyod it is larger ones).

    Args:
        prior: A prior of ``conf/prior``, or a list as it would be typed, such as
            ``["prior=mixture", "prior.components=50"]``.
        components: Of a mixture; None for one per 50 vectors, at most 100. Other priors have none.
        seconds: For learning by gradients, in seconds.
        contamination: Share of outliers among the training vectors, above 0, at most 0.5.
        outlier_score: What ``decision_function`` and ``predict`` go by. ``"prior"``: vectors are outlying if
            log p(x) is small. ``"typicality"``: if log p(x) is far from its mean over the training vectors, on
            either side (Nalisnick et al., 2019). ``score_samples`` is log p(x) with both.
        random_state: Seed of the fit; of ``sample`` too, if it is a number.

    Attributes:
        fitted_: The :class:`~pyro_lrp.fitting.Fitted` prior.
        offset_: What separates outliers from the rest: ``decision_function`` is log p(x) - ``offset_``, or with
            ``"typicality"`` minus the distance of log p(x) from its mean, - ``offset_``.
        n_features_in_: Length of a vector.

    >>> from sklearn.datasets import load_iris
    >>> x = load_iris().data
    >>> LearnedPrior(components=2, random_state=0).fit(x).sample(5).shape
    (5, 4)
    """

    def __init__(
        self,
        prior: str | Sequence[str] = "mixture",
        *,
        components: int | None = None,
        seconds: float = 30.0,
        contamination: float = 0.1,
        outlier_score: str = "prior",
        random_state: Any = None,
    ) -> None:
        self.prior = prior
        self.components = components
        self.seconds = seconds
        self.contamination = contamination
        self.outlier_score = outlier_score
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> LearnedPrior:  # noqa: N803
        """Fit the prior to the rows of X; ``y`` is ignored."""
        x = validate_data(self, X, dtype=[np.float64, np.float32], ensure_min_samples=2)
        if not 0 < self.contamination <= 0.5:
            raise ValueError(f"contamination must be above 0 and at most 0.5, got {self.contamination}")
        if self.outlier_score not in SCORES:
            known = " or ".join(SCORES)
            raise ValueError(f"outlier_score must be {known}, got {self.outlier_score!r}")
        seed = check_random_state(self.random_state).randint(2**31 - 1)
        codes = _tensor(x)
        context = codes[:, :0]
        self.fitted_ = fit_one(codes, self._name(len(x)), self.seconds, context=context, seed=seed)
        self.offset_ = np.quantile(self._inlying(x), self.contamination)
        return self

    def _name(self, n: int) -> list[str]:
        """The prior as it would be typed."""
        name = [f"prior={self.prior}"] if isinstance(self.prior, str) else [*self.prior]
        if name == ["prior=mixture"]:
            components = self.components or max(1, min(100, n // 50))
            name.append(f"prior.components={components}")
        return name

    def score_samples(self, X: Any) -> np.ndarray:  # noqa: N803
        """log p(x) of each row, in nats."""  # noqa: D403
        return self.fitted_.log_prob(_tensor(self._checked(X))).double().numpy()

    def _checked(self, x: Any) -> np.ndarray:
        """Vectors to score, once the prior is fitted."""
        check_is_fitted(self)
        return validate_data(self, x, dtype=[np.float64, np.float32], reset=False)

    def _inlying(self, x: np.ndarray) -> np.ndarray:
        """The opposite of the outlier score."""
        return -self.fitted_.outlier_score(_tensor(x), score=self.outlier_score).double().numpy()

    def score(self, X: Any, y: Any = None) -> float:  # noqa: N803
        """The mean log density of the rows, in nats."""
        return float(self.score_samples(X).mean())

    def sample(self, n_samples: int = 1) -> np.ndarray:
        """Draw vectors, ``(n_samples, n_features_in_)``."""
        check_is_fitted(self)
        seed = check_random_state(self.random_state).randint(2**31 - 1)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.fitted_.sample(n_samples).numpy()

    def decision_function(self, X: Any) -> np.ndarray:  # noqa: N803
        """Minus the outlier score, above ``offset_``: negative for outliers."""
        return self._inlying(self._checked(X)) - self.offset_

    def predict(self, X: Any) -> np.ndarray:  # noqa: N803
        """-1 for outliers, 1 for the rest."""
        return np.where(self.decision_function(X) < 0, -1, 1)


def _tensor(x: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32))
