"""Path lengths, diversity and perceptual change: known values of linear models, laws of the protocol."""

import math

import numpy as np
import pytest
import torch
import torchvision
from builders import jiggle, small_autoencoder
from linear_models import ALEXNET, ZOO, Picture, Scaled, conditional_subject, linear_subject, squared
from safetensors.torch import save_file

from pyro_lrp import data, priors
from pyro_lrp.latents import slerp
from pyro_lrp.metrics import Subject, perceptual_changes
from pyro_lrp.metrics.image_distance import ImageDistance, batch_size
from pyro_lrp.metrics.perceptual import METRICS, _sequence, lpips_diversity, perceptual_change

# --------------------------------------------------------------------- tensors


def test_changes_of_a_sequence_are_between_neighbours():
    levels = torch.tensor([[0.0, 1.0, 3.0, 3.0], [2.0, 0.0, 0.0, 5.0]])
    images = levels[..., None, None, None].expand(2, 4, 1, 3, 3)
    found = perceptual_changes(images, lambda x, y: (x - y).abs().flatten(1).mean(1))
    assert found.tolist() == [[1, 2, 0], [2, 0, 5]]


# --------------------------------------------------------------------- path length of a model


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
