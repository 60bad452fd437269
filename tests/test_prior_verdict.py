"""Two-sample tests, copying, moments, and the verdict on known figures."""

import math

import pytest
import torch

from pyro_lrp.metrics.functional import (
    Copying,
    FeatureStatistics,
    TwoSample,
    copying,
    energy_distance,
    frechet_error,
    moments,
    two_sample,
)
from pyro_lrp.metrics.functional import classifier_two_sample_test as c2st
from pyro_lrp.metrics.prior_verdict import Evidence, verdict

DIM = 24


def test_a_classifier_does_not_tell_equal_samples_apart():
    # under the null |accuracy - 0.5| exceeds 5 standard errors with a probability below 6e-7
    a, b = torch.randn(2, 400, 8)
    found = c2st(a, b)
    assert abs(found.accuracy - 0.5) < 5 * 0.5 / 400**0.5
    assert found.p_value > 1e-6
    assert found.interval[0] < found.accuracy < found.interval[1]
    assert found.interval[1] - found.interval[0] == pytest.approx(2 * 1.96 * 0.5 / 400**0.5, rel=0.03)
    assert found.n == 800


def test_a_classifier_tells_a_shift_by_the_bayes_accuracy():
    # accuracy of N(0, I) against N(m, I), |m| = 2: at most Phi(1) = 0.841, and near it; se 0.012
    a, b = torch.randn(2, 900, 4)
    found = c2st(a, b + 1.0)
    assert 0.78 < found.accuracy < 0.841 + 5 * 0.012
    assert found.p_value < 1e-40


@pytest.mark.parametrize("change", ["correlation", "product"])
def test_a_classifier_finds_differences_that_are_not_of_single_dimensions(change):
    a, b = torch.randn(2, 1000, 8)
    if change == "correlation":
        b[:, 1] = 0.8 * b[:, 0] + 0.6 * b[:, 1]
    else:
        b[:, 0] = b[:, 1] * b[:, 2]
    assert c2st(a, b).interval[0] > 0.55


def test_a_constant_dimension_and_unequal_sizes_do_no_harm():
    a, b = torch.randn(100, 3), torch.randn(300, 3) + 6.0
    a[:, 1] = b[:, 1] = 2.0
    found = c2st(a, b)
    assert found.accuracy > 0.95
    assert found.n == 200


@pytest.mark.parametrize("function", [c2st, energy_distance])
def test_samples_of_other_lengths_are_refused(function):
    with pytest.raises(ValueError, match=r"expected two samples .*\(30, 3\) and \(30, 4\)"):
        function(torch.randn(30, 3), torch.randn(30, 4))


def test_energy_distance_is_that_of_all_pairs(monkeypatch):
    a, b = torch.randn(7, 3) + 100, torch.randn(9, 3) + 101
    monkeypatch.setattr(two_sample, "_ENTRIES", 20)  # two rows at a time

    def mean(x, y, pairs):
        return sum((x[i] - y[j]).double().norm().item() for i, j in pairs) / len(pairs)

    cross = mean(a, b, [(i, j) for i in range(7) for j in range(9)])
    within = [mean(x, x, [(i, j) for i in range(len(x)) for j in range(len(x)) if i != j]) for x in (a, b)]
    assert energy_distance(a, b) == pytest.approx(2 * cross - sum(within), rel=1e-5)


def test_energy_distance_of_two_normals_is_the_closed_form():
    # 2 E|N(m, 2)| - 2 E|N(0, 2)|; the estimate's standard error at n = 3000 is about 0.02
    m, sigma = 1.0, math.sqrt(2)
    folded = sigma * math.sqrt(2 / math.pi) * math.exp(-((m / sigma) ** 2) / 2) + m * math.erf(m / 2)
    expected = 2 * (folded - sigma * math.sqrt(2 / math.pi))
    a, b = torch.randn(2, 3000, 1)
    assert energy_distance(a, b + m) == pytest.approx(expected, abs=0.12)
    assert abs(energy_distance(a, b)) < 0.01  # unbiased: about 0, its standard error is 5e-4


def test_copies_are_told_from_new_points_and_from_a_narrow_distribution():
    # standard error of a probability of 0.5 here: 0.013; five of them leave a chance of 6e-7
    train, test, new = torch.randn(3000, 8), torch.randn(1000, 8), torch.randn(1000, 8)
    copies = train[:1000] + 1e-3 * torch.randn(1000, 8)
    found = copying(copies, test, train)
    assert min(found.probability, found.relative_probability) > 0.999
    assert found.z_score == pytest.approx(0.5 / found.standard_error, rel=0.01)
    found = copying(new, test, train)
    assert found.standard_error == pytest.approx((2001 / 12e6) ** 0.5)
    for probability in (found.probability, found.relative_probability):
        assert abs(probability - 0.5) < 5 * found.standard_error
    narrow = copying(0.6 * new, test, train)  # near to training points, as it is where these are dense
    assert narrow.probability > 0.8
    assert abs(narrow.relative_probability - 0.5) < 0.1
    assert copying(new + 3.0, test, train).probability < 0.05
    mixed = copying(torch.cat([copies[:300], new[:700]]), test, train)
    assert mixed.probability == pytest.approx(0.3 + 0.7 * 0.5, abs=5 * 0.013)


