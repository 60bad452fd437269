"""Noise apart from pull: the codes' noise and scale, and the two halves of the KL."""

import json

import pyro.distributions as dist
import pytest
import torch
from builders import gradients, small_autoencoder
from commands import QUICK, composed, only_run
from test_objectives import assert_equal, is_theta, one_pass, terms
from torch import nn

import pyro_lrp
from pyro_lrp import networks
from pyro_lrp.networks import NoisyEncoder, with_noise
from pyro_lrp.objectives import BilevelELBO, LatentGame


class Fixed(nn.Module):
    """An encoder of given means, which are its input, and of a constant scale."""

    def __init__(self, scale):
        super().__init__()
        self.scale = scale

    def forward(self, x):
        return x, None if self.scale is None else torch.full_like(x, self.scale)


MEANS = torch.tensor([[0.0, 0.0], [2.0, 20.0]])  # deviations 1 and 10


@pytest.mark.parametrize(
    ("noise", "own", "floor", "expected"),
    [
        ("fixed", 3.0, 0.5, [0.5, 5.0]),
        ("fixed", None, 0.5, [0.5, 5.0]),
        ("fixed", None, [0.5, 0.1], [0.5, 1.0]),
        ("floor", 1.2, 0.5, [1.3, (1.44 + 25) ** 0.5]),
        ("floor", 1.2, [0.5, 0.0], [1.3, 1.2]),
        ("floor", None, 0.5, [0.5, 5.0]),
    ],
)
def test_known_scales(noise, own, floor, expected):
    encoder = NoisyEncoder(Fixed(own), 2, noise, floor)
    loc, scale = encoder(MEANS)
    assert torch.equal(loc, MEANS)
    torch.testing.assert_close(scale, torch.tensor([expected, expected]))
    encoder.eval()
    _, scale = encoder(100 * MEANS)  # the spread is that of training
    torch.testing.assert_close(scale, torch.tensor([expected, expected]))


def test_the_spread_is_a_running_one_and_has_no_gradient():
    encoder = NoisyEncoder(Fixed(None), 2, "fixed", 1.0, momentum=0.25)
    x = MEANS.clone().requires_grad_()
    encoder(x)
    _, scale = encoder(5 * x)
    torch.testing.assert_close(encoder.spread, torch.tensor([2.0, 20.0]))  # 0.75 * 1 + 0.25 * 5
    assert not scale.requires_grad


def test_collapsed_and_single_codes_keep_a_finite_density():
    encoder = NoisyEncoder(Fixed(None), 2, "fixed", 0.1)
    for x in (torch.ones(4, 2), torch.ones(1, 2)):
        loc, scale = encoder(x)
        assert dist.Normal(loc, scale).log_prob(loc).isfinite().all()


@pytest.mark.parametrize("norm", ["batch", "layer"])
def test_standardised_means_have_mean_0_and_variance_1(norm):
    encoder = NoisyEncoder(Fixed(0.3), 8, latent_norm=norm)
    over = {"batch": 0, "layer": 1}[norm]
    x = 5.0 + torch.tensor([1.0, 10.0]).repeat(4) * torch.randn(200, 8)
    loc, scale = encoder(x)
    assert loc.mean(over).abs().max() < 1e-5
    torch.testing.assert_close(loc.var(over, correction=0), torch.ones(loc.shape[1 - over]), atol=1e-3, rtol=0)
    assert (scale == 0.3).all()
    assert list(encoder.parameters()) == []


def test_without_an_option_the_encoder_is_itself():
    encoder = networks.mlp((1, 8, 8), 4, (8,))[0]
    assert with_noise(encoder, 4) is encoder


BAD = {
    "noise": ({"noise": "loud"}, "noise must be one of learned, floor, fixed"),
    "norm": ({"latent_norm": "group"}, "latent_norm must be one of none, batch, layer"),
    "negative": (
        {"noise": "floor", "noise_floor": -0.1},
        "noise_floor must be a number of at least 0, got -0.1",
    ),
    "nan": ({"noise": "floor", "noise_floor": float("nan")}, "noise_floor must be a number of at least 0"),
    "flag": ({"noise": "floor", "noise_floor": True}, "noise_floor must be a number of at least 0"),
    "as many as dimensions": (
        {"noise": "fixed", "noise_floor": [0.1, 0.2]},
        "noise_floor has 2 numbers, and a code 4 dimensions",
    ),
    "text in a list": (
        {"noise": "fixed", "noise_floor": [0.1, 0.2, "a", 0.1]},
        "noise_floor must be a number of at least 0, got 'a'",
    ),
    "no effect": ({"noise_floor": 0.1}, "noise_floor has no effect with noise=learned"),
    "nothing": ({"noise": "fixed"}, "noise=fixed needs a noise_floor above 0"),
}


@pytest.mark.parametrize("case", BAD)
def test_options_without_meaning_are_refused(case):
    options, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        with_noise(Fixed(1.0), 4, **options)


def test_the_unet_has_no_scale_to_choose():
    encoder, _ = networks.vunet((3, 32, 32), 160, first=1, most=2)
    with pytest.raises(ValueError, match="no effect on codes of unit variance"):
        with_noise(encoder, 160, noise="fixed", noise_floor=0.1)


# ----------------------------------------------------------------- two weights


