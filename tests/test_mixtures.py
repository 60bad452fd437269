"""Mixtures and VampPriors against torch.distributions, and their gradients against the two objectives."""

import copy

import pytest
import torch
from builders import gradients, jiggle, small_autoencoder
from test_objectives import BETAS, assert_equal, is_theta
from torch import distributions as D
from torch.func import functional_call

from pyro_lrp import networks
from pyro_lrp.likelihoods import Gaussian
from pyro_lrp.models import Autoencoder
from pyro_lrp.objectives import BilevelELBO
from pyro_lrp.priors import ConditionalFlow, Mixture, VampPrior, conditional_paper_flow, paper_flow


def vamp_autoencoder(components=5):
    ae = small_autoencoder(prior=VampPrior(4, (1, 8, 8), components), learn_gamma=True)
    return jiggle(ae).double()


def reference_of(prior):
    """The same density, of torch.distributions."""
    if isinstance(prior, VampPrior):
        loc, scale = prior.bound(prior.pseudo_inputs.clamp(0, 1))
        parts = D.Independent(D.Normal(loc, scale), 1)
        return D.MixtureSameFamily(D.Categorical(torch.ones(len(loc)).double()), parts)
    factor = prior.factor()
    if prior.covariance == "diag":
        parts = D.Independent(D.Normal(prior.loc, 1 / factor), 1)
    else:
        parts = D.MultivariateNormal(prior.loc, precision_matrix=factor.mT @ factor)
    return D.MixtureSameFamily(D.Categorical(logits=prior.logits), parts)


def moved_mixture(covariance):
    return jiggle(Mixture(4, 5, covariance=covariance), 0.4).double()


PRIORS = {
    "full": lambda: jiggle(small_autoencoder(prior=moved_mixture("full"), learn_gamma=True)).double(),
    "diag": lambda: jiggle(small_autoencoder(prior=moved_mixture("diag"), learn_gamma=True)).double(),
    "vamp": vamp_autoencoder,
}


@pytest.fixture
def x():
    return torch.rand(6, 1, 8, 8, dtype=torch.float64)


def terms(ae, x, log_prior):
    torch.manual_seed(0)
    loc, scale = ae.encoder(x)
    z = loc + scale * torch.randn_like(loc)
    log_q = D.Normal(loc, scale).log_prob(z).sum()
    log_x = D.Normal(ae.decoder(z), ae.likelihood.log_scale.exp()).log_prob(x).sum()
    return log_x, log_prior(z).sum(), log_q


@pytest.mark.parametrize("name", PRIORS)
def test_at_beta_one_the_elbo_is_that_of_torch_distributions(x, name):
    ae = PRIORS[name]()
    log_x, log_p, log_q = terms(ae, x, reference_of(ae.prior).log_prob)
    torch.manual_seed(0)
    loss = BilevelELBO(1.0).differentiable_loss(ae.model, ae.guide, x)
    torch.testing.assert_close(loss, -(log_x + log_p - log_q), rtol=1e-12, atol=0)
    expected = gradients(-(log_x + log_p - log_q), ae)
    assert_equal(gradients(loss, ae), expected, expected)


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("name", PRIORS)
def test_gradients_are_those_of_the_two_objectives(x, name, beta):
    """VampPrior: encoder and decoder get -dF although the prior's density is made of the encoder's weights."""
    ae = PRIORS[name]()
    log_x, log_p, log_q = terms(ae, x, reference_of(ae.prior).log_prob)
    upper = gradients(-(log_x + beta * (log_p - log_q)), ae)
    lower = gradients(-terms(ae, x, reference_of(ae.prior).log_prob)[1], ae)
    torch.manual_seed(0)
    actual = gradients(BilevelELBO(beta).differentiable_loss(ae.model, ae.guide, x), ae)
    assert_equal(actual, upper, [n for n in upper if not is_theta(n)])
    assert_equal(actual, lower, [n for n in lower if is_theta(n)])
    assert any(lower[n].abs().max() > 0 for n in lower if not is_theta(n))  # so the rule had something to do


@pytest.mark.parametrize("beta", BETAS)
def test_gradients_of_a_conditional_flow_are_those_of_the_two_objectives(x, beta):
    """A context that comes from the autoencoder passes the boundary too."""
    ae = jiggle(small_autoencoder(prior=conditional_paper_flow(4, 3, 2, 8), learn_gamma=True)).double()
    feature = torch.nn.Linear(64, 3).double()  # of the autoencoder's player
    whole = torch.nn.ModuleDict({"ae": ae, "feature": feature})

    def literal():
        context = feature(x.flatten(1))
        return terms(ae, x, lambda z: ae.prior(context).log_prob(z))

    log_x, log_p, log_q = literal()
    upper = gradients(-(log_x + beta * (log_p - log_q)), whole)
    lower = gradients(-literal()[1], whole)
    torch.manual_seed(0)
    loss = BilevelELBO(beta).differentiable_loss(ae.model, ae.guide, x, feature(x.flatten(1)))
    actual = gradients(loss, whole)
    assert_equal(actual, upper, [n for n in upper if "prior" not in n])
    assert_equal(actual, lower, [n for n in lower if "prior" in n])
    assert lower["feature.weight"].abs().max() > 0


