"""Path lengths, diversity and perceptual change: known values of linear models, laws of the protocol."""

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pyro.distributions.transforms as pyro_transforms
import pytest
import torch
import torchvision
from builders import jiggle, small_autoencoder
from safetensors.torch import save_file
from torch import nn

from pyro_lrp import data, likelihoods, models, priors, transforms
from pyro_lrp.latents import lerp, slerp
from pyro_lrp.metrics import Subject, path_length, path_lengths, perceptual_changes
from pyro_lrp.metrics.image_distance import ImageDistance, batch_size, lpips_distance
from pyro_lrp.metrics.metric import standard_error
from pyro_lrp.metrics.path_length import face_crop, perceptual_path_length
from pyro_lrp.metrics.perceptual import METRICS, _sequence, lpips_diversity, perceptual_change

ALEXNET = partial(lpips_distance, network="alexnet")


def squared(x, y):
    return (x - y).square().flatten(1).sum(1)


SQUARED = ImageDistance(squared, {"network": "squared difference of pixels"}, any_size=True)


# --------------------------------------------------------------------- tensors


def paths(n, dim):
    a, b = torch.randn(2, n, dim, dtype=torch.float64)
    return a, b, torch.rand(n, dtype=torch.float64)


def test_lengths_of_an_identity_generator():
    """Spec 15.30, over 40,000 paths: the standard errors are 0.11 and 0.18."""
    lengths = partial(path_lengths, lambda z: z, *paths(40_000, 64), squared)
    assert lengths(path=lerp).mean() == pytest.approx(128, abs=1.0)
    assert lengths(path=slerp).mean() == pytest.approx(158.97, abs=1.5)


def test_lengths_of_a_linear_generator():
    """Spec 15.30: twice the squared Frobenius norm, of 1% standard error at most."""
    matrix = torch.randn(10, 6, dtype=torch.float64)
    found = path_lengths(lambda z: z @ matrix.T, *paths(40_000, 6), squared, path=lerp)
    assert found.mean() == pytest.approx(2 * matrix.square().sum().item(), rel=0.06)
    a, b, t = paths(5, 6)
    expected = ((b - a) @ matrix.T).square().sum(1)
    torch.testing.assert_close(path_lengths(lambda z: z @ matrix.T, a, b, t, squared, path=lerp), expected)


@pytest.mark.parametrize("epsilon", [1e-4, 1e-2])
def test_both_points_of_a_path_are_generated_in_one_call(epsilon):
    seen = []
    a, b, t = paths(7, 4)
    found = path_lengths(lambda z: seen.append(z) or z, a, b, t, squared, epsilon=epsilon)
    (points,) = seen
    torch.testing.assert_close(points, torch.cat([slerp(a, b, t), slerp(a, b, t + epsilon)]))
    torch.testing.assert_close(found, squared(*points.chunk(2)) / epsilon**2)


@pytest.mark.parametrize("n", [1, 2, 99, 100, 101, 1234])
def test_the_percentiles_are_numpys_lower_and_higher(n):
    values = torch.randn(n).exp()
    low, high = (np.percentile(values, p, method=m) for p, m in ((1, "lower"), (99, "higher")))
    kept = values.numpy()[(low <= values.numpy()) & (values.numpy() <= high)]
    assert path_length(values) == pytest.approx(kept.mean(dtype=np.float64), rel=1e-6)


def test_no_length_is_no_number():
    assert math.isnan(path_length(torch.zeros(0)))
    assert math.isnan(standard_error(torch.ones(1)))
    assert standard_error(torch.tensor([0.0, 2.0])) == pytest.approx(1.0)


def test_the_face_is_where_it_should_be():
    rows = torch.arange(64.0)[:, None].expand(1, 3, 64, 64)
    crop = face_crop(rows)
    assert crop.shape == (1, 3, 32, 32)
    assert (crop.min(), crop.max()) == (24, 55)
    crop = face_crop(rows.transpose(-1, -2))
    assert (crop.min(), crop.max()) == (16, 47)
    assert face_crop(torch.zeros(2, 1, 128, 128)).shape == (2, 1, 64, 64)


