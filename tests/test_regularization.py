"""The closed form of the KL, free bits, and whose beta it is."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from builders import gradients, jiggle, small_autoencoder
from test_objectives import BETAS, assert_equal, is_theta, one_pass, terms
from torch import nn
from torch.distributions import kl_divergence

from pyro_lrp import networks
from pyro_lrp.models import Autoencoder
from pyro_lrp.objectives import BilevelELBO, LatentGame
from pyro_lrp.priors import FlowMatching, Prior, StandardNormal


class DiagonalPrior(Prior):
    """A learned N(m, s^2), for which the KL has a closed form."""

    def __init__(self, dim):
        super().__init__()
        self.event_shape = torch.Size([dim])
        self.mean, self.log_scale = nn.Parameter(torch.randn(dim)), nn.Parameter(torch.randn(dim))

    def forward(self, context=None, *, temperature=1.0):
        return dist.Normal(self.mean, temperature * self.log_scale.exp()).to_event(1)


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("single_level", [False, True])
def test_the_closed_form_is_the_two_objectives_with_torchs_kl(x, beta, single_level):
    ae = jiggle(small_autoencoder(prior=DiagonalPrior(4), learn_gamma=True)).double()
    actual = one_pass(ae, x, beta, kl="analytic", single_level=single_level)

    def objectives():
        log_x, _, _ = terms(ae, x)
        loc, scale = ae.encoder(x)
        q, p = dist.Normal(loc, scale), dist.Normal(ae.prior.mean, ae.prior.log_scale.exp())
        return log_x, kl_divergence(q, p).sum()

    log_x, kl = objectives()
    upper = gradients(-log_x + beta * kl, ae)
    # the entropy in the KL has no theta: up to a constant the lower objective is -KL
    lower = upper if single_level else gradients(objectives()[1], ae)
    assert_equal(actual, upper, [n for n in upper if not is_theta(n)])
    assert_equal(actual, lower, [n for n in lower if is_theta(n)])


def test_known_closed_form_values():
    """Spec 15.2: KL(N(1,1)||N(0,1)) = 0.5 and KL(N(0,4)||N(0,1)) = 0.8068528."""

    class Encoder(nn.Module):
        def forward(self, x):
            return x[:, :1], x[:, 1:]

    from pyro_lrp.likelihoods import Gaussian

    ae = Autoencoder(Encoder(), nn.Linear(1, 2), StandardNormal(1), Gaussian())
    for loc, scale, kl in ((1.0, 1.0, 0.5), (0.0, 2.0, 0.8068528)):
        losses = BilevelELBO(1.0, kl="auto").losses(ae.model, ae.guide, torch.tensor([[loc, scale]]))
        assert losses.terms["kl"].item() == pytest.approx(kl, abs=1e-6)


def test_closed_form_agrees_with_sampling_and_plates(ae):
    ae.prior = StandardNormal(4).double()
    big = torch.rand(1, 1, 8, 8, dtype=torch.float64).expand(20_000, 1, 8, 8)
    sampled, closed = (
        BilevelELBO(1.0, kl=kl).losses(ae.model, ae.guide, big).terms for kl in ("sampled", "analytic")
    )
    assert sampled["kl"].item() == pytest.approx(
        closed["kl"].item(), abs=0.1
    )  # deviation about 1.5 / sqrt(20,000)

    def model(x):
        with pyro.plate("batch", 12, subsample=torch.arange(3)):
            z = pyro.sample("z", ae.prior())
            pyro.sample("x", ae.likelihood(ae.decode(z)), obs=x)

    def guide(x):
        with pyro.plate("batch", 12, subsample=torch.arange(3)):
            pyro.sample("z", ae.encode(x))

    scaled = BilevelELBO(1.0, kl="analytic").losses(model, guide, big[:3])
    plain = BilevelELBO(1.0, kl="analytic").losses(ae.model, ae.guide, big[:3])
    torch.testing.assert_close(scaled.terms["kl"], plain.terms["kl"])


def test_auto_samples_where_there_is_no_closed_form(ae, x):
    expected = one_pass(ae, x, 0.5)
    assert_equal(one_pass(ae, x, 0.5, kl="auto"), expected, expected)
    with pytest.raises(
        ValueError, match=r"site 'z' has no closed-form KL \(Independent and FlowDistribution\)"
    ):
        one_pass(ae, x, 0.5, kl="analytic")


@pytest.mark.parametrize("beta", [0.5, torch.tensor(0.5, dtype=torch.float64)])
def test_free_bits_of_a_sampled_kl_switch_the_upper_regularization_off_and_on(ae, x, beta):
    log_x, log_p, log_q = terms(ae, x)
    kl = (log_q - log_p).item() / len(x)
    assert kl > 0.5
    free, held = kl / 4 * 1.01, kl / 4 * 0.99  # nats for each of the 4 dimensions
    above, below = one_pass(ae, x, beta, free_bits=held), one_pass(ae, x, beta, free_bits=free)
    regular = one_pass(ae, x, beta)
    assert_equal(above, regular, regular, tolerance=1e-14)
    alone = gradients(-log_x, ae)
    assert_equal(below, alone, [n for n in alone if not is_theta(n)])
    assert_equal(below, regular, [n for n in regular if is_theta(n)], tolerance=1e-14)  # f knows no free bits


def test_free_bits_in_closed_form_are_the_maximum_dimension_by_dimension(ae, x):
    ae.prior = StandardNormal(4).double()
    loc, scale = ae.encoder(x)
    each = kl_divergence(dist.Normal(loc, scale), dist.Normal(0.0, 1.0)).mean(0)
    free = each.sort().values[1:3].mean().item()  # two dimensions below, two above
    log_x, _, _ = terms(ae, x)
    expected = gradients(-log_x + 3.0 * len(x) * each.clamp(min=free).sum(), ae)
    assert_equal(one_pass(ae, x, 3.0, kl="analytic", free_bits=free), expected, expected)


def test_a_scheduled_beta_is_the_constant_of_the_moment(ae, x):
    from pyro_lrp.data import Batch
    from pyro_lrp.schedules import Linear, Progress

    game = LatentGame(ae, BilevelELBO(4.0), Linear(start=0.0, stop=0.5)).double()
    for fraction, beta in ((0.0, 0.0), (0.1, 0.8), (0.7, 4.0)):
        game.advance(Progress(0, fraction))
        torch.manual_seed(0)
        losses = game("joint", [Batch(x)], {})
        assert losses.terms["beta"].item() == pytest.approx(beta)
        actual, expected = gradients(len(x) * losses.loss, ae), one_pass(ae, x, beta)
        assert_equal(actual, expected, expected, tolerance=1e-9)
    assert "beta.scheduled" not in game.state_dict()  # a function of the step: nothing to resume


@pytest.mark.parametrize("beta", [0.0, 0.5])
def test_a_deterministic_encoder_has_neither_entropy_nor_kl(ae, x, beta):
    """Its code is a point: log p(z) is a term, and F is log p(x|z) + beta log p(z)."""
    ae.encoder, _ = networks.mlp((1, 8, 8), 4, hidden_dims=(16,), stochastic=False)
    ae.double()
    losses = BilevelELBO(beta).losses(ae.model, ae.guide, x)
    assert set(losses.terms) == {"log_likelihood", "log_prior"}
    z, _ = ae.encoder(x)
    log_x = dist.Normal(ae.decoder(z), ae.likelihood.log_scale.exp()).log_prob(x).sum()
    upper = gradients(-(log_x + beta * ae.prior().log_prob(z).sum()), ae)
    actual = gradients(losses.loss, ae)
    assert_equal(actual, upper, [n for n in upper if not is_theta(n)])


def test_beta_has_one_owner(ae):
    """A game's ELBO reads the game's weight; the ELBO that it was given stays as it was."""
    from pyro_lrp.schedules import Linear, Progress

    elbo = BilevelELBO(4.0)
    game = LatentGame(ae, elbo, Linear(start=0.0, stop=0.5))
    game.advance(Progress(0, 0.25))
    assert game.elbo.beta is game.beta()
    assert game.elbo.beta.item() == 2.0
    assert elbo.beta == 4.0
    with pytest.raises(AttributeError):
        elbo.beta = 1.0


def test_a_prior_with_a_loss_of_its_own_has_no_closed_form(ae, x):
    ae.prior = FlowMatching(4, width=8, layers=1).double()
    with pytest.raises(ValueError, match="site 'z' has no closed-form KL"):
        one_pass(ae, x, 0.0, kl="analytic")