def test_moments_of_normal_codes_and_of_others():
    # standard errors at n = 20,000, d = 10: square 0.0032, spread 0.006; mean_norm has mean 0.022
    z = torch.randn(20_000, 10)
    found = moments(z)
    assert found.square == pytest.approx(1, abs=5 * 0.0032)
    assert found.square_spread == pytest.approx(1, abs=0.04)
    assert found.mean_norm < 0.05
    assert found.correlation < 0.045  # each of 45 is above with a chance below 3e-10
    other = z.clone()
    other[:, 1] = 0.6 * z[:, 0] + 0.8 * z[:, 1]
    shifted = moments(other + torch.eye(10)[3] * 2)
    assert shifted.correlation == pytest.approx(0.6, abs=0.03)
    assert shifted.mean_norm == pytest.approx(2, abs=0.05)
    shell = moments(z / z.norm(dim=1, keepdim=True) * 10**0.5)
    assert shell.square == pytest.approx(1)
    assert shell.square_spread < 1e-3


def test_the_jackknife_knows_the_spread_of_a_frechet_distance():
    reference = FeatureStatistics.of([torch.randn(5000, 4)])
    draws = [torch.randn(400, 4) + 0.5 for _ in range(60)]
    spread = torch.tensor([FeatureStatistics.of([x]).distance(reference) for x in draws]).std().item()
    errors = torch.tensor([frechet_error(x, reference) for x in draws])
    assert 0.65 * spread < errors.square().mean().sqrt().item() < 1.5 * spread  # spread itself: 10 % per se


NEW = Copying(0.5, 0.0, 0.5, 0.006)


CHANCE = TwoSample(0.5, (0.486, 0.514), 0.5, 10_000)


TOLD = TwoSample(0.62, (0.606, 0.634), 1e-30, 10_000)


def evidence(samples=None, resampled=None, training=None, error=0.05, **others):
    fd = None
    if samples is not None:
        fd = {"samples": (samples, error), "resampled": (resampled, error), "training": (training, error)}
    given = {"copying": NEW, "c2st": CHANCE, "c2st_training": CHANCE, "nll": None, "dim": 64}
    return Evidence(fd=fd, **(given | others))


@pytest.mark.parametrize(
    ("given", "culprit"),
    [
        (evidence(66, 1.2, 0.66), "prior under-fits"),
        (evidence(82, 60, 0.66), "decoder"),
        (evidence(0.9, 0.8, 0.66), "neither"),  # less than half the floor each
        (evidence(3.5, 1.5, 0.66, error=0.8), "neither"),  # within 3 standard errors
        (evidence(0.5, 0.6, 0.66), "neither"),  # nearer than training images
        (evidence(2.4, 1.2, 0.66, copying=Copying(0.47, -5.0, 0.48, 0.006)), "prior under-fits"),
        (evidence(1.2, 1.2, 0.66, copying=Copying(0.8, 50.0, 0.8, 0.006)), "prior over-fits"),
        (evidence(20, 1.2, 0.66, copying=Copying(0.8, 50.0, 0.52, 0.006)), "prior under-fits"),  # narrow
        (evidence(20, 1.2, 0.66, copying=Copying(0.7, 4.0, 0.7, 0.05)), "prior under-fits"),  # noise
        (evidence(c2st=TOLD), "prior under-fits"),
        (evidence(c2st=TOLD, c2st_training=TOLD), "neither"),
        (evidence(c2st=TwoSample(0.54, (0.526, 0.554), 1e-9, 10_000)), "neither"),
        (evidence(copying=Copying(0.8, 50.0, 0.8, 0.006)), "prior over-fits"),
    ],
)
def test_the_culprit_of_known_figures(given, culprit):
    found = verdict(given)
    assert found.culprit == culprit
    assert (found.share is None) == (given.fd is None)


def test_shares_and_remedies():
    found = verdict(evidence(10.66, 2.66, 0.66))
    assert found.share == pytest.approx(0.8)
    assert "80%" in found.sentence
    assert "prior_epochs" in found.sentence
    assert "prior=flow" in verdict(evidence(10.66, 2.66, 0.66, learned=False)).sentence
    assert "cannot be judged" in verdict(evidence(c2st=TOLD)).sentence
    assert verdict(evidence(0.5, 0.6, 0.66)).share == 0.0
    assert verdict(evidence(5.0, 6.0, 0.66)).share == 0.0  # clipped
    assert "latent_dim" in verdict(evidence(5.0, 6.0, 0.66)).sentence


@pytest.mark.parametrize(("gap", "said"), [((18.0, 1.0), True), ((18.0, 8.0), False), ((2.0, 0.1), False)])
def test_a_density_that_over_fits_is_a_remark_and_no_culprit(gap, said):
    found = verdict(evidence(66, 1.2, 0.66, nll=gap))
    assert found.culprit == "prior under-fits"
    assert ("nats less likely" in found.sentence) == said