def test_changes_of_a_sequence_are_between_neighbours():
    levels = torch.tensor([[0.0, 1.0, 3.0, 3.0], [2.0, 0.0, 0.0, 5.0]])
    images = levels[..., None, None, None].expand(2, 4, 1, 3, 3)
    found = perceptual_changes(images, lambda x, y: (x - y).abs().flatten(1).mean(1))
    assert found.tolist() == [[1, 2, 0], [2, 0, 5]]


# --------------------------------------------------------------------- path length of a model


class Scaled(priors.StandardNormal):
    """N(0, s^2), whose base is N(0, 1)."""

    def __init__(self, dim, scale):
        super().__init__(dim)
        self.scale = scale

    def to_latent(self, z, context=None):
        return self.scale * z

    def to_base(self, z, context=None):
        return z / self.scale


class Picture(nn.Module):
    """The code as an image."""

    def __init__(self, side=8, channels=1):
        super().__init__()
        self.shape = (channels, side, side)

    def forward(self, z):
        return z.reshape(len(z), *self.shape)


class Encoder(nn.Module):
    """The image as a code, without noise."""

    def forward(self, x):
        return x.flatten(1), None


def linear_subject(prior, side=8, **options):
    ae = models.Autoencoder(Encoder(), Picture(side), prior, likelihoods.Gaussian())
    return Subject(ae.eval(), data.fake(60, (1, side, side)), **options)


def lengths(subject, image_distance=SQUARED):
    return perceptual_path_length(subject, "ppl", lambda _: image_distance)


def test_a_linear_model_has_the_known_path_lengths():
    """Trimming a percent at either end moves these means by less than 0.5."""
    found = lengths(linear_subject(priors.StandardNormal(64), n=4000))
    assert found.keys() == {"ppl_z0", "ppl_zT"}
    assert found["ppl_z0"]["value"] == pytest.approx(158.97, abs=4)
    assert found["ppl_zT"]["value"] == pytest.approx(128, abs=3)
    assert found["ppl_zT"]["standard_error"] == pytest.approx(math.sqrt(2 * 64) * 2 / math.sqrt(4000), rel=0.1)
    assert found["ppl_zT"]["n"] == 4000
    assert found["ppl_zT"]["protocol"]["network"] == "squared difference of pixels"


def test_both_spaces_are_decoded_through_the_prior_and_have_the_same_endpoints():
    once, thrice = (lengths(linear_subject(Scaled(64, scale), n=200)) for scale in (1.0, 3.0))
    for name in once:
        assert thrice[name]["value"] == pytest.approx(9 * once[name]["value"], rel=1e-6)


def test_the_crop_is_of_the_face_and_only_where_there_may_be_one():
    """Of 64x64 pixels a quarter is in it."""
    found = lengths(linear_subject(priors.StandardNormal(64 * 64), 64, n=100))
    assert found.keys() == {"ppl_z0", "ppl_zT", "ppl_z0_cropped", "ppl_zT_cropped"}
    assert found["ppl_zT_cropped"]["value"] == pytest.approx(found["ppl_zT"]["value"] / 4, rel=0.05)
    assert "as in the paper" in found["ppl_zT_cropped"]["protocol"]["crop"]
    assert found["ppl_zT"]["protocol"]["crop"] == "none"
    fixed = replace(SQUARED, any_size=False)
    assert lengths(linear_subject(priors.StandardNormal(64 * 64), 64, n=4), fixed).keys() == {
        "ppl_z0",
        "ppl_zT",
    }


@pytest.mark.parametrize("strange", [torch.nan, torch.inf])
def test_lengths_that_are_not_finite_are_left_out_and_counted(strange):
    def distance(x, y):
        return torch.where(x[:, 0, 0, 0] > 1.5, strange, squared(x, y))

    found = lengths(linear_subject(priors.StandardNormal(64), n=500), replace(SQUARED, distance=distance))[
        "ppl_zT"
    ]
    assert 0 < found["non_finite"] < 250
    assert found["n"] == 500 - found["non_finite"]
    assert found["value"] == pytest.approx(128, abs=10)


def autoregressive():
    masked = partial(pyro_transforms.affine_autoregressive, hidden_dims=[8])
    return priors.Flow(4, [partial(transforms.inverse_of, factory=masked, input_dim=4)], layers=1, whiten=None)


