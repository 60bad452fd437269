import io
import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from builders import small_autoencoder
from linear_models import conditional_subject, linear_subject
from PIL import Image
from torch import nn

from pyro_lrp import data, likelihoods, models, priors
from pyro_lrp.core.errors import UserError
from pyro_lrp.metrics import (
    METRICS,
    FeatureStatistics,
    Subject,
    density_and_coverage,
    frechet_distance,
    inception_score,
    kernel_distance,
    polynomial_mmd,
    precision_and_recall,
)
from pyro_lrp.metrics.distances import as_jpeg, singular, stretched
from pyro_lrp.metrics.subject import Extractor, as_files

EYE, ZERO = torch.eye(2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)


def diagonal(*values):
    return torch.diag(torch.tensor(values, dtype=torch.float64))


def vector(*values):
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ((ZERO, diagonal(1, 4)), (vector(1, 2), diagonal(9, 16)), 13.0),  # spec 15.18
        (
            (ZERO, vector(2, 1, 1, 2).reshape(2, 2)),
            (ZERO, diagonal(1, 4)),
            9 - 2 * math.sqrt(10 + 2 * math.sqrt(12)),
        ),
        ((ZERO, EYE), (vector(3, 4), EYE), 25.0),  # spec 15.17
        ((ZERO, diagonal(1, 0)), (ZERO, diagonal(0, 1)), 2.0),  # singular covariances
    ],
)
def test_known_distances(first, second, expected):
    assert frechet_distance(*first, *second) == pytest.approx(expected, abs=1e-9)
    assert frechet_distance(*second, *first) == pytest.approx(expected, abs=1e-9)


def test_identical_statistics_and_rotations_at_2048_dimensions():
    features = torch.randn(300, 2048, dtype=torch.float64)
    statistics = FeatureStatistics()
    statistics.update(features)
    mean, cov = statistics.mean, statistics.covariance
    assert abs(frechet_distance(mean, cov, mean, cov)) < 1e-3  # spec 15.16


def test_a_common_rotation_changes_nothing():
    a, b = torch.randn(40, 5, dtype=torch.float64), 2 * torch.randn(40, 5, dtype=torch.float64) + 1
    q, _ = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64))

    def distance(x, y):
        return frechet_distance(x.mean(0), x.T.cov(), y.mean(0), y.T.cov())

    assert distance(a @ q, b @ q) == pytest.approx(distance(a, b))


def test_unequal_sizes_are_refused():
    with pytest.raises(ValueError, match="equal sizes"):
        frechet_distance(ZERO, EYE, torch.zeros(3), torch.eye(3))


def test_streamed_statistics_are_those_of_all_features():
    features = 1e4 + torch.randn(101, 6, dtype=torch.float64)
    statistics = FeatureStatistics()
    for part in features.split(17):
        statistics.update(part)
    torch.testing.assert_close(statistics.mean, features.mean(0))
    torch.testing.assert_close(statistics.covariance, features.T.cov(), rtol=1e-8, atol=1e-8)
    with pytest.raises(ValueError, match="at least 2 features"):
        _ = FeatureStatistics().covariance


@pytest.mark.parametrize("n", [20, 60, 90])
def test_samples_are_given_each_context_of_the_test_images_once_before_one_comes_again(n):
    """Spec 9.2; whatever the order of the data, and in chunks or not."""
    subject = conditional_subject(1e-6, n=n)
    count = len(subject.data.test)
    numbered = torch.arange(count, dtype=torch.float32)[:, None].expand(count, 10)
    subject.data = replace(subject.data, test=replace(subject.data.test, context=numbered))
    codes = torch.cat([draw.latents for draw in subject.samples(n)])
    given = codes[:, 0].round().long()
    for part in given.split(count):
        assert len(part.unique()) == len(part)
    assert given.tolist() != sorted(given.tolist())
    chunked = [subject.contexts(slice(start, min(start + 7, n))) for start in range(0, n, 7)]
    assert torch.equal(torch.cat(chunked)[:, 0].long(), given)
    assert "each once" in subject.given["contexts"]
    assert linear_subject(priors.StandardNormal(64)).given == {}


