"""Path lengths: of tensors, and of models in both latent spaces."""

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from builders import jiggle, small_autoencoder
from linear_models import SQUARED, ZOO, Scaled, conditional_subject, linear_subject, squared, unlabelled

from pyro_lrp import data, priors
from pyro_lrp.latents import lerp, slerp
from pyro_lrp.metrics import Subject, path_length, path_lengths
from pyro_lrp.metrics.metric import standard_error
from pyro_lrp.metrics.path_length import face_crop, perceptual_path_length
from pyro_lrp.metrics.perceptual import METRICS


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


def test_both_ends_of_a_path_have_one_context():
    """Else the distance between contexts, 12.6 in expectation, would be in it."""
    found = lengths(conditional_subject(0.01, n=100))
    assert found["ppl_zT"]["value"] == pytest.approx(128e-4, rel=0.2)
    assert found["ppl_z0"]["value"] == pytest.approx(159e-4, rel=0.2)
    assert found["ppl_z0"]["protocol"]["context"] == "of test images in random order, one for both ends"


def test_path_lengths_in_the_data_sets_own_features(tmp_path, monkeypatch):
    monkeypatch.setenv("PYRO_LRP_CACHE", str(tmp_path))
    ae = small_autoencoder().eval()
    subject = Subject(ae, data.fake(100, (1, 8, 8)), n=20)
    found = METRICS["ppl_classifier"].compute(subject)
    assert found.keys() == {"ppl_classifier_z0", "ppl_classifier_zT"}
    assert found["ppl_classifier_z0"]["value"] > 0
    assert "surrogate" in found["ppl_classifier_z0"]["protocol"]
    assert METRICS["ppl_classifier"].lacks(replace(subject, data=unlabelled())) is not None
