"""Outlier scores against known densities: of images, of codes, of vectors; the verdicts of their benchmark."""

import csv
import math

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from benchmarks import outliers_report as report
from builders import small_autoencoder
from commands import QUICK, only_run
from linear_models import conditional_subject, linear_gaussian
from sklearn.utils.estimator_checks import parametrize_with_checks

import pyro_lrp
from pyro_lrp import data, fitting, priors
from pyro_lrp.adapters.sklearn import LearnedPrior
from pyro_lrp.core.errors import UserError
from pyro_lrp.metrics import outlier_scores
from pyro_lrp.metrics.outliers import SCORES

GAMMA, DIM, PIXELS = 0.3, 3, 6


@pytest.fixture(scope="module")
def linear():
    """A model whose p(x) is known, images, and their scores."""
    ae, marginal = linear_gaussian(DIM, PIXELS, GAMMA)
    images = data.fake(300, (1, 2, 3))
    return ae, marginal, images, outlier_scores(ae, images.test[:60], images.train, k=1000)


def test_all_scores_have_their_names(linear):
    *_, scores = linear
    assert list(scores) == ["prior", "reconstruction", "bound", "typicality"] == list(SCORES)
    assert {tuple(values.shape) for values in scores.values()} == {(60,)}


def test_the_bound_is_the_exact_evidence_but_for_little(linear):
    _, marginal, images, scores = linear
    x = images.test.images[:60].flatten(1).double() / 255
    excess = scores["bound"] + marginal.log_prob(x)
    assert abs(excess.mean()) < 0.01
    assert excess.abs().max() < 0.2


def test_prior_and_reconstruction_are_those_of_the_mean_code(linear):
    ae, _, images, scores = linear
    x = images.test.batch(slice(0, 60)).x
    z = ae.encode(x).mean
    log_prior = -z.square().sum(1) / 2 - DIM / 2 * math.log(2 * math.pi)
    torch.testing.assert_close(scores["prior"], -log_prior)
    error = (ae.decode(z) - x).square().flatten(1).mean(1)
    torch.testing.assert_close(scores["reconstruction"], error)


def test_typicality_is_the_distance_from_the_training_codes(linear):
    ae, _, images, scores = linear
    z = ae.encode(images.train.batch(slice(None)).x).mean
    typical = z.square().sum(1).mean() / 2 + DIM / 2 * math.log(2 * math.pi)
    torch.testing.assert_close(scores["typicality"], (scores["prior"] - typical).abs())
    assert (scores["prior"] < typical).any()
    assert (scores["prior"] > typical).any()


def test_names_are_chosen_and_images_are_tensors_too(linear):
    ae, _, images, scores = linear
    found = outlier_scores(ae, images.test.images[:60] / 255, images.train, "prior")
    assert list(found) == ["prior"]
    torch.testing.assert_close(found["prior"], scores["prior"])
    again = outlier_scores(ae, images.test[:60], images.train, ["typicality", "bound"], k=1000)
    assert torch.equal(again["bound"], scores["bound"])
    assert torch.equal(again["typicality"], scores["typicality"])


def test_a_prior_without_density_leaves_the_reconstruction():
    ae = small_autoencoder(prior=priors.NeuralSampler(4, 1, 8))
    images = data.digits()
    assert list(outlier_scores(ae, images.test[:3], images.train)) == ["reconstruction"]
    with pytest.raises(UserError, match=r"scores: typicality needs log p\(z\), and NeuralSampler has no dens"):
        outlier_scores(ae, images.test[:3], images.train, "typicality")


def test_a_conditional_prior_needs_contexts():
    subject = conditional_subject(0.5)
    ae, images = subject.autoencoder, subject.data
    scores = outlier_scores(ae, images.test, images.train, "prior")["prior"]
    one = images.test.batch(slice(3, 4))
    expected = ae.prior(one.context).log_prob(ae.encode(one.x).mean)
    torch.testing.assert_close(-scores[3:4], expected)
    with pytest.raises(UserError, match="images: the prior needs a context of 10 numbers for each"):
        outlier_scores(ae, images.test.images, images.train, "prior")