ZOO = {
    "standard normal": lambda: priors.StandardNormal(4),
    "paper's flow": lambda: priors.paper_flow(4, layers=2, width=8),
    "masked autoregressive flow": autoregressive,
    "flow matching": lambda: priors.FlowMatching(4, width=8, layers=1),
    "conditional flow": lambda: priors.conditional_paper_flow(4, 10, 2, 8),
    "mixture": lambda: priors.Mixture(4, 3),
    "vamp": lambda: priors.VampPrior(4, (1, 8, 8), 3),
    "sampler": lambda: priors.NeuralSampler(4, 1, 8),
}


@pytest.mark.parametrize("name", ZOO)
def test_every_prior_is_judged_in_float64_and_left_as_it_was(name):
    ae = jiggle(small_autoencoder(prior=ZOO[name]()))
    ae.train()
    images, _ = data.with_context(data.fake(50, (1, 8, 8)), "label")
    before = {key: value.clone() for key, value in ae.state_dict().items()}
    seen = []

    def distance(x, y):
        seen.append(x.dtype)
        return squared(x, y)

    found = lengths(Subject(ae, images, n=30), replace(SQUARED, distance=distance))
    assert found.keys() == ({"ppl_z0", "ppl_zT"} if ae.prior.has_base else {"ppl_zT"})
    assert all(one["n"] == 30 and one["value"] > 0 for one in found.values())
    assert set(seen) == {torch.float64}
    assert torch.get_default_dtype() == torch.float32
    assert ae.training
    assert all(torch.equal(value, before[key]) for key, value in ae.state_dict().items())
    torch.rand(3)
    assert lengths(Subject(ae, images, n=30)) == found  # whatever was drawn before


class Told(priors.StandardNormal):
    """A prior that is its context plus noise."""

    context_dim = 10

    def __init__(self, noise):
        super().__init__(64)
        self.noise = noise

    def shift(self, context):
        return context.repeat(1, 7)[:, :64]

    def forward(self, context=None, *, temperature=1.0):
        shift = self.shift(context)
        return torch.distributions.Independent(torch.distributions.Normal(shift, self.noise), 1)

    def to_latent(self, z, context=None):
        return self.shift(context) + self.noise * z

    def to_base(self, z, context=None):
        return (z - self.shift(context)) / self.noise


def conditional_subject(noise, **options):
    subject = linear_subject(Told(noise), **options)
    images, _ = data.with_context(subject.data, "label")
    return replace(subject, data=images)


def test_both_ends_of_a_path_have_one_context():
    """Else the distance between contexts, 12.6 in expectation, would be in it."""
    found = lengths(conditional_subject(0.01, n=100))
    assert found["ppl_zT"]["value"] == pytest.approx(128e-4, rel=0.2)
    assert found["ppl_z0"]["value"] == pytest.approx(159e-4, rel=0.2)
    assert found["ppl_z0"]["protocol"]["context"] == "of random training images, one for both ends"


def test_path_lengths_in_the_data_sets_own_features(tmp_path, monkeypatch):
    monkeypatch.setenv("PYRO_LRP_CACHE", str(tmp_path))
    ae = small_autoencoder().eval()
    subject = Subject(ae, data.fake(100, (1, 8, 8)), n=20)
    found = METRICS["ppl_classifier"].compute(subject)
    assert found.keys() == {"ppl_classifier_z0", "ppl_classifier_zT"}
    assert found["ppl_classifier_z0"]["value"] > 0
    assert "surrogate" in found["ppl_classifier_z0"]["protocol"]
    assert METRICS["ppl_classifier"].lacks(replace(subject, data=unlabelled())) is not None


def unlabelled():
    split = data.Split(torch.zeros(4, 1, 8, 8, dtype=torch.uint8))
    return data.ImageData("npz", split, split)


# --------------------------------------------------------------------- diversity


def with_distance(subject, distance, network="alexnet"):
    subject.memo(("lpips", network), lambda: ImageDistance(distance, {}, any_size=True))
    return subject


def share_different(x, y):
    return (x != y).flatten(1).double().mean(1)