def test_reconstruction_error_beside_that_of_the_best_constant_image():
    images = data.fake(600, (1, 8, 8))

    class Identity(models.Autoencoder):
        def reconstruct(self, x, context=None):
            return x + 0.1

    ae = Identity(nn.Identity(), nn.Identity(), priors.StandardNormal(4), likelihoods.Gaussian())
    steps = []
    found = METRICS["reconstruction_mse"].compute(
        Subject(ae, images, n=550, on_step=lambda *step: steps.append(step))
    )
    x = Subject(ae, images).some(images.test, 550, "test").images.double() / 255
    assert found["reconstruction_mse"]["value"] == pytest.approx(0.01, rel=1e-5)
    assert found["constant_image_mse"]["value"] == pytest.approx(
        (x - x.mean(0)).square().mean().item(), rel=1e-6
    )
    assert found["reconstruction_mse"]["n"] == 550
    assert steps == [(500, 550), (550, 550)]


# --------------------------------------------------------------------- the subject


@pytest.fixture
def subject(tmp_path, monkeypatch):
    """An untrained model of 8x8 images, judged by 700 of them."""
    monkeypatch.setenv("PYRO_LRP_CACHE", str(tmp_path))
    torch.manual_seed(0)
    return Subject(small_autoencoder().eval(), data.fake(1200, (1, 8, 8)), n=700)


@pytest.mark.parametrize("of", ["test", "training", "reconstructions", "resampled", "samples"])
def test_a_set_of_images_is_the_same_whenever_it_is_asked_for(subject, of):
    first = torch.cat([*subject.images(of, 700)])
    torch.rand(3)
    [*subject.images("samples", 600)]
    assert torch.equal(torch.cat([*subject.images(of, 700)]), first)
    assert first.shape == (subject.size(of, 700), 1, 8, 8)
    other = Subject(subject.autoencoder, subject.data, seed=1, n=700)
    if of != "test" or len(subject.data.test) > 700:
        assert not torch.equal(torch.cat([*other.images(of, 700)]), first)


def test_what_a_set_is(subject):
    with pytest.raises(ValueError, match="expected one of test, training"):
        next(subject.images("beauty", 5))
    narrow = Subject(subject.autoencoder, subject.data, seen=subject.data.train[:30], n=700)
    assert len(torch.cat([*narrow.images("training", 700)])) == 30  # only what the model saw
    rows = torch.cat([*subject.images("training", 700)])
    images = subject.data.train.images / 255
    assert torch.equal(rows.sort(0).values, images.sort(0).values) == (len(images) <= 700)
    reconstructed = torch.cat([*subject.images("reconstructions", 700)])
    with torch.no_grad():
        means = subject.autoencoder.decode(
            subject.autoencoder.encode(torch.cat([*subject.images("test", 700)])).mean
        )
    assert (reconstructed - means).square().mean() < (reconstructed - means.flip(0)).square().mean()


def pixels(network="pixels"):
    """Features that are the pixels themselves."""
    return Extractor(network, network, lambda x: x.flatten(1), 64, {"network": network})


def test_reference_statistics_are_cached_by_images_and_protocol(subject, tmp_path):
    extractor = pixels()
    test = subject.statistics(extractor, "test", 700)
    subject.statistics(extractor, "samples", 700)
    (file,) = (tmp_path / "statistics").iterdir()
    expected = torch.cat([*subject.images("test", 700)]).flatten(1).double()
    torch.testing.assert_close(test.covariance, expected.T.cov())

    def refused(x):
        raise AssertionError("the cache was not used")

    again = Subject(subject.autoencoder, subject.data, n=700)
    unused = Extractor("pixels", "pixels", refused, 64, {})
    assert again.statistics(unused, "test", 700).distance(test) == pytest.approx(0, abs=1e-9)
    with pytest.raises(AssertionError):
        again.statistics(unused, "test", 700, stretched)  # another protocol
    other = Subject(subject.autoencoder, data.fake(1201, (1, 8, 8)), n=700)
    with pytest.raises(AssertionError):
        other.statistics(unused, "test", 700)  # other images
    file.write_bytes(file.read_bytes()[:-50])
    fresh = Subject(subject.autoencoder, subject.data, n=700).statistics(extractor, "test", 700)
    torch.testing.assert_close(fresh.covariance, test.covariance)


def test_features_are_computed_once_for_all_metrics(subject):
    calls = []

    def count(x):
        calls.append(len(x))
        return x.flatten(1)

    extractor = Extractor("counted", "counted", count, 64, {})
    rows = subject.rows(extractor, "samples", 700)
    statistics = subject.statistics(extractor, "samples", 700)
    assert sum(calls) == 700
    torch.testing.assert_close(statistics.mean, rows.double().mean(0))


