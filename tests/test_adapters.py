"""Learned priors in the interfaces of other libraries, held to these libraries' own checks."""

import numpy as np
import pytest
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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"contamination": 0.7}, "contamination must be above 0 and at most 0.5, got 0.7"),
        ({"prior": "mixtur"}, "mixtur"),
        ({"components": 1000}, "a mixture of 1000 components needs as many codes"),
    ],
)
def test_mistakes_are_sentences(rows, options, message):
    with pytest.raises(ValueError, match=message):
        LearnedPrior(**options).fit(rows)
