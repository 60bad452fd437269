"""Classifiers that metrics train on the data set itself, and class_accuracy."""

from dataclasses import replace

import pytest
import torch
import torchvision
from torch import nn

from pyro_lrp import data, likelihoods, models, priors
from pyro_lrp.core.errors import UserError
from pyro_lrp.metrics import METRICS, FeatureStatistics, Subject, train_classifier
from pyro_lrp.metrics.classifiers import (
    AttributeClassifier,
    attribute_classifier_for,
    classifier_for,
    dataset_classifier,
    domain_extractor,
    train_attribute_classifier,
)
from pyro_lrp.metrics.classifiers.classifier import HalfSize
from pyro_lrp.metrics.classifiers.dataset_classifier import Plan, accuracy, fit, weights_sha256


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PYRO_LRP_CACHE", str(tmp_path))
    return tmp_path / "classifiers"


@pytest.fixture(scope="module")
def digits_cache(tmp_path_factory, lend_cache):
    """Where the classifier of the digits is trained once for all tests that take it from here."""
    return lend_cache(tmp_path_factory.mktemp("digits"))


@pytest.fixture
def given_digits(digits_cache, monkeypatch):
    """The digits with their labels as contexts."""
    monkeypatch.setenv("PYRO_LRP_CACHE", str(digits_cache))
    return data.with_context(data.digits(), "label")[0]


def attributed(n=200, shape=(1, 8, 8)):
    """Images of a bright bar, without labels: whether it is in the upper half, whether in an even row."""
    fake = data.fake(n, shape, classes=8)

    def split(part):
        return data.Split(part.images, attributes=torch.stack([part.labels < 4, part.labels % 2 == 0], 1))

    return data.ImageData("bars", split(fake.train), split(fake.test), attributes=("upper", "even"))


def bare():
    images = torch.zeros(4, 1, 8, 8, dtype=torch.uint8)
    return data.ImageData("npz", data.Split(images), data.Split(images))


def subject(images, ae=None):
    prior = priors.StandardNormal(4)
    ae = ae or models.Autoencoder(nn.Identity(), nn.Identity(), prior, likelihoods.Gaussian())
    return Subject(ae, images, n=500)


# --------------------------------------------------------------------- of classes


def test_the_classifier_learns(given_digits):
    network = classifier_for(given_digits)
    assert network.accuracy > 0.9  # chance is 0.1
    assert network.accuracy == pytest.approx(accuracy(network, given_digits.test).item())
    assert network.features(given_digits.test.batch(slice(0, 50)).x).shape == (50, 64)


def test_training_is_a_function_of_the_seed():
    fake = data.fake(40, (1, 8, 8))
    first = train_classifier(fake, epochs=2)
    torch.manual_seed(1)
    assert weights_sha256(train_classifier(fake, epochs=2)) == weights_sha256(first)
    assert weights_sha256(train_classifier(fake, epochs=2, seed=1)) != weights_sha256(first)


def test_a_classifier_is_cached_by_images_and_seed(cache):
    fake = data.fake(20, (3, 8, 8))
    trained = classifier_for(fake)
    (file,) = cache.iterdir()
    written = file.stat().st_mtime_ns
    cached = classifier_for(fake)
    assert file.stat().st_mtime_ns == written
    assert weights_sha256(cached) == weights_sha256(trained)
    assert cached.accuracy == trained.accuracy
    assert not any(module.training for module in cached.modules())
    assert not any(parameter.requires_grad for parameter in cached.parameters())
    file.write_bytes(file.read_bytes()[:-50])
    assert weights_sha256(classifier_for(fake)) == weights_sha256(trained)  # damaged: trained again
    assert file.stat().st_mtime_ns > written
    classifier_for(data.fake(21, (3, 8, 8)))
    classifier_for(fake, seed=1)
    assert len(list(cache.iterdir())) == 3


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (train_classifier, "a classifier needs class labels, and the data set npz has none"),
        (classifier_for, "a classifier needs class labels, and the data set npz has none"),
        (
            attribute_classifier_for,
            "an attribute classifier needs binary attributes, and the data set npz has none",
        ),
    ],
)
def test_data_without_what_is_to_be_told_are_refused(train, message):
    with pytest.raises(UserError, match=message):
        train(bare())


def test_the_distance_in_features_orders_worse_and_better_images(given_digits):
    digits, network = given_digits, classifier_for(given_digits)

    def statistics(x):
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


# --------------------------------------------------------------------- of attributes


def test_width_64_is_resnet_18_with_a_small_stem():
    with torch.device("meta"):
        ours = AttributeClassifier((3, 64, 64), 40)
        theirs = torchvision.models.resnet18(num_classes=40)
        theirs.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    shapes = [[p.shape for p in network.parameters()] for network in (ours, theirs)]
    assert sorted(shapes[0]) == sorted(shapes[1])
    assert ours.features(torch.zeros(2, 3, 64, 64, device="meta")).shape == (2, 512)


