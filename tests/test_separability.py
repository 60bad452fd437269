"""Linear separability: the pure function against known values and scikit-learn, the metric on built models."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from builders import small_autoencoder
from scipy.stats import entropy
from sklearn.metrics import accuracy_score, confusion_matrix, mutual_info_score
from sklearn.svm import LinearSVC
from torch import nn

from pyro_lrp import data, likelihoods, models, priors
from pyro_lrp.core.errors import UserError
from pyro_lrp.metrics import Subject
from pyro_lrp.metrics.classifiers import attribute_classifier_for
from pyro_lrp.metrics.functional import conditional_entropy, confident_half, separability
from pyro_lrp.metrics.separability import METRICS, _confident_of_class
from pyro_lrp.priors.core import NormalBase

# --------------------------------------------------------------------- tables


@pytest.mark.parametrize(
    ("table", "nats"),
    [
        ([[0.4, 0.1], [0.1, 0.4]], 0.500402),  # spec 15.25
        ([[40, 10], [10, 40]], 0.500402),  # counts
        ([[0.5, 0.0], [0.0, 0.5]], 0.0),
        ([[0.0, 0.5], [0.5, 0.0]], 0.0),  # always wrong tells it too
        ([[0.25, 0.25], [0.25, 0.25]], math.log(2)),
        ([[0.0, 0.0], [0.3, 0.7]], -0.3 * math.log(0.3) - 0.7 * math.log(0.7)),
        ([[10, 0], [0, 0]], 0.0),  # one value only
    ],
)
def test_conditional_entropy_of_known_tables(table, nats):
    assert conditional_entropy(torch.tensor(table)) == pytest.approx(nats, abs=1e-6)


def test_conditional_entropy_is_that_of_y_less_the_mutual_information():
    for _ in range(20):
        table = torch.randint(0, 20, (2, 2)).double() + torch.eye(2)
        expected = entropy(table.sum(0)) - mutual_info_score(None, None, contingency=table.numpy())
        assert conditional_entropy(table) == pytest.approx(expected, abs=1e-12)
    asymmetric = torch.tensor([[3.0, 2.0], [0.0, 5.0]])  # orientation: rows are known, columns are told
    assert conditional_entropy(asymmetric) == pytest.approx(0.5 * entropy([3, 2]))


@pytest.mark.parametrize("table", [[[0, 0], [0, 0]], [[1, -1], [0, 1]], [1, 2], [[math.nan, 1], [1, 1]]])
def test_what_is_no_table_is_refused(table):
    with pytest.raises(ValueError, match="expected a table"):
        conditional_entropy(torch.tensor(table))


# --------------------------------------------------------------------- the score


def test_exact_predictions_score_1_and_none_score_2_for_each_attribute():
    """Spec 15.26: balanced labels, of codes that hold them, and of codes that are all alike."""
    labels = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]]).repeat(25, 1)
    assert separability(labels.float() - 0.5, labels).score == 1.0
    nothing = separability(torch.zeros(100, 3), labels)
    assert nothing.score == pytest.approx(4.0)
    assert nothing.chance == pytest.approx(4.0)
    assert nothing.accuracies.tolist() == [0.5, 0.5]


def test_one_attribute_that_is_told_four_times_of_five():
    """Spec 15.25: of two clusters of codes, a fifth each has the other label."""
    labels = torch.tensor([0] * 40 + [1] * 10 + [0] * 10 + [1] * 40)[:, None]
    codes = torch.tensor([-1.0] * 50 + [1.0] * 50)[:, None]
    found = separability(codes, labels)
    assert found.score == pytest.approx(1.64938, abs=1e-5)
    assert found.accuracies.tolist() == [pytest.approx(0.8)]


def test_an_attribute_with_one_value_adds_nothing_and_is_said():
    """Spec 15.27."""
    z = torch.randn(200, 3)
    told = (z[:, :1] + torch.randn(200, 1) > 0).long()
    alone = separability(z, told)
    for value in (0, 1):
        found = separability(z, torch.cat([torch.full((200, 1), value), told], 1))
        assert found.score == pytest.approx(alone.score, abs=1e-12)
        assert found.single_class == (0,)
        assert found.entropies[0] == 0
        assert found.accuracies[0] == 1
        assert found.chance == pytest.approx(alone.chance, abs=1e-12)
    assert alone.single_class == ()


def test_what_is_linear_in_the_code_scores_1_and_what_is_not_scores_2():
    """Spec 15.28, with a fixed seed."""
    z = torch.randn(4000, 4)
    assert separability(z, z @ torch.tensor([[1.0], [-2.0], [0.5], [0.0]]) > 0.3).score < 1.05
    assert separability(z, (z[:, :1] * z[:, 1:2] > 0)).score > 1.97


def test_the_score_is_what_scikit_learn_gives_step_by_step():
    z, directions = torch.randn(300, 5), torch.randn(5, 3)
    labels = z @ directions + torch.randn(300, 3) > torch.tensor([0.0, 0.5, -1.0])
    keep = torch.rand(300, 3) < 0.6
    found = separability(z, labels, keep)
    total = 0.0
    for a in range(3):
        x, y = z[keep[:, a]].double().numpy(), labels[keep[:, a], a].numpy().astype(int)
        told = LinearSVC(C=1.0, loss="squared_hinge", dual=False).fit(x, y).predict(x)
        counts = confusion_matrix(told, y)
        by_hand = sum(row.sum() / counts.sum() * entropy(row) for row in counts)
        assert found.entropies[a].item() == pytest.approx(by_hand, abs=1e-12)
        assert found.entropies[a].item() == pytest.approx(
            entropy(np.bincount(y)) - mutual_info_score(told, y), abs=1e-12
        )
        assert found.accuracies[a].item() == pytest.approx(accuracy_score(y, told))
        total += by_hand
    assert found.score == pytest.approx(math.exp(total))
    assert found.not_converged == ()


def test_codes_that_are_not_kept_do_not_count():
    z, labels = torch.randn(100, 3), torch.rand(100, 2) < 0.5
    keep = torch.rand(100, 2) < 0.5
    changed = torch.where(keep, labels, ~labels)
    assert separability(z, labels, keep).score == separability(z, changed, keep).score
    both = keep.any(1)
    assert separability(z[both], labels[both], keep[both]).score == separability(z, labels, keep).score


def test_a_solver_that_stops_early_is_said_and_does_not_warn():
    z = torch.randn(100, 3)
    labels = torch.stack([z[:, 0] > 0, z[:, 0] > -9], 1)  # of the second there is nothing to fit
    steps = []
    found = separability(z, labels, max_iter=1, on_step=lambda *step: steps.append(step))
    assert found.not_converged == (0,)
    assert found.single_class == (1,)
    assert steps == [(1, 2), (2, 2)]
    assert separability(z, labels).not_converged == ()


@pytest.mark.parametrize(
    ("z", "labels", "keep", "message"),
    [
        (torch.zeros(3), torch.zeros(3, 1), None, "expected latents"),
        (torch.zeros(3, 2), torch.zeros(3), None, "expected latents"),
        (torch.zeros(3, 2), torch.zeros(4, 1), None, "expected latents"),
        (torch.zeros(3, 2), torch.zeros(3, 1), torch.ones(3, 2, dtype=torch.bool), "expected latents"),
        (torch.full((3, 2), math.inf), torch.zeros(3, 1), None, "not finite"),
        (torch.zeros(3, 2), torch.full((3, 1), -1), None, "labels of 0 and 1"),
        (torch.zeros(3, 2), torch.zeros(3, 1), torch.zeros(3, 1, dtype=torch.bool), "at least one code"),
    ],
)
def test_wrong_arguments_are_refused(z, labels, keep, message):
    with pytest.raises(ValueError, match=message):
        separability(z, labels, keep)


def test_the_filter_of_classes_keeps_the_surer_half_of_each():
    logits = 3 * torch.randn(400, 3, dtype=torch.float64)
    logits[:, 0] += 4  # of this class the network is surer, and it is commoner
    keep, surest, taken = _confident_of_class(logits)[:, 0], logits.softmax(1).amax(1), logits.argmax(1)
    for label in range(3):
        own = taken == label
        assert (keep & own).sum() == (own.sum() + 1) // 2
        assert surest[keep & own].min() > surest[~keep & own].max()


def test_the_filter_keeps_the_surer_half_of_each_attribute():
    logits = 3 * torch.randn(101, 4, dtype=torch.float64)
    keep = confident_half(logits.abs())
    assert keep.sum(0).tolist() == [51] * 4
    surest = torch.stack([logits, -logits]).softmax(0).amax(0)  # StyleGAN's max probability
    for a in range(4):
        assert surest[keep[:, a], a].min() > surest[~keep[:, a], a].max()
    assert confident_half(torch.ones(4, 1)).flatten().tolist() == [True, True, False, False]
    assert confident_half(torch.tensor([[1e4], [2e4]])).flatten().tolist() == [False, True]  # no saturation


# --------------------------------------------------------------------- of models


class Fold(NormalBase):
    """z_T = (a, b sign(a)) of z_0 = (a, b): the sign of z_T's second value is that of a b in z_0."""

    def to_latent(self, z, context=None):
        return torch.stack([z[..., 0], z[..., 1] * z[..., 0].sign()], -1)

    to_base = to_latent

    def forward(self, context=None, *, temperature=1.0):
        raise AssertionError("a prior with a base is sampled through it")


