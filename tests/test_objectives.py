"""Gradients of the one-pass loss against the two objectives written out (paper, Eq. 11-13), in float64."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from builders import GAMES, gradients, jiggle, small_autoencoder
from pyro.infer import SVI, Trace_ELBO
from torch import nn

from pyro_lrp.core.gradients import boundary
from pyro_lrp.models import Autoencoder
from pyro_lrp.objectives import BilevelELBO, LatentGame
from pyro_lrp.priors import Prior, StandardNormal, paper_flow

BETAS = (0.0, 0.1, 1.0, 25.0, torch.tensor(0.37, dtype=torch.float64))


def is_theta(name):
    return name.startswith("prior.")


def assert_equal(actual, expected, names, tolerance=1e-10):
    for name in names:
        scale = 1 + expected[name].abs().max().item()
        assert (actual[name] - expected[name]).abs().max().item() <= tolerance * scale, name


def terms(ae, x, seed=0):
    """log p(x|z), log p(z), log q(z|x), summed, for the noise that the ELBO draws under the same seed."""
    torch.manual_seed(seed)
    loc, scale = ae.encoder(x)
    z = loc + scale * torch.randn_like(loc)
    log_q = dist.Normal(loc, scale).to_event(1).log_prob(z).sum()
    mean = ae.decoder(z)
    log_x = dist.Normal(mean, ae.likelihood.log_scale.exp()).to_event(3).log_prob(x).sum()
    return log_x, ae.prior().log_prob(z).sum(), log_q


def one_pass(ae, x, beta, seed=0, **options):
    torch.manual_seed(seed)
    return gradients(BilevelELBO(beta, **options).differentiable_loss(ae.model, ae.guide, x), ae)


@pytest.mark.parametrize("beta", BETAS)
def test_one_pass_equals_the_two_objectives(ae, x, beta):
    log_x, log_p, log_q = terms(ae, x)
    upper = gradients(-(log_x + beta * (log_p - log_q)), ae)
    log_x, log_p, log_q = terms(ae, x)
    lower = gradients(-log_p, ae)
    actual = one_pass(ae, x, beta)
    assert_equal(actual, upper, [n for n in upper if not is_theta(n)])
    assert_equal(actual, lower, [n for n in lower if is_theta(n)])


def test_a_wrong_beta_would_be_seen(ae, x):
    log_x, log_p, log_q = terms(ae, x)
    upper = gradients(-(log_x + 0.1 * (log_p - log_q)), ae)
    with pytest.raises(AssertionError):
        assert_equal(one_pass(ae, x, 0.11), upper, [n for n in upper if not is_theta(n)])


@pytest.mark.parametrize("beta", BETAS)
def test_single_level_is_one_objective_for_all(ae, x, beta):
    log_x, log_p, log_q = terms(ae, x)
    expected = gradients(-(log_x + beta * (log_p - log_q)), ae)
    assert_equal(one_pass(ae, x, beta, single_level=True), expected, expected)


def test_at_beta_one_value_and_gradients_are_those_of_trace_elbo(ae, x):
    torch.manual_seed(0)
    stock = Trace_ELBO().differentiable_loss(ae.model, ae.guide, x)
    torch.manual_seed(0)
    ours = BilevelELBO(1.0).differentiable_loss(ae.model, ae.guide, x)
    torch.testing.assert_close(ours, stock, rtol=1e-12, atol=0)
    expected = gradients(stock, ae)
    assert_equal(gradients(ours, ae), expected, expected)


def test_the_priors_gradient_does_not_depend_on_beta(ae, x):
    reference = one_pass(ae, x, 0.0)
    for beta in BETAS[1:]:
        actual = one_pass(ae, x, beta)
        for name in filter(is_theta, reference):
            assert torch.equal(actual[name], reference[name]), name


def test_at_beta_zero_the_autoencoders_gradient_is_the_reconstructions_alone(ae, x):
    log_x, _, _ = terms(ae, x)
    expected = gradients(-log_x, ae)
    actual = one_pass(ae, x, 0.0)
    for name in expected:
        if not is_theta(name):
            torch.testing.assert_close(actual[name], expected[name], rtol=1e-13, atol=0)


class ContextPrior(Prior):
    """p(z|c) = N(W c, I): its context may come from the autoencoder, and must then pass the boundary."""

    def __init__(self, dim, context_dim):
        super().__init__()
        self.event_shape = torch.Size([dim])
        self.mean = nn.Linear(context_dim, dim)

    def forward(self, context=None, *, temperature=1.0):
        return dist.Normal(self.mean(context), temperature).to_event(1)


class Hierarchy(nn.Module):
    """Two latent sites: the prior of the second depends on the first, and on a feature of the decoder."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(5, 8)
        self.feature = nn.Linear(2, 3)  # belongs to the decoder, and also feeds the prior
        self.decoder = nn.Linear(7, 5)
        self.prior = nn.ModuleDict({"first": paper_flow(2, 2, 8), "second": ContextPrior(2, 5)})

    def model(self, x):
        with pyro.plate("batch", len(x)):
            z1 = pyro.sample("z1", self.prior["first"]())
            h = torch.tanh(self.feature(z1))
            context = torch.cat([boundary(z1), boundary(h)], dim=-1)
            z2 = pyro.sample("z2", self.prior["second"](context))
            mean = self.decoder(torch.cat([z1, z2, h], dim=-1))
            pyro.sample("x", dist.Normal(mean, 1.0).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("batch", len(x)):
            loc1, loc2, raw1, raw2 = self.encoder(x).chunk(4, dim=-1)
            pyro.sample("z1", dist.Normal(loc1, raw1.exp()).to_event(1))
            pyro.sample("z2", dist.Normal(loc2, raw2.exp()).to_event(1))

    def terms(self, x, *, detach):
        cut = (lambda t: t.detach()) if detach else (lambda t: t)
        torch.manual_seed(0)
        loc1, loc2, raw1, raw2 = self.encoder(x).chunk(4, dim=-1)
        q1, q2 = dist.Normal(loc1, raw1.exp()).to_event(1), dist.Normal(loc2, raw2.exp()).to_event(1)
        z1, z2 = q1.rsample(), q2.rsample()
        h = torch.tanh(self.feature(z1))
        log_x = dist.Normal(self.decoder(torch.cat([z1, z2, h], -1)), 1.0).log_prob(x).sum()
        context = torch.cat([cut(z1), cut(h)], -1)
        log_p = self.prior["first"]().log_prob(cut(z1)) + self.prior["second"](context).log_prob(cut(z2))
        return log_x, log_p.sum(), (q1.log_prob(z1) + q2.log_prob(z2)).sum()


@pytest.mark.parametrize("beta", BETAS)
def test_hierarchy_with_a_context_dependent_prior(beta):
    hierarchy = jiggle(Hierarchy().double())
    x = torch.randn(6, 5, dtype=torch.float64)
    torch.manual_seed(0)
    actual = gradients(BilevelELBO(beta).differentiable_loss(hierarchy.model, hierarchy.guide, x), hierarchy)
    log_x, log_p, log_q = hierarchy.terms(x, detach=False)
    upper = gradients(-(log_x + beta * (log_p - log_q)), hierarchy)
    lower = gradients(-hierarchy.terms(x, detach=True)[1], hierarchy)
    assert_equal(actual, upper, [n for n in upper if not is_theta(n)])
    assert_equal(actual, lower, [n for n in lower if is_theta(n)])


@pytest.mark.parametrize("beta", [0.0, 0.5])
def test_svi_on_as_pyro_moves_every_parameter(beta):
    ae = jiggle(small_autoencoder(learn_gamma=True))
    before = {name: p.detach().clone() for name, p in ae.named_parameters()}
    svi = SVI(*ae.as_pyro(), pyro.optim.Adam({"lr": 1e-3}), BilevelELBO(beta))
    for _ in range(3):
        loss = svi.step(torch.rand(6, 1, 8, 8))
    assert math.isfinite(loss)
    assert [n for n, p in ae.named_parameters() if torch.equal(p, before[n])] == []


def test_terms_are_means_over_images_also_when_the_plate_is_subsampled(ae):
    data = torch.rand(12, 1, 8, 8, dtype=torch.float64)
    index = torch.arange(4)

    def model(x):
        with pyro.plate("batch", 12, subsample=index):
            z = pyro.sample("z", ae.prior())
            pyro.sample("x", ae.likelihood(ae.decode(z)), obs=x)

    def guide(x):
        with pyro.plate("batch", 12, subsample=index):
            pyro.sample("z", ae.encode(x))

    torch.manual_seed(0)
    plain = BilevelELBO(0.5).losses(ae.model, ae.guide, data[index])
    torch.manual_seed(0)
    scaled = BilevelELBO(0.5).losses(model, guide, data[index])
    torch.testing.assert_close(scaled.loss, 3.0 * plain.loss)
    for name, term in plain.terms.items():
        assert not term.requires_grad
        torch.testing.assert_close(scaled.terms[name], term)


def test_known_kl_of_a_standard_normal_prior():
    """Spec 15.2: KL(N(1,1)||N(0,1)) = 0.5, as the mean of -entropy - log p over many draws."""

    class Encoder(nn.Module):
        def forward(self, x):
            return torch.ones(len(x), 1), torch.ones(len(x), 1)

    class Decoder(nn.Module):
        def forward(self, z):
            return torch.zeros(len(z), 1)

    from pyro_lrp.likelihoods import Gaussian

    ae = Autoencoder(Encoder(), Decoder(), StandardNormal(1), Gaussian())
    losses = BilevelELBO(1.0).losses(ae.model, ae.guide, torch.zeros(400_000, 1))
    kl = (-losses.terms["entropy"] - losses.terms["log_prior"]).item()
    assert abs(kl - 0.5) < 6 / math.sqrt(400_000)  # six standard errors (the deviation is 1): p < 1e-8


@pytest.mark.parametrize("beta", [-1.0, float("nan"), float("inf"), "much"])
def test_bad_beta_is_refused(beta):
    with pytest.raises(ValueError, match="beta to be a finite number of at least 0"):
        BilevelELBO(beta)


def test_a_site_without_rsample_is_refused(ae, x):
    def guide(x):
        with pyro.plate("batch", len(x)):
            pyro.sample("z", dist.Poisson(torch.ones(len(x), 4)).to_event(1))

    with pytest.raises(NotImplementedError, match="site 'z'"):
        BilevelELBO(0.0).differentiable_loss(ae.model, guide, x)


def test_a_prior_without_density_is_refused_at_construction():
    prior = StandardNormal(4)
    prior.has_log_prob = False
    with pytest.raises(TypeError, match=r"needs log p\(z\).*StandardNormal"):
        LatentGame(small_autoencoder(prior=prior), BilevelELBO(0.0))


def test_players_are_disjoint_and_complete():
    game = LatentGame(small_autoencoder(learn_gamma=True), BilevelELBO(0.0))
    owned = [p for player in game.players().values() for p in player.parameters()]
    assert len(owned) == len({id(p) for p in owned}) == len(list(game.parameters()))


def test_a_fixed_prior_has_no_turn_of_its_own():
    game = LatentGame(small_autoencoder(prior=StandardNormal(4)), BilevelELBO(1.0))
    assert game.turns("prior_only") == ()
    assert game.turns("joint")[0].moves == ("autoencoder",)


@pytest.mark.parametrize("name", GAMES)
def test_nothing_in_a_step_waits_for_the_device(name, monkeypatch):
    """With validation off, no tensor is turned into a number: on a GPU each such call would stall the step."""

    def refuse(self, *args):
        raise AssertionError("a host synchronisation")

    game = GAMES[name]()
    with pyro.validation_enabled(False):
        for name in ("item", "__bool__", "__float__", "tolist", "cpu", "numpy"):
            monkeypatch.setattr(torch.Tensor, name, refuse)
        from pyro_lrp.data import Batch
        from pyro_lrp.schedules import Progress

        memo = {}
        for step in range(2):
            game.advance(Progress(0, step / 2))
            for turn in game.turns("joint"):
                batches = [Batch(torch.rand(6, 1, 8, 8)) for _ in range(turn.batches)]
                game(turn.name, batches, memo).loss.backward()