def test_a_conditional_flow_at_a_fixed_context_is_an_unconditional_one():
    """The context's columns of every first layer become a bias; the base's mean becomes a shift."""
    conditional = jiggle(conditional_paper_flow(4, 3, 4, 16)).double()
    context = torch.randn(3, dtype=torch.float64)
    plain = paper_flow(4, 4, 16).double()
    with torch.no_grad():
        for theirs, ours in zip(conditional.transforms, plain.transforms, strict=True):
            if hasattr(theirs, "conditioner"):
                first, target = theirs.conditioner[0], ours.conditioner[0]
                target.weight.copy_(first.weight[:, :2])
                target.bias.copy_(first.bias + first.weight[:, 2:] @ context)
                for i in (2, 4):
                    ours.conditioner[i].load_state_dict(theirs.conditioner[i].state_dict())
            elif hasattr(theirs, "network"):
                log_scale, shift = theirs.network(context).chunk(2)
                ours.log_scale.copy_(log_scale)
                ours.shift.copy_(shift)
        z = torch.randn(9, 4, dtype=torch.float64)
        base = D.Independent(D.Normal(conditional.mean(context), 1.0), 1)
        z_0 = plain.to_base(z)
        expected = plain().log_prob(z) - plain.base().log_prob(z_0) + base.log_prob(z_0)
        torch.testing.assert_close(conditional(context).log_prob(z), expected, rtol=0, atol=1e-6)
        torch.testing.assert_close(conditional.to_base(z, context), z_0, rtol=0, atol=1e-6)


@pytest.mark.parametrize("covariance", ["full", "diag"])
def test_em_is_scikit_learns(covariance):
    from sklearn.mixture import GaussianMixture

    torch.manual_seed(0)
    codes = torch.cat([torch.randn(300, 3) * 0.2 + 3.0 * torch.eye(3)[i] for i in range(3)]) * torch.tensor(
        [1, 5, 0.1]
    )
    prior = Mixture(3, 3, covariance=covariance, em_iterations=50, seed=4)
    told = prior.fit(codes)
    array = codes.double().numpy()
    mean, scale = array.mean(0), array.std(0)
    em = GaussianMixture(3, covariance_type=covariance, random_state=4, max_iter=50).fit((array - mean) / scale)
    expected = torch.from_numpy(em.score_samples((array - mean) / scale)) - torch.from_numpy(scale).log().sum()
    torch.testing.assert_close(prior().log_prob(codes).double(), expected, rtol=1e-4, atol=1e-4)
    assert told == prior.record()
    assert told["em_log_prior"] == pytest.approx(expected.mean().item(), abs=1e-2)
    with pytest.raises(ValueError, match="a mixture of 3 components needs as many codes, got 2"):
        prior.fit(codes[:2])


@pytest.mark.parametrize("covariance", ["full", "diag"])
def test_temperature_scales_every_component(covariance):
    prior = moved_mixture(covariance)
    torch.manual_seed(2)
    cold = prior(temperature=1e-6).sample((500,))
    nearest = torch.cdist(cold, prior.loc).min(1).values
    assert nearest.max() < 1e-4
    hot, z = prior(temperature=2.0), torch.randn(7, 4, dtype=torch.float64)
    wide = Mixture(4, 5, covariance=covariance).double()
    wide.load_state_dict(prior.state_dict())
    with torch.no_grad():
        wide.log_diagonal.sub_(torch.log(torch.tensor(2.0)))
        if covariance == "full":
            wide.lower.div_(2.0)
    torch.testing.assert_close(hot.log_prob(z), wide().log_prob(z))


def test_a_vamp_prior_leaves_the_encoder_as_it_is():
    """Batch statistics are not touched, and p(z) is the same density in training and in eval mode."""
    encoder, decoder = networks.infogan((1, 8, 8), latent_dim=4, channels=(4, 8), hidden=16)
    prior = VampPrior(4, (1, 8, 8), 6)
    ae = Autoencoder(encoder, decoder, prior, Gaussian())
    before = copy.deepcopy(encoder.state_dict())
    z = torch.randn(3, 4)
    training = ae.train().prior().log_prob(z)
    assert encoder.training
    assert torch.equal(training, ae.eval().prior().log_prob(z))
    assert all(torch.equal(before[k], v) for k, v in encoder.state_dict().items())
    assert [name for name, _ in prior.named_parameters()] == ["pseudo_inputs"]
    twin = copy.deepcopy(ae)
    assert twin.prior.bound is twin.encoder
    assert twin.prior.bound is not encoder


def test_pseudo_inputs_start_from_images():
    prior, x = VampPrior(4, (1, 8, 8), 5), torch.rand(2, 1, 8, 8)
    prior.initialize(x)
    assert torch.equal(prior.pseudo_inputs[:2], x)
    assert 0 < (prior.pseudo_inputs[2:4] - x).abs().mean() < 0.2


def test_an_unbound_or_noiseless_vamp_prior_is_refused():
    with pytest.raises(ValueError, match="not bound to an encoder"):
        VampPrior(4, (1, 8, 8))()
    encoder, decoder = networks.mlp((1, 8, 8), 4, hidden_dims=(8,), stochastic=False)
    with pytest.raises(ValueError, match="encoder with noise"):
        Autoencoder(encoder, decoder, VampPrior(4, (1, 8, 8)), Gaussian())


def test_weights_reach_a_functional_call_under_their_names():
    """The boundary replaces every weight of the encoder; a name that changed would be left out silently."""
    ae = vamp_autoencoder()
    zeros = {name: torch.zeros_like(p) for name, p in ae.encoder.named_parameters()}
    loc, _ = functional_call(ae.encoder, zeros, (ae.prior.pseudo_inputs,))
    assert not loc.any()


def test_contexts_of_another_kind_are_refused():
    prior = conditional_paper_flow(4, 3, 1, 8)
    assert isinstance(prior, ConditionalFlow)
    with pytest.raises(ValueError, match="needs a context"):
        prior()
    with pytest.raises(ValueError, match="expected a context of length 3, got"):
        prior(torch.ones(5, 2))
