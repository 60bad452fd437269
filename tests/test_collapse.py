"""The collapse of codes under N(0, I), predicted from the covariance of the images."""

import pytest
import torch
from builders import small_autoencoder
from commands import QUICK

from pyro_lrp import likelihoods, priors, schedules
from pyro_lrp.data import Split
from pyro_lrp.networks import NoisyEncoder
from pyro_lrp.objectives import BilevelELBO, LatentGame
from pyro_lrp.objectives.collapse import collapse, largest_variance


def images(variances, n=400):
    """Images of independent pixels with these variances."""
    signs = torch.tensor([-1.0, 1.0]).repeat(n // 2)
    columns = [signs[torch.randperm(n)] * v**0.5 for v in variances]
    pixels = 0.5 + torch.stack(columns, 1)
    assert pixels.min() >= 0
    assert pixels.max() <= 1
    return Split((255 * pixels).round().to(torch.uint8).reshape(n, 1, 1, -1))


def test_the_largest_variance_is_that_of_the_first_principal_component():
    split = images([0.2, 0.05, 0.01])
    x = split.batch(slice(None)).x.flatten(1).double()
    expected = torch.linalg.eigvalsh(torch.cov(x.T, correction=0))[-1].item()
    assert largest_variance(split) == pytest.approx(expected, rel=1e-9)


def test_many_images_are_represented_by_some():
    assert largest_variance(images([0.2, 0.05], n=20_000)) == pytest.approx(0.2, rel=0.15)


NORMAL = priors.StandardNormal(2)
FIXED = likelihoods.Gaussian(gamma=0.5)
CASES = {  # the largest variance is 0.2
    "above the threshold": (NORMAL, FIXED, 0.3, False),
    "below it": (NORMAL, FIXED, 0.5, True),
    "no regularization": (NORMAL, FIXED, 0.0, False),
    "a learned variance": (NORMAL, likelihoods.Gaussian(learn=True), 9.0, False),
    "another likelihood": (NORMAL, likelihoods.Bernoulli(), 9.0, False),
    "a learned prior": (priors.paper_flow(2, layers=2, width=8), FIXED, 9.0, False),
    "a scheduled weight": (NORMAL, FIXED, torch.tensor(0.5), True),
}


@pytest.mark.parametrize("case", CASES)
def test_codes_collapse_where_no_direction_pays(case):
    prior, likelihood, beta, expected = CASES[case]
    warning = collapse(prior, likelihood, beta, images([0.2, 0.05]))
    assert (warning is not None) == expected
    if expected:
        assert "beta * gamma = 0.25" in warning
        assert "at most 0.2" in warning


def game(**options):
    ae = small_autoencoder(prior=options.pop("prior", None) or priors.StandardNormal(4))
    return LatentGame(ae, BilevelELBO(1.0, **options), schedules.Linear(0.0, 0.5))


@pytest.mark.parametrize(
    ("options", "phase", "expected"),
    [
        ({}, "joint", True),
        ({}, "autoencoder_only", True),
        ({}, "decoder_only", False),
        ({}, "prior_only", False),
        ({"free_bits": 0.1}, "joint", False),
        ({"beta_prior": 0.5}, "joint", False),
        ({"prior": priors.paper_flow(4, layers=2, width=8)}, "joint", False),
        ({"prior": priors.paper_flow(4, layers=2, width=8)}, "autoencoder_only", True),
    ],
)
def test_the_game_warns_of_the_phases_under_a_normal_prior(options, phase, expected):
    assert (game(**options).caution(phase, images([0.2, 0.05])) is not None) == expected


@pytest.mark.parametrize(
    ("noise", "norm", "beta", "prior", "expected"),
    [
        ("fixed", "none", 1.0, "flow", True),
        ("fixed", "none", 0.0, "flow", False),
        ("fixed", "batch", 1.0, "flow", False),
        ("floor", "none", 1.0, "flow", False),
        ("fixed", "none", 1.0, "normal", False),
    ],
)
def test_a_scale_that_would_shrink_is_told(noise, norm, beta, prior, expected):
    ae = small_autoencoder(learn_gamma=True, prior=priors.StandardNormal(4) if prior == "normal" else None)
    ae.encoder = NoisyEncoder(ae.encoder, 4, noise, 0.1, norm)
    warning = LatentGame(ae, BilevelELBO(beta)).caution("joint", images([0.2, 0.05]))
    assert (warning is not None) == expected
    if expected:
        assert "network.latent_norm=batch" in warning


def test_it_is_said_before_training(train):
    code, _, err = train(*QUICK, "data=digits", "data.limit=200", "model=vae", "beta=2")
    assert (code, err.count("codes collapse: beta * gamma = 2,")) == (0, 1), err
    assert err.index("codes collapse") < err.index("steps on cpu")
