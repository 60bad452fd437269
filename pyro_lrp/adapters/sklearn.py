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

__all__ = ["LearnedPrior"]


class LearnedPrior(OutlierMixin, DensityMixin, BaseEstimator):
    """The density of vectors, by any prior of this library.

    As a density estimator it has ``score_samples``, log p(x), and ``sample``. As an outlier detector it has
    ``decision_function``, which is negative, and ``predict``, which is -1, for the share ``contamination`` of
    the training vectors that are least likely, and for all that are less likely than these.

    With ``context`` some columns are given: the density is p(the other columns | these), and outliers are
    vectors that are unlikely given their context.

    Args:
        prior: A prior of ``conf/prior``, or a list as it would be typed, such as
            ``["prior=mixture", "prior.components=50"]``. With a ``context`` it must take one: for
            an even number of other columns ``"conditional_flow"``; for any number and k columns of context
            ``["prior=zuko", "prior.flow.context=k", "+prior.context_dim=k"]`` (extra ``zuko``).
        context: The columns of X that the density of the others is conditional on: indices, a slice, or names
            if X is a data frame; None for no context. A prior takes their values as they are, so scale them.
        components: Of a mixture; None for one per 50 vectors, at most 100. Other priors have none.
        seconds: For learning by gradients, in seconds.
        contamination: Share of outliers among the training vectors, above 0, at most 0.5.
        random_state: Seed of the fit; of ``sample`` too, if it is a number.

    Attributes:
        fitted_: The :class:`~pyro_lrp.fitting.Fitted` prior.
        offset_: The log density that separates outliers from the rest.
        given_: Which columns are the context, ``(n_features_in_,)`` of booleans.
        n_features_in_: Length of a vector, the context included.

    >>> from sklearn.datasets import load_iris
    >>> x = load_iris().data
    >>> LearnedPrior(components=2, random_state=0).fit(x).sample(5).shape
    (5, 4)
    """

    def __init__(
        self,
        prior: str | Sequence[str] = "mixture",
        *,
        context: int | str | slice | Sequence[int] | Sequence[str] | None = None,
        components: int | None = None,
        seconds: float = 30.0,
        contamination: float = 0.1,
        random_state: Any = None,
    ) -> None:
        self.prior = prior
        self.context = context
        self.components = components
        self.seconds = seconds
        self.contamination = contamination
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> LearnedPrior:  # noqa: N803
        """Fit the prior to the rows of X; ``y`` is ignored."""
        x = validate_data(self, X, dtype=[np.float64, np.float32], ensure_min_samples=2)
        if not 0 < self.contamination <= 0.5:
            raise ValueError(f"contamination must be above 0 and at most 0.5, got {self.contamination}")
        seed = check_random_state(self.random_state).randint(2**31 - 1)
        self.given_ = self._given()
        codes, context = self._split(x)
        self.fitted_ = fit_one(codes, self._name(len(x)), self.seconds, context=context, seed=seed)
        self.offset_ = np.quantile(self._scores(x), self.contamination)
        return self

    def _given(self) -> np.ndarray:
        """Which columns are the context."""
        given = np.zeros(self.n_features_in_, dtype=bool)
        columns = self.context
        if columns is None:
            return given
        if not isinstance(columns, slice):
            index = {name: i for i, name in enumerate(getattr(self, "feature_names_in_", ()))}
            columns = [index.get(column, column) for column in np.atleast_1d(columns).tolist()]
        try:
            given[columns] = True
        except IndexError as error:
            raise ValueError(f"context: X has no such columns: {self.context!r}") from error
        if given.all() or not given.any():
            raise ValueError(
                f"context: {self.context!r} are {given.sum()} of {len(given)} columns; expected one at least, "
                "and one that is left"
            )
        return given

    def _split(self, x: np.ndarray) -> tuple[Tensor, Tensor]:
        """The columns whose density is learned, and the context."""
        tensor = torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32))
        return tensor[:, ~self.given_], tensor[:, self.given_]

    def _name(self, n: int) -> list[str]:
        """The prior as it would be typed."""
        name = [f"prior={self.prior}"] if isinstance(self.prior, str) else [*self.prior]
        if name == ["prior=mixture"]:
            components = self.components or max(1, min(100, n // 50))
            name.append(f"prior.components={components}")
        return name

    def score_samples(self, X: Any) -> np.ndarray:  # noqa: N803
        """log p(x) of each row, in nats."""  # noqa: D403
        check_is_fitted(self)
        return self._scores(validate_data(self, X, dtype=[np.float64, np.float32], reset=False))

    def _scores(self, x: np.ndarray) -> np.ndarray:
        codes, context = self._split(x)
        return self.fitted_.log_prob(codes, context).double().numpy()

    def score(self, X: Any, y: Any = None) -> float:  # noqa: N803
        """The mean log density of the rows, in nats."""
        return float(self.score_samples(X).mean())

    def sample(self, n_samples: int = 1, context: Any = ()) -> np.ndarray:
        """Draw vectors, ``(n_samples, n_features_in_)``.

        Args:
            n_samples: Their number.
            context: Values of the columns that are the context, in the order of X: ``(n_samples, k)``, or
                ``(k,)`` for all. The vectors have them in these columns.
        """
        check_is_fitted(self)
        x = np.empty((n_samples, self.n_features_in_), dtype=np.float32)
        try:
            x[:, self.given_] = context
        except ValueError as error:
            k = self.given_.sum()
            shape = np.shape(context)
            raise ValueError(
                f"context: expected values of {k} columns, ({n_samples}, {k}) or ({k},), got {shape}"
            ) from error
        seed = check_random_state(self.random_state).randint(2**31 - 1)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            x[:, ~self.given_] = self.fitted_.sample(n_samples, x[:, self.given_]).numpy()
        return x

    def decision_function(self, X: Any) -> np.ndarray:  # noqa: N803
        """log p(x) above the threshold of outliers; they are negative."""  # noqa: D403
        return self.score_samples(X) - self.offset_

    def predict(self, X: Any) -> np.ndarray:  # noqa: N803
        """-1 for outliers, 1 for the rest."""
        return np.where(self.decision_function(X) < 0, -1, 1)