def test_the_attribute_classifier_learns_each_attribute():
    network = train_attribute_classifier(attributed(), width=4, epochs=20)
    assert network.accuracy.min() > 0.95
    assert network.majority.tolist() == pytest.approx([0.5, 0.5], abs=0.02)


def test_an_attribute_classifier_is_cached_by_images_attributes_and_width(cache):
    bars = attributed(12)
    first = attribute_classifier_for(bars, width=4)
    (file,) = cache.iterdir()
    written = file.stat().st_mtime_ns
    cached = attribute_classifier_for(bars, width=4)
    assert file.stat().st_mtime_ns == written
    assert weights_sha256(cached) == weights_sha256(first)
    changed = replace(bars, train=replace(bars.train, attributes=~bars.train.attributes))
    for other in (attribute_classifier_for(bars, width=2), attribute_classifier_for(changed, width=4)):
        assert weights_sha256(other) != weights_sha256(first)
    assert len(list(cache.iterdir())) == 3


def test_the_majority_is_that_of_training():
    bars = attributed(40)
    rare = torch.zeros(40, 1, dtype=torch.bool)
    often = torch.ones(40, 1, dtype=torch.bool).scatter(0, torch.tensor([[0]]), False)
    skewed = replace(
        bars,
        train=replace(bars.train, attributes=torch.cat([rare, often], 1)),
        test=replace(bars.test, attributes=torch.cat([often, often], 1)),
    )
    network = train_attribute_classifier(skewed, width=2, epochs=1)
    assert network.majority.tolist() == pytest.approx([1 / 40, 39 / 40])


def test_test_images_decide_nothing_but_the_accuracy():
    bars = attributed(60)
    other = replace(bars, test=replace(bars.test, attributes=~bars.test.attributes))
    first, second = (train_attribute_classifier(d, width=4, epochs=3) for d in (bars, other))
    assert all(torch.equal(p, q) for p, q in zip(first.parameters(), second.parameters(), strict=True))
    torch.testing.assert_close(first.accuracy, 1 - second.accuracy)


def test_images_held_out_for_the_selection_are_not_trained_on():
    """Its own validation images are used as they are; else some training images have no say in a gradient."""
    bars = attributed(60)
    train, held = bars.hold_out(0.05)
    assert len(held) == 3
    own = replace(bars, train=train, validation=held)
    first, second = (train_attribute_classifier(d, width=4, epochs=1) for d in (bars, own))
    assert all(torch.equal(p, q) for p, q in zip(first.parameters(), second.parameters(), strict=True))


def test_the_best_epoch_is_kept(monkeypatch):
    bars, shares, states = attributed(64), iter([0.5, 0.9, 0.1]), []

    def scripted(network, split, device):
        assert split is bars.test
        states.append({k: v.clone() for k, v in network.state_dict().items()})
        return torch.tensor(next(shares))

    monkeypatch.setattr(dataset_classifier, "accuracy", scripted)
    network = AttributeClassifier((1, 8, 8), 2, width=2)
    fit(network, bars.train, Plan(epochs=3, batch_size=32, lr=1e-2), validation=bars.test)
    kept = network.state_dict()
    same = [all(torch.equal(state[k], kept[k]) for k in kept) for state in states]
    assert same == [False, True, False]


def test_flips_mirror_about_half_of_the_images():
    seen = []

    class Spy(AttributeClassifier):
        def forward(self, x):
            seen.append((x[..., 0] > x[..., -1]).all(2).squeeze(1))
            return super().forward(x)

    images = torch.linspace(255, 0, 8).byte().expand(400, 1, 8, 8).contiguous()
    split = data.Split(images, attributes=torch.zeros(400, 1, dtype=torch.bool))
    fit(Spy((1, 8, 8), 1, width=1), split, Plan(epochs=1, batch_size=100, lr=1e-3, flip=True))
    upright = torch.cat(seen).double().mean().item()
    assert abs(upright - 0.5) < 5 * 0.5 / 400**0.5  # five standard deviations: below 1e-6


# --------------------------------------------------------------------- as extractors


def test_the_domain_network_tells_classes_if_there_are_some_else_attributes():
    fake, bars = data.fake(20, (1, 8, 8)), attributed(20)
    classes = domain_extractor(subject(fake))
    assert (classes.name, classes.dim) == ("classifier", 64)
    network = classifier_for(fake)
    x = fake.test.batch(slice(0, 7)).x
    assert torch.equal(classes.logits(classes.features(x)), network(x))
    assert classes.record["weights_sha256"] == weights_sha256(network)
    assert classes.record["classifier_accuracy"] == round(network.accuracy.item(), 4)
    tags = domain_extractor(subject(bars))
    assert tags.logits is None
    assert tags.features(x).shape == (7, tags.dim) == (7, 128)
    assert tags.key != classes.key
    assert {"surrogate", "majority_accuracy"} <= tags.record.keys()
    both = subject(replace(fake, train=replace(fake.train, attributes=bars.train.attributes)))
    assert domain_extractor(both).dim == 64
    with pytest.raises(UserError, match="needs binary attributes"):
        domain_extractor(subject(bare()))