class Brighter(nn.Module):
    """Images that are brighter above or below, by the sign and size of a code's last value."""

    def forward(self, z):
        side = z[:, -1, None, None, None].tanh() * torch.linspace(1, -1, 8)[:, None]
        return (0.5 + 0.4 * side).expand(-1, 1, 8, 8)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def shades(cache, monkeypatch):
    """Images of that decoder; attributes: whether the upper half is brighter; one that no image has."""
    monkeypatch.setenv("PYRO_LRP_CACHE", str(cache))
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(200, 1, generator=generator)
    images = (Brighter()(z) * 255).round().byte().contiguous()
    split = data.Split(images, attributes=torch.cat([z > 0, torch.zeros(200, 1, dtype=torch.bool)], 1))
    return data.ImageData("shades", split[:100], split[100:], attributes=("upper", "never"))


def judged(prior, images, n=600, decoder=None):
    encoder = nn.Identity()
    ae = models.Autoencoder(encoder, decoder or Brighter(), prior, likelihoods.Gaussian())
    return Subject(ae.eval(), images, n=n)


def test_the_spaces_are_told_apart_on_the_same_images(shades):
    found = METRICS["separability"].compute(judged(Fold(2), shades))
    chance = found["separability_z0"]["chance"]
    assert chance > 1.3  # below 2, since the network is surer of one value: more images with it are kept
    for scale in ("", "_standardized"):
        assert found[f"separability_zT{scale}"]["value"] < 1.05
        assert found[f"separability_z0{scale}"]["value"] > 0.97 * chance
    accuracy = attribute_classifier_for(shades).accuracy
    assert accuracy[0] > 0.9
    for name, r in found.items():
        assert r["n"] == 600
        assert r["protocol"]["kept_images"] == 300
        assert r["protocol"]["input"] == ("z0" if "z0" in name else "zT")
        assert r["protocol"]["classifier_accuracy"] == round(accuracy.mean().item(), 4)
        assert r["protocol"]["non_finite_samples"] == 0
        assert r["single_class"] == ["never"]
        assert r["warning"] == "1 of 2 have one value only"
        assert r["entropies"]["never"] == 0
        assert r["value"] == pytest.approx(math.exp(r["entropies"]["upper"]))
        assert r["chance"] == chance  # the same labels
    json.dumps(found)


