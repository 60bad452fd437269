import math

import pytest
import torch
from torch import nn

from pyro_lrp import data, likelihoods, models, priors
from pyro_lrp.errors import UserError
from pyro_lrp.metrics import (
    FeatureStatistics,
    class_accuracy,
    frechet_distance,
    reconstruction_mse,
    train_classifier,
)
from pyro_lrp.metrics.classifier import classifier_for

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


def test_the_classifier_learns_is_seeded_and_is_cached(tmp_path, monkeypatch):
    monkeypatch.setenv("PYRO_LRP_CACHE", str(tmp_path))
    digits = data.digits()
    first = train_classifier(digits, epochs=25)
    assert first.accuracy > 0.9  # chance is 0.1
    again = train_classifier(digits, epochs=25)
    x = digits.test.batch(slice(0, 50)).x
    with torch.no_grad():
        assert torch.equal(first.features(x), again.features(x))
        assert first.features(x).shape == (50, 64)
    fake = data.fake(100, (3, 8, 8))
    trained = classifier_for(fake)
    (file,) = (tmp_path / "classifiers").iterdir()
    written = file.stat().st_mtime_ns
    cached = classifier_for(fake)
    assert file.stat().st_mtime_ns == written
    assert cached.accuracy == trained.accuracy
    assert not cached.training
    classifier_for(data.fake(101, (3, 8, 8)))
    assert len(list((tmp_path / "classifiers").iterdir())) == 2  # other images, another network


def test_a_data_set_without_labels_is_refused():
    images = torch.zeros(4, 1, 8, 8, dtype=torch.uint8)
    with pytest.raises(UserError, match="fd_classifier needs class labels, and data=npz has none"):
        train_classifier(data.ImageData("npz", data.Split(images), data.Split(images)))


def test_the_distance_in_features_orders_worse_and_better_images():
    digits = data.digits()
    network = train_classifier(digits, epochs=25)

    def statistics(x):
        with torch.no_grad():
            result = FeatureStatistics()
            result.update(network.features(x))
            return result

    test = digits.test.batch(slice(None)).x
    train = digits.train.batch(slice(None)).x
    noise = (train + 0.3 * torch.randn_like(train)).clamp(0, 1)
    reference = statistics(test)
    distances = [statistics(x).distance(reference) for x in (train, noise, torch.rand_like(train))]
    assert distances == sorted(distances)
    assert distances[1] > 2 * distances[0]


def test_reconstruction_error_beside_that_of_the_best_constant_image():
    images = data.fake(600, (1, 8, 8))

    class Identity(models.Autoencoder):
        def reconstruct(self, x):
            return x + 0.1

    ae = Identity(nn.Identity(), nn.Identity(), priors.StandardNormal(4), likelihoods.Gaussian())
    steps = []
    found = reconstruction_mse(ae, images, n=550, on_step=lambda *step: steps.append(step))
    x = images.test.images[:550].double() / 255
    assert found["reconstruction_mse"]["value"] == pytest.approx(0.01, rel=1e-5)
    assert found["constant_image_mse"]["value"] == pytest.approx(
        (x - x.mean(0)).square().mean().item(), rel=1e-6
    )
    assert found["reconstruction_mse"]["n"] == 550
    assert steps == [(500, 550), (550, 550)]


@pytest.mark.parametrize("shift", [0, 1])
def test_class_accuracy_counts_samples_of_the_class_that_was_asked_for(tmp_path, monkeypatch, shift):
    monkeypatch.setenv("PYRO_LRP_CACHE", str(tmp_path))
    digits, _ = data.with_context(data.digits(), "label")
    x, labels = digits.train.batch(slice(None)).x, digits.train.labels

    class Real(models.Autoencoder):
        """Its samples are real images: of the class, or of the next."""

        def draw(self, n, temperature=1.0, context=None):
            wanted = (context.argmax(1) + shift) % 10
            rows = torch.stack([(labels == c).nonzero()[i % 50, 0] for i, c in enumerate(wanted)])
            return models.Draw(x[rows], torch.zeros(n, 4), 0)

        def reconstruct(self, x):
            return x

    prior = priors.conditional_paper_flow(4, 10, 1, 8)
    ae = Real(nn.Identity(), nn.Identity(), prior, likelihoods.Gaussian())
    found = class_accuracy(ae, digits, n=500)
    least, most = (0.95, 1.0) if shift == 0 else (0.0, 0.05)
    assert least <= found["class_accuracy"]["value"] <= most
    assert found["class_accuracy_worst_class"]["value"] <= found["class_accuracy"]["value"]
    assert found["class_accuracy_reconstructions"]["value"] > 0.95


def test_class_accuracy_needs_classes_as_contexts():
    ae = models.Autoencoder(nn.Identity(), nn.Identity(), priors.StandardNormal(4), likelihoods.Gaussian())
    with pytest.raises(UserError, match="class_accuracy needs a run whose prior is conditional on the class"):
        class_accuracy(ae, data.digits())