# --------------------------------------------------------------------- class_accuracy


def real(digits, shift=0, lost=0):
    """Its samples are real images: of the class, or of the next, or some of them lost."""
    x, labels = digits.train.batch(slice(None)).x, digits.train.labels

    class Real(models.Autoencoder):
        def draw(self, n, temperature=1.0, context=None):
            wanted = (context.argmax(1) + shift) % 10
            rows = torch.stack([(labels == c).nonzero()[i % 50, 0] for i, c in enumerate(wanted)])
            return models.Draw(x[rows], torch.zeros(n, 4), lost)

        def reconstruct(self, x, context=None):
            return x

    prior = priors.conditional_paper_flow(4, 10, 1, 8)
    return Real(nn.Identity(), nn.Identity(), prior, likelihoods.Gaussian())


@pytest.mark.parametrize("shift", [0, 1])
def test_class_accuracy_counts_samples_of_the_class_that_was_asked_for(given_digits, shift):
    digits, judged = given_digits, subject(given_digits, real(given_digits, shift))
    assert METRICS["class_accuracy"].lacks(judged) is None
    found = METRICS["class_accuracy"].compute(judged)
    least, most = (0.95, 1.0) if shift == 0 else (0.0, 0.05)
    assert least <= found["class_accuracy"]["value"] <= most
    assert found["class_accuracy_worst_class"]["value"] <= found["class_accuracy"]["value"]
    assert found["class_accuracy_reconstructions"]["value"] > 0.95
    assert found["class_accuracy_reconstructions"]["n"] == len(digits.test)
    expected = classifier_for(digits).accuracy.item()
    assert found["class_accuracy_reconstructions"]["value"] == pytest.approx(expected)


def unlabelled(split):
    """The split with every fourth image unlabelled."""
    labels = split.labels.clone()
    labels[::4] = -1
    return replace(split, labels=labels)


def test_unlabelled_images_are_neither_learned_nor_counted():
    fake = data.fake(40, (1, 8, 8), classes=2)
    partly = replace(fake, train=unlabelled(fake.train), test=unlabelled(fake.test))
    rest = replace(fake, train=partly.train.labelled(), test=partly.test.labelled())
    assert len(rest.train) == 30
    assert weights_sha256(train_classifier(partly, epochs=1)) == weights_sha256(
        train_classifier(rest, epochs=1)
    )
    nothing = replace(fake, test=replace(fake.test, labels=torch.full((40,), -1)))
    assert (
        METRICS["class_accuracy"].lacks(subject(nothing))
        == "needs class labels, and the data set fake has none"
    )


def test_class_accuracy_of_reconstructions_counts_labelled_images(given_digits):
    plain = replace(given_digits, test=unlabelled(given_digits.test), train=unlabelled(given_digits.train))
    partly, _ = data.with_context(plain, "label")
    judged = subject(partly, real(given_digits))
    assert METRICS["class_accuracy"].lacks(judged) is None
    found = METRICS["class_accuracy"].compute(judged)["class_accuracy_reconstructions"]
    assert found["n"] == len(partly.test.labelled()) < len(partly.test)
    assert found["value"] > 0.9


def test_samples_whose_class_cannot_be_told_are_refused(given_digits):
    with pytest.raises(UserError, match="3 of 500 samples are not finite"):
        METRICS["class_accuracy"].compute(subject(given_digits, real(given_digits, lost=3)))


def test_class_accuracy_needs_classes_as_contexts(given_digits):
    lacks = METRICS["class_accuracy"].lacks
    assert lacks(subject(data.digits())) == "needs a prior that is conditional on the class (context=label)"
    assert lacks(subject(bare())) == "needs class labels, and the data set npz has none"
    digits = given_digits
    other = replace(digits, train=replace(digits.train, context=digits.train.context.flip(0)))
    assert lacks(subject(other, real(digits))) == "needs context=label, and this run's contexts are others"


@pytest.mark.parametrize("shape", [(8, 8), (28, 14), (9, 8)])
def test_pooling_is_that_of_pytorch_bit_for_bit(shape):
    x = torch.randn(3, 4, *shape, requires_grad=True)
    ours, theirs = HalfSize()(x), nn.AvgPool2d(2)(x)
    assert torch.equal(ours, theirs)
    weights = torch.randn_like(ours)
    (ours_grad,) = torch.autograd.grad(ours, x, weights)
    (theirs_grad,) = torch.autograd.grad(theirs, x, weights)
    assert torch.equal(ours_grad, theirs_grad)