def test_results_depend_on_the_seed_alone(shades):
    first = METRICS["separability"].compute(judged(Fold(2), shades))
    torch.manual_seed(1)
    assert METRICS["separability"].compute(judged(Fold(2), shades)) == first
    other = judged(Fold(2), shades)
    other.seed = 1
    assert (
        METRICS["separability"].compute(other)["separability_z0"]["value"] != first["separability_z0"]["value"]
    )


def test_without_a_base_only_the_latent_space_is_judged(shades):
    found = METRICS["separability"].compute(judged(priors.NeuralSampler(2, 1, 8), shades, n=100))
    assert [*found] == ["separability_zT", "separability_zT_standardized"]


def test_standardised_codes_do_not_depend_on_the_scale_of_the_raw_ones(shades):
    class Scaled(NormalBase):
        def to_latent(self, z, context=None):
            return torch.stack([1e-3 * z[..., 0], z[..., 1]], -1)

    class Unscaled(Brighter):
        def forward(self, z):
            return super().forward(1e3 * z[:, :1])

    found = METRICS["separability"].compute(judged(Scaled(2), shades, decoder=Unscaled()))
    assert found["separability_zT_standardized"]["value"] == pytest.approx(
        found["separability_z0_standardized"]["value"], abs=1e-6
    )
    assert found["separability_zT"]["value"] > found["separability_zT_standardized"]["value"]