WEIGHTS = (0.0, 0.3, 1.0, 4.0)


@pytest.mark.parametrize("pull", WEIGHTS)
@pytest.mark.parametrize("entropy", WEIGHTS)
@pytest.mark.parametrize("single_level", [False, True])
def test_one_pass_equals_the_objectives_with_two_weights(ae, x, pull, entropy, single_level):
    log_x, log_p, log_q = terms(ae, x)
    upper = gradients(-(log_x + pull * log_p - entropy * log_q), ae)
    log_x, log_p, log_q = terms(ae, x)
    lower = upper if single_level else gradients(-log_p, ae)
    # beta itself must not matter
    options = {"beta_prior": pull, "beta_entropy": entropy, "single_level": single_level}
    actual = one_pass(ae, x, 0.77, **options)
    assert_equal(actual, upper, [n for n in upper if not is_theta(n)])
    assert_equal(actual, lower, [n for n in lower if is_theta(n)])


@pytest.mark.parametrize("one", ["beta_prior", "beta_entropy"])
def test_a_weight_that_is_not_given_is_beta(ae, x, one):
    expected = one_pass(ae, x, 0.4)
    assert_equal(one_pass(ae, x, 0.4, **{one: 0.4}), expected, expected, tolerance=0)


def test_free_bits_are_of_the_whole_kl():
    with pytest.raises(ValueError, match="free_bits are bits of the whole KL"):
        BilevelELBO(1.0, free_bits=0.1, beta_prior=0.0)


def test_an_entropy_alone_needs_means_that_cannot_spread():
    elbo = BilevelELBO(0.0, beta_entropy=1.0)
    runaway = small_autoencoder()
    with pytest.raises(ValueError, match="grow without bound"):
        LatentGame(runaway, elbo)
    dim = runaway.prior.event_shape[0]
    own = runaway.encoder
    runaway.encoder = NoisyEncoder(own, dim, latent_norm="batch")
    LatentGame(runaway, elbo)
    runaway.encoder = NoisyEncoder(own, dim, "fixed", 0.1, "batch")
    with pytest.raises(ValueError, match="beta_entropy has no effect"):
        LatentGame(runaway, elbo)
    LatentGame(runaway, BilevelELBO(1.0))  # the whole KL, as ever


# ----------------------------------------------------------------- runs

FLOORS = [0.2, 0.2, 0.3, 0.2, 0.2, 0.4, 0.2, 0.2]
NOISY = ("network.noise=floor", f"network.noise_floor={FLOORS}".replace(" ", ""), "network.latent_norm=batch")


def test_a_run_with_noise_trains_resumes_and_loads(train, interrupt_at):
    options = (*QUICK, "network=mlp", "epochs=4", "trainer.report_every=1", "trainer.save_minutes=0", *NOISY)
    assert train(*options, "name=whole")[0] == 0
    interrupt_at(5)
    train(*options, "name=parts")
    assert train(*options, "name=parts")[0] == 0
    whole, parts = (pyro_lrp.load(f"runs/{name}/seed_0") for name in ("whole", "parts"))
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, parts.state_dict()[name]), name
    run = pyro_lrp.Run("runs/whole/seed_0")
    codes = run.codes("test")
    assert (codes.scale > torch.tensor(FLOORS) * whole.encoder.spread * 0.999).all()
    summary = json.loads((run.directory / "summary.json").read_text())
    assert summary["final"]["test/relative_scale"] > 0.19


def test_a_deterministic_encoder_of_an_aae_gets_fixed_noise(train):
    options = (
        "model=aae",
        "network=mlp",
        "network.stochastic=false",
        "network.noise=fixed",
        "network.noise_floor=0.3",
    )
    assert train(*QUICK, *options, "objective.discriminator.width=8")[0] == 0
    run = pyro_lrp.Run(only_run())
    x = run.data.test.batch(slice(0, 50)).x
    q = run.autoencoder.encode(x)
    torch.testing.assert_close(q.stddev, (0.3 * run.autoencoder.encoder.spread).expand(50, -1))
    assert not torch.equal(q.sample(), q.mean)


def test_a_run_without_the_options_is_the_run_of_before():
    """Neither the module nor its buffers are in the way: checkpoints of before load."""
    identity = composed("data=fake")
    assert identity["network"]["noise"] == "learned"
    recorded = {
        key: identity["network"][key]
        for key in identity["network"]
        if not key.startswith(("noise", "latent_n"))
    }
    built = [
        pyro_lrp.config.build_autoencoder({**identity, "network": network}, (1, 28, 28))
        for network in (identity["network"], recorded)
    ]
    assert built[0].state_dict().keys() == built[1].state_dict().keys()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("network.noise_floor=0.1",), "network: noise_floor has no effect with noise=learned"),
        (
            ("network.noise=fixed", "network.noise_floor=-1"),
            "network: noise_floor must be a number of at least 0",
        ),
        (("objective.elbo.beta_entropy=1",), "grow without bound"),
        (("network.stochastic=false", "objective.elbo.beta_entropy=1"), "beta_entropy has no effect"),
        (("objective.elbo.beta_prior=-1",), "beta_prior"),
    ],
)
def test_mistakes_are_told_in_a_line(train, options, message):
    code, _, err = train(*QUICK, "network=mlp", *options)
    assert code == 1
    assert message in err.splitlines()[-1]
