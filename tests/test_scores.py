"""Scores refuse what they cannot judge: no, too few or wrong rows never make a plausible number."""

import math

import pyro.distributions as dist
import pytest
import torch

from pyro_lrp.metrics.functional import (
    FeatureStatistics,
    classifier_two_sample_test,
    confident_half,
    copying,
    density_and_coverage,
    energy_distance,
    frechet_distance,
    frechet_error,
    importance_weighted_bound,
    inception_score,
    kernel_distance,
    moments,
    path_length,
    path_length_error,
    polynomial_mmd,
    precision_and_recall,
    refine,
    separability,
)
from pyro_lrp.metrics.functional.separability import standardized

DIM = 3


def points(n, seed=0):
    return torch.randn(n, DIM, generator=torch.Generator().manual_seed(seed))


OTHER = points(40, seed=1)
STATISTICS = FeatureStatistics.of([OTHER])


def covariance_of(x):
    return FeatureStatistics.of([x]).distance(STATISTICS)


def log_joint(z):
    return -z.square().sum(-1), torch.zeros(z.shape[:-1])


def bound(x):
    return importance_weighted_bound(log_joint, dist.Normal(x, torch.ones_like(x)).to_event(1), 2).bound.mean()


# the score of a sample (n, d), and the fewest rows it can be computed from
OF_ROWS = {
    "Fréchet distance": (covariance_of, 2),
    "its error": (lambda x: frechet_error(x, STATISTICS, groups=5), 10),
    "kernel distance": (lambda x: kernel_distance(x, OTHER, 2)[0], 2),
    "kernel distance to it": (lambda x: kernel_distance(OTHER, x, 2)[0], 2),
    "MMD": (lambda x: polynomial_mmd(x, OTHER), 2),
    "precision": (lambda x: precision_and_recall(OTHER, x, 3)[0], 4),
    "recall": (lambda x: precision_and_recall(x, OTHER, 3)[1], 4),
    "density": (lambda x: density_and_coverage(OTHER, x, 3)[0], 1),
    "coverage": (lambda x: density_and_coverage(x, OTHER, 3)[1], 4),
    "two-sample test": (lambda x: classifier_two_sample_test(x, OTHER).accuracy, 20),
    "energy distance": (lambda x: energy_distance(x, OTHER), 2),
    "copying": (lambda x: copying(x, OTHER, points(40, seed=2)).probability, 1),
    "copying, of test points": (lambda x: copying(points(40, seed=2), x, OTHER).probability, 1),
    "copying, of training points": (lambda x: copying(points(40, seed=2), OTHER, x).probability, 2),
    "moments": (lambda x: moments(x).square, 2),
    "separability": (lambda x: separability(x, x[:, :1] > 0).score, 1),
    "standardized codes": (lambda x: standardized(x).sum().item(), 1),
    "importance-weighted bound": (bound, 1),
    "inception score": (lambda x: inception_score(x.softmax(1), splits=1)[0], 1),
}


@pytest.mark.parametrize("name", OF_ROWS)
def test_the_fewest_rows_give_a_number_and_fewer_a_sentence(name):
    score, fewest = OF_ROWS[name]
    assert math.isfinite(score(points(fewest)))
    for n in {0, fewest - 1}:
        with pytest.raises(ValueError, match=r"expected|at least|needs|no features"):
            score(points(n))


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
@pytest.mark.parametrize("name", [name for name in OF_ROWS if name != "importance-weighted bound"])
def test_one_number_that_is_not_finite_is_a_sentence(name, wrong):
    score, _ = OF_ROWS[name]
    rows = points(40)
    rows[7, 1] = wrong
    with pytest.raises(ValueError, match="are not finite in 1 of 40 rows"):
        score(rows)


@pytest.mark.parametrize("name", OF_ROWS)
def test_a_vector_is_no_sample(name):
    score, _ = OF_ROWS[name]
    with pytest.raises((ValueError, IndexError)):
        score(points(40)[:, 0])