@pytest.mark.parametrize(
    ("images", "scores", "message"),
    [
        (torch.zeros(2, 1, 2, 3), "density", "scores: density is unknown; the known ones are: prior, recon"),
        (torch.zeros(2, 1, 3, 3), None, r"images: expected the shape \(1, 2, 3\) of the training images, got"),
        (torch.zeros(0, 1, 2, 3), None, "images: there are none to score"),
        (torch.full((2, 1, 2, 3), 2.0), None, "images that are floats must lie in"),
    ],
)
def test_mistakes_are_sentences(linear, images, scores, message):
    ae, _, known, _ = linear
    with pytest.raises(UserError, match=message):
        outlier_scores(ae, images, known.train, scores)


def test_a_run_scores_its_images_as_its_table_does(train):
    train(*QUICK)
    assert train(f"run={only_run()}", "metrics=[scores]", "n=16", "k=3", command="evaluate")[0] == 0
    run = pyro_lrp.Run(only_run())
    with (run.directory / "scores.csv").open(newline="") as file:
        rows = [*csv.DictReader(file)]
    chosen = torch.tensor([int(row["index"]) for row in rows])
    scores = run.scores(run.data.test[chosen], k=3)
    for column, name, sign in (
        ("log_prior", "prior", -1), ("squared_error", "reconstruction", 1),
        ("bound", "bound", -1), ("typicality", "typicality", 1),
    ):  # fmt: skip
        values = torch.tensor([sign * float(row[column]) for row in rows])
        torch.testing.assert_close(values, scores[name].float(), rtol=1e-4, atol=1e-4)
    assert run.scores(scores="prior")["prior"].shape == (256,)
    with pytest.raises(ValueError, match="expected split to be train, test or seen"):
        run.scores("validation")


# --------------------------------------------------------------------- codes


@pytest.fixture(scope="module")
def gaussian():
    """A normal prior of 30 dimensions, and codes: all of them lie far from the mean, where p(z) is largest."""
    z = torch.randn(3000, 30, generator=torch.Generator().manual_seed(0))
    prior = ["prior=mixture", "prior.components=1"]
    return fitting.fit_one(z, prior, seconds=5, context=z[:, :0]), z


def test_typicality_of_a_normal_density_is_known(gaussian):
    fitted, z = gaussian
    entropy = dist.Normal(0.0, 1.0).entropy().item() * 30
    assert fitted.train_nll == pytest.approx(entropy, abs=0.3)
    mode = torch.zeros(1, 30)
    assert fitted.outlier_score(mode) < fitted.outlier_score(z).min()
    # the density at the mode exceeds the typical one by d / 2 nats
    assert fitted.outlier_score(mode, score="typicality").item() == pytest.approx(15, abs=1)
    assert fitted.outlier_score(z, score="typicality").mean() < 5


def test_typicality_is_kept_with_the_prior(gaussian, tmp_path):
    fitted, z = gaussian
    fitted.save(tmp_path)
    loaded = fitting.load(tmp_path)
    assert loaded.train_nll == fitted.train_nll
    expected = fitted.outlier_score(z[:9], score="typicality")
    assert torch.equal(loaded.outlier_score(z[:9], score="typicality"), expected)


def test_scores_of_codes_that_are_not_there_are_sentences(gaussian):
    fitted, z = gaussian
    with pytest.raises(UserError, match="score: bound is unknown; the known ones are: prior, typicality"):
        fitted.outlier_score(z, score="bound")
    earlier = fitting.Fitted(**{**vars(fitted), "train_nll": None})
    with pytest.raises(UserError, match="score: typicality needs a prior that this version fitted"):
        earlier.outlier_score(z, score="typicality")
    assert torch.equal(earlier.outlier_score(z), fitted.outlier_score(z))


# --------------------------------------------------------------------- vectors


@parametrize_with_checks(
    [LearnedPrior(outlier_score="typicality", random_state=0)],
    expected_failed_checks=lambda estimator: {
        "check_outliers_train": "score_samples stays a density, which decision_function does not follow"
    },
)
def test_scikit_learns_own_checks(estimator, check):
    check(estimator)


