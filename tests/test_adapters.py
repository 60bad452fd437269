"""Learned priors in the interfaces of other libraries, held to these libraries' own checks."""

import numpy as np
import pytest
import torch
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from pyro_lrp.adapters.sklearn import LearnedPrior


@parametrize_with_checks([LearnedPrior(random_state=0)])
def test_scikit_learns_own_checks(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def rows():
    generator = np.random.default_rng(0)
    return np.concatenate([generator.normal(size=(300, 3)), generator.normal(5.0, 2.0, size=(300, 3))])


def test_a_mixture_scores_as_scikit_learns(rows):
    ours = LearnedPrior(components=1, random_state=0).fit(rows)
    theirs = GaussianMixture(1).fit(rows)
    np.testing.assert_allclose(ours.score_samples(rows), theirs.score_samples(rows), rtol=1e-2, atol=1e-2)
    assert ours.score(rows) == pytest.approx(theirs.score(rows), abs=1e-2)


def test_it_lives_in_pipelines_and_searches(rows):
    search = GridSearchCV(
        make_pipeline(StandardScaler(), LearnedPrior(random_state=0)),
        {"learnedprior__components": [1, 2]},
        cv=3,
    ).fit(np.random.default_rng(1).permutation(rows))
    assert search.best_params_ == {"learnedprior__components": 2}
    assert search.best_estimator_[-1].sample(7).shape == (7, 3)


def test_the_least_likely_are_outliers(rows):
    detector = LearnedPrior(contamination=0.05, random_state=0).fit(rows)
    labels = detector.predict(rows)
    assert (labels == -1).mean() == pytest.approx(0.05, abs=0.002)
    assert detector.predict([[100.0, 0.0, 0.0]]) == [-1]
    assert detector.fit_predict(rows).tolist() == labels.tolist()


@pytest.mark.parametrize("prior", ["spline", ["prior=realnvp", "prior.layers=2"]])
def test_any_prior_is_an_estimator(rows, prior):
    model = LearnedPrior(prior, seconds=0.3, random_state=0).fit(rows)
    assert np.isfinite(model.score_samples(rows)).all()
    assert np.array_equal(model.sample(4), model.sample(4))


@pytest.fixture(scope="module")
def shifted():
    """Rows whose first column is a class, by which the others are shifted."""
    generator = np.random.default_rng(0)
    label = generator.integers(2, size=600)
    return np.column_stack([label, generator.normal(size=(600, 2)) + 10 * label[:, None]])


@pytest.fixture(scope="module")
def conditional(shifted):
    prior = ["prior=conditional_flow", "prior.whiten=standardize"]
    return LearnedPrior(prior, context=0, seconds=2, random_state=0).fit(shifted)


def test_some_columns_are_the_context(conditional, shifted):
    swapped = shifted.copy()
    swapped[:, 0] = 1 - swapped[:, 0]
    assert conditional.score(shifted) > conditional.score(swapped) + 0.1
    assert (conditional.predict(swapped) == -1).mean() > 0.2  # 0.1 of those it was fitted to
    rows, context = torch.from_numpy(shifted).float().tensor_split([1], 1)[::-1]
    np.testing.assert_allclose(conditional.score_samples(shifted), conditional.fitted_.log_prob(rows, context))
    drawn = conditional.sample(1000, context=np.arange(1000)[:, None] % 2)
    assert drawn.shape == (1000, 3)
    assert (drawn[:, 0] == np.arange(1000) % 2).all()
    assert drawn[1::2, 1:].mean() > drawn[::2, 1:].mean() + 1
    assert (conditional.sample(5, context=[1.0])[:, 0] == 1).all()


@pytest.mark.parametrize("context", [-1, [2], slice(2, None), "c", ["c"], [False, False, True]])
def test_columns_by_indices_names_and_slices(shifted, context):
    pandas = pytest.importorskip("pandas", reason="names of columns are those of a data frame")
    frame = pandas.DataFrame(shifted, columns=["a", "b", "c"])
    model = LearnedPrior("conditional_flow", context=context, seconds=0.1, random_state=0).fit(frame)
    assert model.given_.tolist() == [False, False, True]
    assert np.isfinite(model.score_samples(frame)).all()


def test_an_odd_number_of_columns_given_others(shifted):
    pytest.importorskip("zuko", reason="zuko is an extra: pip install 'pyro_lrp[zuko]'")
    prior = ["prior=zuko", "prior.flow.context=2", "+prior.context_dim=2"]
    model = LearnedPrior(prior, context=[0, 1], seconds=0.3, random_state=0).fit(shifted)
    assert model.sample(4, context=[1.0, 10.0]).shape == (4, 3)


def test_a_context_lives_in_pipelines_and_searches(shifted):
    search = GridSearchCV(
        make_pipeline(StandardScaler(), LearnedPrior("conditional_flow", seconds=0.1, random_state=0)),
        {"learnedprior__context": [[0], slice(0, 1)]},
        cv=2,
    ).fit(shifted)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert np.isfinite(search.best_estimator_.score_samples(shifted)).all()


def test_a_context_for_samples_is_checked(conditional, rows):
    with pytest.raises(
        ValueError, match=r"context: expected values of 1 columns, \(3, 1\) or \(1,\), got \(0,\)"
    ):
        conditional.sample(3)
    model = LearnedPrior(random_state=0).fit(rows)
    with pytest.raises(ValueError, match=r"context: expected values of 0 columns, .* got \(2,\)"):
        model.sample(3, context=[1.0, 2.0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"context": 0}, "prior=mixture takes none; try prior=conditional_flow"),
        ({"context": 7}, "context: X has no such columns: 7"),
        ({"context": "age"}, "context: X has no such columns: 'age'"),
        ({"context": []}, "are 0 of 3 columns"),
        ({"context": slice(None)}, "are 3 of 3 columns"),
        ({"contamination": 0.7}, "contamination must be above 0 and at most 0.5, got 0.7"),
        ({"prior": "mixtur"}, "mixtur"),
        ({"components": 1000}, "a mixture of 1000 components needs as many codes"),
    ],
)
def test_mistakes_are_sentences(rows, options, message):
    with pytest.raises(ValueError, match=message):
        LearnedPrior(**options).fit(rows)