def test_samples_that_are_not_finite_are_left_out_and_counted(subject):
    class Stray(models.Autoencoder):
        def decode(self, z, context=None):
            images = super().decode(z)
            return torch.where((torch.arange(len(images)) % 4 == 0)[:, None, None, None], torch.nan, images)

    ae = subject.autoencoder
    stray = Stray(ae.encoder, ae.decoder, ae.prior, ae.likelihood).eval()
    judged = Subject(stray, subject.data, n=700)
    assert len(judged.rows(pixels(), "samples", 700)) == 525
    assert judged.non_finite == 175

    class Nothing(Stray):
        def decode(self, z, context=None):
            return super().decode(z) * torch.nan

    nothing = Subject(Nothing(ae.encoder, ae.decoder, ae.prior, ae.likelihood).eval(), subject.data, n=7)
    with pytest.raises(UserError, match="none of 7 prior samples is finite"):
        nothing.rows(pixels(), "samples", 7)


def test_features_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="features are not finite"):
        FeatureStatistics().update(torch.tensor([[1.0, torch.nan]]))


# --------------------------------------------------------------------- protocols


def test_stretching_takes_each_image_to_the_whole_range():
    images = torch.stack([torch.linspace(0.2, 0.7, 16), torch.linspace(-1, 3, 16), torch.full((16,), 0.4)])
    found = stretched(images.reshape(3, 1, 4, 4))
    assert found[:2].flatten(1).aminmax(dim=1).min.tolist() == [0.0, 0.0]  # spec 15.21
    assert found[:2].flatten(1).aminmax(dim=1).max.tolist() == [1.0, 1.0]
    assert torch.equal(found[2], images[2].reshape(1, 4, 4))  # a constant image has no range


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_is_pillows(channels):
    image = torch.rand(1, channels, 16, 16)
    array = (as_files(image)[0] * 255).byte().permute(1, 2, 0).numpy()
    file = io.BytesIO()
    Image.fromarray(array[..., 0] if channels == 1 else array).save(file, "jpeg", quality=75)
    expected = np.asarray(Image.open(file)).reshape(array.shape)
    assert np.array_equal((as_jpeg(image)[0] * 255).round().byte().permute(1, 2, 0).numpy(), expected)


def test_too_few_images_are_said():
    assert singular(65, 64) is None
    assert (
        singular(64, 64)
        == "64 images give a singular covariance of 64 features: the distance is biased upwards"
    )


def test_distances_of_a_model_beside_its_floors(tmp_path, monkeypatch, lend_cache):
    monkeypatch.setenv("PYRO_LRP_CACHE", str(lend_cache(tmp_path / "cache")))

    class Perfect(models.Autoencoder):
        """Reconstructs exactly; its samples are training images, or training images and noise."""

        noise = 0.0

        def reconstruct(self, x, context=None):
            return x

        def draw(self, n, temperature=1.0, context=None):
            x = digits.train.batch(torch.randint(len(digits.train), (n,))).x
            return models.Draw((x + self.noise * torch.randn_like(x)).clamp(0, 1), torch.zeros(n, 4), 0)

    digits = data.digits()
    ae = Perfect(nn.Identity(), nn.Identity(), priors.StandardNormal(4), likelihoods.Gaussian())
    found = METRICS["fd_classifier"].compute(Subject(ae, digits))
    values = {name: r["value"] for name, r in found.items()}
    assert values["fd_classifier_reconstructions"] == pytest.approx(0, abs=1e-6)
    assert values["fd_classifier"] == pytest.approx(values["fd_classifier_training"], rel=0.5)
    assert "surrogate" in found["fd_classifier"]["protocol"]
    ae.noise = 0.3
    noisy = METRICS["fd_classifier"].compute(Subject(ae, digits))["fd_classifier"]["value"]
    assert noisy > 3 * values["fd_classifier"]
    few = METRICS["fd_classifier"].compute(Subject(ae, digits, n=50))["fd_classifier"]
    assert few["n"] == 50
    assert "biased upwards" in few["warning"]