def test_what_is_too_likely_is_an_outlier_by_typicality(gaussian):
    rows = gaussian[1].numpy()
    mode = np.zeros((1, 30), np.float32)
    by_name = {
        name: LearnedPrior(components=1, outlier_score=name, contamination=0.05, random_state=0).fit(rows)
        for name in ("prior", "typicality")
    }
    assert by_name["prior"].predict(mode) == [1]
    assert by_name["typicality"].predict(mode) == [-1]
    for detector in by_name.values():
        assert detector.predict(mode + 9) == [-1]
        assert (detector.predict(rows) == -1).mean() == pytest.approx(0.05, abs=0.002)
        assert np.array_equal(detector.predict(rows) == -1, detector.decision_function(rows) < 0)
    densities = [detector.score_samples(rows) for detector in by_name.values()]
    np.testing.assert_array_equal(*densities)


def test_an_unknown_outlier_score_is_a_sentence():
    with pytest.raises(ValueError, match="outlier_score must be prior or typicality, got 'bound'"):
        LearnedPrior(outlier_score="bound").fit(np.random.default_rng(0).normal(size=(50, 2)))


# --------------------------------------------------------------------- the benchmark's report

EXCESS = {"reconstruction": 0.0, "better": 0.05, "as good": 0.0, "worse": -0.1}


def made_up_rows(classes=10, seeds=3):
    """Cells whose classes differ far more than their scores do; a bound that is better on its images."""
    noise = np.random.default_rng(0)
    rows = []
    for number in range(classes):
        for seed in range(seeds):
            base = 0.6 + 0.03 * number
            every = {name: base + excess + noise.normal(0, 0.005) for name, excess in EXCESS.items()}
            few = {name: value - 0.2 for name, value in every.items()}
            few["bound"] = few["reconstruction"] + 0.05 + noise.normal(0, 0.005)
            rows.append({"data": "mnist", "class": number, "seed": seed, "auroc": every, "auroc_bounded": few})
    return rows


def test_the_report_pairs_cells():
    found = {line.score: line for line in report.lines(made_up_rows(), "reconstruction")}
    assert found["reconstruction"].difference is None
    assert {name for name, line in found.items() if line.significant} == {"better", "worse", "bound"}
    for name, excess in EXCESS.items():
        assert found[name].auroc.mean == pytest.approx(0.735 + excess, abs=0.005)
        if found[name].difference:
            assert found[name].difference.mean == pytest.approx(excess, abs=0.005)
    assert found["bound"].bounded
    assert found["bound"].auroc.mean == pytest.approx(0.585, abs=0.005)
    assert found["bound"].difference.mean == pytest.approx(0.05, abs=0.005)
    # unpaired, a difference of 0.05 would drown in that of the classes
    assert found["better"].auroc.low < found["reconstruction"].auroc.mean
    sentence = report.sentence([*found.values()], "reconstruction")
    assert sentence.endswith("above: better, bound; below: worse; undecided: as good.")


def test_a_bound_is_compared_on_its_own_images():
    found = {line.score: line for line in report.lines(made_up_rows(), "bound")}
    assert found["better"].difference.mean == pytest.approx(0.0, abs=0.005)
    assert found["worse"].difference.mean == pytest.approx(-0.15, abs=0.005)


def test_seeds_of_a_class_are_no_further_classes():
    few = report.interval(report.by_class(made_up_rows(seeds=1), "auroc", "better"))
    many = report.interval(report.by_class(made_up_rows(seeds=30), "auroc", "better"))
    assert many.high - many.low == pytest.approx(few.high - few.low, rel=0.2)
    assert report.interval([1.0, 2.0, 3.0]).low == pytest.approx(2 - 4.3027 / math.sqrt(3), abs=1e-4)


def test_a_detector_that_is_missing_in_some_rows_is_reported_from_the_others():
    rows = made_up_rows()
    for row in rows[:15]:
        del row["auroc"]["worse"], row["auroc_bounded"]["worse"]
    found = {line.score: line for line in report.lines(rows, "reconstruction")}
    assert found["worse"].difference.mean == pytest.approx(-0.1, abs=0.005)


def test_holm_is_that_of_the_paper():
    assert report.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert report.holm([]) == []