def test_diversity_of_independent_pairs():
    """Pixels of N(0, 1) are clipped to 0 with probability 1/2, to 1 with 0.16, and are else all different."""
    subject = with_distance(linear_subject(priors.StandardNormal(64)), share_different)
    (found,) = lpips_diversity(subject, "lpips_diversity", ALEXNET).values()
    above = 0.5 * math.erfc(math.sqrt(0.5))
    steps = (1 - 0.5 - above) / 255  # two in between are rounded to the same, if at all, so rarely
    assert found["value"] == pytest.approx(1 - 0.25 - above**2, abs=0.01 + steps)
    assert found["n"] == 1900
    assert found["standard_error"] == pytest.approx(math.sqrt(0.725 * 0.275 / 64 / 1900), rel=0.2)
    again = with_distance(linear_subject(priors.StandardNormal(64)), share_different)
    assert lpips_diversity(again, "lpips_diversity", ALEXNET)["lpips_diversity"] == found


def test_the_pairs_of_a_conditional_prior_share_a_context():
    subject = with_distance(conditional_subject(1e-6, n=20, k=5), share_different)
    (found,) = lpips_diversity(subject, "d", ALEXNET).values()
    assert found["value"] == 0.0  # rounded to the same files
    assert found["n"] == 100
    assert found["protocol"]["contexts"] == "of 20 test images"
    noisy = with_distance(conditional_subject(1.0, n=20, k=5), share_different)
    (found,) = lpips_diversity(noisy, "d", ALEXNET).values()
    assert found["value"] > 0.5
    assert 0 < found["standard_error"] < 0.05


def test_pairs_are_independent_only_between_contexts():
    """Distances that depend on the context alone: the error is that of 20 values, not of 100."""
    subject = conditional_subject(1e-6, n=20, k=5)
    with_distance(subject, lambda x, y: x.flatten(1)[:, :10].argmax(1).double())  # the class
    (found,) = lpips_diversity(subject, "d", ALEXNET).values()
    classes = subject.some(subject.data.test, 20, "lpips_diversity").labels.double()
    assert found["value"] == pytest.approx(classes.mean().item())
    assert found["standard_error"] == pytest.approx(classes.std().item() / math.sqrt(20))


def test_images_that_are_not_finite_are_not_clipped_into_the_mean():
    class Torn(Picture):
        def forward(self, z):
            return super().forward(torch.where(z[:, :1] > 1.0, torch.inf, z))

    subject = with_distance(linear_subject(priors.StandardNormal(64), n=50, k=2), share_different)
    subject.autoencoder.decoder = Torn()
    (found,) = lpips_diversity(subject, "d", ALEXNET).values()
    assert 0 < found["non_finite"] < 70
    assert found["n"] == 100 - found["non_finite"]


# --------------------------------------------------------------------- perceptual change


def test_a_straight_path_of_a_linear_model_changes_evenly():
    subject = linear_subject(Scaled(64, 2.0), n=30)
    with_distance(subject, lambda x, y: (x - y).abs().flatten(1).mean(1), "vgg16")
    found = perceptual_change(subject, "change", "vgg16")
    assert found.keys() == {"change_z0", "change_zT"}
    straight = found["change_zT"]
    assert straight["value"] == pytest.approx(0, abs=1e-4)
    assert len(straight["median"]) == len(straight["low"]) == len(straight["high"]) == 15
    assert straight["low"][0] < straight["median"][0] < straight["high"][0]
    assert straight["n"] == 30
    pixels = subject.data.test.images.flatten(1) / 255.0
    steps = torch.cdist(pixels, pixels, p=1)[~torch.eye(60, dtype=torch.bool)] / 64 / 15
    assert steps.min() <= min(straight["low"]) <= max(straight["high"]) <= steps.max() + 1e-6
    medians = found["change_z0"]["median"]
    assert found["change_z0"]["value"] == pytest.approx(np.std(medians) / np.mean(medians))
    assert found["change_z0"]["value"] > 1e-3  # a round path between images is not straight


@pytest.mark.parametrize("prior", ["paper's flow", "conditional flow", "masked autoregressive flow"])
def test_paths_in_either_space_have_the_same_ends(prior):
    """Spec 15.35: the posterior means of the two images, for a prior is a bijection."""
    ae = jiggle(small_autoencoder(prior=ZOO[prior]())).eval()
    images, _ = data.with_context(data.fake(50, (1, 8, 8)), "label")
    subject = Subject(ae, images)
    pair = torch.tensor([[3, 7], [20, 4], [9, 8]])
    with torch.no_grad():
        base, latent = (_sequence(subject, pair, space) for space in ("z0", "zT"))
        ends = torch.stack([ae.decode(ae.encode(images.test.batch(rows).x).mean) for rows in pair.T], 1)
    assert base.shape == (3, 16, 1, 8, 8)
    for sequence in (base, latent):
        torch.testing.assert_close(sequence[:, [0, -1]], ends, rtol=1e-3, atol=1e-4)
    assert (base[:, 8] - latent[:, 8]).abs().max() > 1e-4