def test_every_metric_says_what_it_lacks(tmp_path):
    """An AAE on images without labels: what it cannot give is one sentence, before any work."""
    images = torch.zeros(40, 1, 8, 8, dtype=torch.uint8)
    bare = data.ImageData("bare", data.Split(images), data.Split(images))
    sampler = small_autoencoder(prior=priors.NeuralSampler(4, 1, 8))
    said = {name: metric.lacks(Subject(sampler, bare)) for name, metric in METRICS.items()}
    assert said["likelihood"] == "needs log p(z), and NeuralSampler has no density"
    assert said["fd_classifier"] == "needs class labels or attributes, and the data set bare has none"
    assert said["separability"] == "needs binary attributes, and the data set bare has none"
    assert said["is_classifier"] == "needs class labels, and the data set bare has none"
    assert said["class_accuracy"] is not None
    assert said["reconstruction_mse"] is said["prior_gap"] is said["fid"] is None
    unasked = METRICS["fid"].not_by_itself(Subject(sampler, bare))
    assert unasked is None or re.match("needs weights.inception=FILE|takes an hour", unasked)


# --------------------------------------------------------------------- other scores


def test_inception_score_of_known_predictions():
    assert inception_score(torch.full((20, 7), 1 / 7), 10)[0] == pytest.approx(1)  # spec 15.22
    assert inception_score(torch.eye(10).repeat(10, 1), 10) == (pytest.approx(10), pytest.approx(0))  # 15.23
    halves = torch.tensor([[0.9, 0.1]] * 50 + [[0.1, 0.9]] * 50)
    assert inception_score(halves, 1)[0] == pytest.approx(1.44493, abs=1e-5)  # 15.24
    mean, deviation = inception_score(halves, 2)  # each split is constant
    assert (mean, deviation) == (pytest.approx(1), pytest.approx(0, abs=1e-9))
    with pytest.raises(ValueError, match="expected 1 to 3 splits"):
        inception_score(torch.eye(3), 4)


def test_the_kernel_distance_is_its_formula_and_unbiased():
    x, y = torch.randn(9, 4, dtype=torch.float64), 1 + torch.randn(7, 4, dtype=torch.float64)

    def k(a, b):
        return (a.dot(b) / 4 + 1) ** 3

    def mean(a, b, same):
        pairs = [k(p, q) for i, p in enumerate(a) for j, q in enumerate(b) if not (same and i == j)]
        return sum(pairs) / len(pairs)

    assert polynomial_mmd(x, y) == pytest.approx(
        (mean(x, x, True) + mean(y, y, True) - 2 * mean(x, y, False)).item()
    )
    torch.manual_seed(0)
    same = kernel_distance(torch.randn(4000, 8), torch.randn(4000, 8), 50, 200)
    assert abs(same[0]) < 6 * same[1] / math.sqrt(50) + 0.01  # around 0, on either side of it
    assert kernel_distance(torch.randn(500, 8), 1 + torch.randn(500, 8), 5, 200)[0] > 1
    with pytest.raises(ValueError, match="features of at least 2 images"):
        kernel_distance(torch.randn(1, 8), torch.randn(4, 8))


def brute_inside(points, centres, k):
    """Whether each point is in each centre's ball, pair by pair."""
    radii = [sorted((c - d).norm().item() for d in centres)[k] for c in centres]
    return torch.tensor(
        [[(p - c).norm().item() <= r for c, r in zip(centres, radii, strict=True)] for p in points]
    )


def test_precision_recall_density_and_coverage_are_their_definitions():
    torch.manual_seed(0)
    real, made = torch.randn(40, 3, dtype=torch.float64), 1 + torch.randn(30, 3, dtype=torch.float64)
    precision, recall = precision_and_recall(real, made, 3)
    assert precision == brute_inside(made, real, 3).any(1).double().mean().item()
    assert recall == brute_inside(real, made, 3).any(1).double().mean().item()
    density, coverage = density_and_coverage(real, made, 5)
    inside = brute_inside(made, real, 5)
    assert density == pytest.approx(inside.double().sum().item() / (5 * 30))
    assert coverage == inside.any(0).double().mean().item()
    with pytest.raises(ValueError, match="more than k = 3 images, got 3"):
        precision_and_recall(real, made[:3], 3)


def test_collapsed_samples_lose_recall_and_wild_ones_lose_precision():
    """Orientation: published code has had the two swapped."""
    torch.manual_seed(0)
    real = torch.randn(1000, 2)
    collapsed, wild = 0.05 * torch.randn(1000, 2), 10 * torch.randn(1000, 2)
    precision, recall = precision_and_recall(real, collapsed)
    assert precision > 0.95
    assert recall < 0.1
    precision, recall = precision_and_recall(real, wild)
    assert precision < 0.2
    assert recall > 0.8
    assert density_and_coverage(real, collapsed)[1] < 0.1
    density, coverage = density_and_coverage(real, torch.randn(1000, 2))
    assert density == pytest.approx(1, abs=0.15)
    assert coverage > 0.9