def test_samples_that_are_not_finite_are_left_out_and_counted(shades):
    class Lossy(Fold):
        lost = 0.5

        def to_latent(self, z, context=None):
            return torch.where(z[..., :1] > self.lost, torch.inf, super().to_latent(z))

    subject = judged(Lossy(2), shades, n=400)
    found = METRICS["separability"].compute(subject)["separability_z0"]
    share = found["protocol"]["non_finite_samples"] / 400
    assert found["n"] == 400 - found["protocol"]["non_finite_samples"]
    assert abs(share - 0.3085) < 5 * (0.3085 * 0.6915 / 400) ** 0.5  # P(z > 1/2); five standard deviations
    subject.autoencoder.prior.lost = -math.inf
    with pytest.raises(UserError, match="none of 400 prior samples is finite"):
        METRICS["separability"].compute(subject)


# --------------------------------------------------------------------- classes


class Bars(nn.Module):
    """The bar of the class whose value in a code is the largest."""

    def forward(self, z):
        images = torch.zeros(len(z), 1, 8, 8)
        images[torch.arange(len(z)), :, z[:, :3].argmax(1) * 8 // 3] = 0.8
        return images


@pytest.fixture
def bars(cache, monkeypatch):
    monkeypatch.setenv("PYRO_LRP_CACHE", str(cache))
    return data.fake(60, (1, 8, 8), classes=3)


def test_classes_are_told_one_against_the_rest_under_names_of_their_own(bars):
    found = METRICS["class_separability"].compute(judged(priors.StandardNormal(3), bars, decoder=Bars()))
    assert [*found] == [
        f"class_separability_{space}{scale}" for space in ("z0", "zT") for scale in ("", "_standardized")
    ]
    result = found["class_separability_z0"]
    assert [*result["entropies"]] == ["0", "1", "2"]
    assert result["value"] == found["class_separability_zT"]["value"]  # N(0, I): the spaces are the same
    third = 3 * entropy([1 / 3, 2 / 3])
    assert result["chance"] == pytest.approx(math.exp(third), rel=0.05)  # three classes, equally often
    assert 1 < result["value"] < 0.7 * result["chance"]
    assert min(result["accuracies"].values()) > 0.8


def test_a_conditional_prior_is_given_the_contexts_of_test_images(bars):
    given, _ = data.with_context(bars, "label")
    only = replace(given, test=replace(given.test, context=torch.eye(3)[1].expand(len(given.test), 3)))

    class Shifted(priors.ConditionalFlow):
        """z_0 about six times the context: one class in each sample, which the context decides."""

        def base(self, context=None, *, temperature=1.0):
            return torch.distributions.Independent(torch.distributions.Normal(6 * context, 1.0), 1)

        def to_latent(self, z, context=None):
            assert context.shape == (len(z), 3)
            return z

    prior = Shifted(3, [], context_dim=3)
    found = METRICS["class_separability"].compute(judged(prior, only, n=100, decoder=Bars()))
    assert found["class_separability_z0"]["single_class"] == ["0", "1", "2"]
    assert found["class_separability_z0"]["chance"] == 1
    found = METRICS["class_separability"].compute(judged(prior, given, n=300, decoder=Bars()))
    assert found["class_separability_z0"]["single_class"] == []
    assert found["class_separability_z0"]["value"] == pytest.approx(1, abs=1e-6)


def test_a_trained_kind_of_model_is_judged_from_end_to_end(bars):
    """A flow, quick numbers and all."""
    subject = Subject(small_autoencoder(), bars, n=40)
    found = METRICS["class_separability"].compute(subject)
    assert len(found) == 4
    assert all(1 <= r["value"] <= r["chance"] + 1e-9 for r in found.values())


def test_what_is_lacking_is_said(bars, shades):
    plain = priors.StandardNormal(2)
    assert (
        METRICS["separability"].lacks(judged(plain, bars))
        == "needs binary attributes, and the data set fake has none"
    )
    said = METRICS["class_separability"].lacks(judged(plain, shades))
    assert said == "needs class labels, and the data set shades has none"
    assert METRICS["separability"].lacks(judged(plain, shades)) is None