@pytest.mark.parametrize("n", [2, 20, 400])
def test_a_frechet_distance_is_at_least_zero(n):
    """Of a sample to itself: with fewer features than their dimension, too, where rounding goes either way."""
    features = torch.randn(n, 200, generator=torch.Generator().manual_seed(n))
    statistics = FeatureStatistics.of([features])
    assert statistics.distance(statistics) == pytest.approx(0.0, abs=1e-6)
    assert statistics.distance(statistics) >= 0.0
    assert frechet_distance(torch.zeros(2), torch.zeros(2, 2), torch.zeros(2), torch.zeros(2, 2)) == 0.0


def test_an_empty_batch_of_features_adds_nothing():
    parts = [points(0), points(5), points(0), points(7, seed=3), points(0)]
    with_empty = FeatureStatistics.of(parts)
    without = FeatureStatistics.of([part for part in parts if len(part)])
    assert with_empty.n == 12
    assert torch.equal(with_empty.mean, without.mean)
    assert torch.equal(with_empty.covariance, without.covariance)
    with pytest.raises(ValueError, match="no features were added yet"):
        _ = FeatureStatistics.of([points(0)]).mean
    with pytest.raises(ValueError, match=r"expected features of length 3, as before, got \(5, 2\)"):
        without.update(points(5)[:, :2])


def test_a_bound_with_a_score_that_is_no_number_is_refused():
    proposal = dist.Normal(points(4), torch.ones(4, DIM)).to_event(1)

    def of_one_wrong(value):
        def joint(z):
            log_likelihood, log_prior = log_joint(z)
            log_likelihood[:, 2] = value
            return log_likelihood, log_prior

        return importance_weighted_bound(joint, proposal, 5).bound

    assert of_one_wrong(-math.inf).isinf().tolist() == [False, False, True, False]
    with pytest.raises(ValueError, match="NaN for 1 of 4 images"):
        of_one_wrong(math.nan)
    with pytest.raises(ValueError, match="expected at least 1 draw"):
        importance_weighted_bound(log_joint, proposal, 0)
    for loc, scale in ((math.nan, 1.0), (0.0, math.nan)):
        with pytest.raises(ValueError, match="the encoder's .* are not finite in 4 of 4 rows"):
            refine(log_joint, torch.full((4, 2), loc), torch.full((4, 2), scale), unit=torch.ones(2))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: kernel_distance(OTHER, OTHER, subsets=0), "at least 1 subset"),
        (lambda: kernel_distance(OTHER, OTHER, subset_size=1), "at least 1 subset of 2 images"),
        (lambda: kernel_distance(OTHER, OTHER[:, :2]), "of one length"),
        (lambda: precision_and_recall(OTHER, OTHER, 0), "k to be at least 1"),
        (lambda: density_and_coverage(OTHER, OTHER, 0), "k to be at least 1"),
        (lambda: inception_score(OTHER), "whose sum is 1"),
        (lambda: frechet_error(OTHER, STATISTICS, groups=1), "at least 2 groups"),
        (lambda: separability(OTHER, OTHER[:, :0] > 0), "at least one code"),
        (lambda: confident_half(torch.tensor([[math.nan], [1.0]])), "confidences are NaN"),
        (
            lambda: frechet_distance(torch.zeros(1), torch.tensor([[math.nan]]), *2 * [torch.zeros(1, 1)]),
            "equal",
        ),
        (
            lambda: frechet_distance(torch.zeros(1), torch.tensor([[math.nan]]), torch.zeros(1), torch.eye(1)),
            "means and covariances are not finite",
        ),
    ],
)
def test_options_that_leave_nothing_to_score_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_path_lengths_that_are_no_numbers_have_no_mean():
    values = torch.tensor([1.0, math.nan, 2.0], dtype=torch.float64)
    assert math.isnan(path_length(values))
    assert math.isnan(path_length_error(values))