def test_a_path_has_the_context_of_its_first_image():
    """Another context would shift its ends by one."""
    subject = conditional_subject(0.5)
    pair = torch.tensor([[3, 7], [20, 4], [9, 8]])
    with torch.no_grad():
        sequence = _sequence(subject, pair, "z0")
    for position, rows in ((0, pair[:, 0]), (-1, pair[:, 1])):
        torch.testing.assert_close(sequence[:, position], subject.data.test.batch(rows).x, atol=1e-5, rtol=0)
    halfway = _round(subject, pair)
    torch.testing.assert_close(sequence[:, 8].flatten(1), halfway, atol=1e-5, rtol=0)


def _round(subject, pair):
    """By hand, at step 8 of 15."""
    x, y = (subject.data.test.batch(rows).x.flatten(1) for rows in pair.T)
    prior, context = subject.autoencoder.prior, subject.data.test.context[pair[:, 0]]
    return prior.to_latent(slerp(prior.to_base(x, context), prior.to_base(y, context), 8 / 15), context)


def test_sequences_that_are_not_finite_are_left_out_and_counted():
    subject = linear_subject(priors.StandardNormal(64), n=40)
    calls = []

    def distance(x, y):
        calls.append(len(x))
        values = squared(x, y)
        if len(calls) == 1:
            values[3] = torch.nan
        return values

    with_distance(subject, distance, "vgg16")
    found = perceptual_change(subject, "change", "vgg16")
    assert [one["non_finite"] for one in found.values()] == [1, 0]
    with_distance(subject, lambda x, y: squared(x, y) + torch.inf, "squeezenet")
    empty = perceptual_change(subject, "change", "squeezenet")["change_zT"]
    assert math.isnan(empty["value"])
    assert empty["median"] == [None] * 15


# --------------------------------------------------------------------- the metrics by name


NETWORKS = {
    "ppl": "vgg16",
    "ppl_squeezenet": "squeezenet",
    "ppl_classifier": None,
    "lpips_diversity": "alexnet",
    "lpips_diversity_squeezenet": "squeezenet",
    "diversity_classifier": None,
    "perceptual_change": "vgg16",
    "perceptual_change_squeezenet": "squeezenet",
}


def test_each_metric_has_its_network():
    assert {name: metric.network for name, metric in METRICS.items()} == NETWORKS


def test_the_metrics_on_a_trunk_from_a_file(tmp_path):
    with torch.device("meta"):
        shapes = torchvision.models.squeezenet1_1(weights=None).features.state_dict()
    scales = {name: (2 / max(1, meta[0].numel())) ** 0.5 for name, meta in shapes.items()}
    state = {f"features.{name}": scales[name] * torch.randn(meta.shape) for name, meta in shapes.items()}
    save_file(state, tmp_path / "own.safetensors")
    steps = []
    subject = Subject(
        jiggle(small_autoencoder()).eval(), data.fake(20, (1, 8, 8)), n=3, k=2,
        weights={"squeezenet": tmp_path / "own.safetensors"}, on_step=lambda *step: steps.append(step),
    )  # fmt: skip
    names = [name for name, network in NETWORKS.items() if network == "squeezenet"]
    found = {key: one for name in names for key, one in METRICS[name].compute(subject).items()}
    ends = ("ppl_squeezenet_z", "perceptual_change_squeezenet_z")
    assert found.keys() == {end + space for end in ends for space in "0T"} | {"lpips_diversity_squeezenet"}
    for one in found.values():
        assert one["protocol"]["network"] == "LPIPS v0.1, squeezenet trunk"
        assert one["protocol"]["surrogate"].startswith("weights of own.safetensors")
        assert math.isfinite(one["value"])
    assert steps[-1] == (3, 3)


@pytest.mark.parametrize(("side", "least"), [(8, 48), (32, 48), (64, 48), (256, 3)])
def test_large_images_are_taken_few_at_once(side, least):
    assert batch_size(Subject(small_autoencoder(), data.fake(2, (1, side, side)))) == least
