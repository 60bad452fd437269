"""Learned priors in sbi: its own checks, and a posterior that is known in closed form."""

import copy
import pickle

import pytest
import torch

import pyro_lrp
from pyro_lrp import fitting, priors

pytest.importorskip("sbi", reason="sbi is an extra: pip install 'pyro_lrp[sbi]'")

from sbi.inference import NPE  # noqa: E402
from sbi.utils.sbiutils import mcmc_transform, within_support  # noqa: E402
from sbi.utils.user_input_checks import (  # noqa: E402
    check_prior,
    check_sbi_inputs,
    process_prior,
    process_simulator,
)

from pyro_lrp.adapters.sbi import LearnedPrior  # noqa: E402

NOISE = 0.5


def simulator(theta):
    return theta + NOISE * torch.randn_like(theta)


@pytest.fixture(scope="module")
def parameters():
    torch.manual_seed(0)
    mixing = torch.tensor([[1.0, 0.8], [0.0, 0.3]])
    return torch.randn(2000, 2) @ mixing + torch.tensor([2.0, -1.0])


@pytest.fixture(scope="module")
def fitted(parameters):
    return pyro_lrp.fit(parameters, prior=["prior=mixture", "prior.components=1"], seconds=5)


def affine():
    return priors.Flow(2, [pyro_lrp.transforms.elementwise_affine(2)])


MADE = {
    "affine": affine,
    "mixture": lambda: priors.Mixture(2, 3),
    "normal": lambda: priors.StandardNormal(2),
    "one dimension": lambda: priors.Mixture(1, 2),
    "flow matching": lambda: priors.FlowMatching(2, width=8),
}


@pytest.mark.parametrize("make", MADE.values(), ids=MADE)
@pytest.mark.filterwarnings("error")
def test_sbis_own_checks(make):
    prior = LearnedPrior(make())
    check_prior(prior)
    processed, dim, is_numpy = process_prior(prior)
    assert processed is prior
    assert (dim, is_numpy) == (prior.event_shape.numel(), False)
    check_sbi_inputs(process_simulator(simulator, processed, is_numpy), processed)
    theta = prior.sample((5,))
    assert within_support(prior, theta).tolist() == [True] * 5
    torch.testing.assert_close(mcmc_transform(prior).inv(mcmc_transform(prior)(theta)), theta)


def test_the_moments_are_those_of_the_parameters(parameters, fitted):
    prior = LearnedPrior(fitted)
    torch.testing.assert_close(prior.mean, parameters.mean(0), rtol=0, atol=0.05)
    torch.testing.assert_close(prior.stddev, parameters.std(0), rtol=0.05, atol=0)
    torch.testing.assert_close(prior.log_prob(parameters[:9]), fitted.log_prob(parameters[:9]))


def test_a_posterior_under_a_learned_prior(parameters, fitted, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # sbi writes its logs where it is called
    torch.manual_seed(0)
    prior, _, _ = process_prior(LearnedPrior(fitted))
    inference = NPE(prior=prior, density_estimator="mdn", show_progress_bars=False)
    theta = prior.sample((1000,))
    inference.append_simulations(theta, simulator(theta))
    with pytest.warns(UserWarning, match="Maximum number of epochs"):
        inference.train(max_num_epochs=20, training_batch_size=50)
    observed = torch.tensor([2.5, -0.5])
    drawn = inference.build_posterior().sample((2000,), x=observed, show_progress_bars=False)
    precision = torch.linalg.inv(torch.cov(parameters.T))
    covariance = torch.linalg.inv(precision + torch.eye(2) / NOISE**2)
    mean = covariance @ (precision @ parameters.mean(0) + observed / NOISE**2)
    torch.testing.assert_close(drawn.mean(0), mean, rtol=0, atol=0.15)
    torch.testing.assert_close(drawn.std(0), covariance.diag().sqrt(), rtol=0.25, atol=0)


def test_it_is_a_copy_that_does_not_learn():
    module = priors.Mixture(2, 3)
    prior = LearnedPrior(module)
    theta = torch.zeros(4, 2, requires_grad=True)
    before = prior.log_prob(theta)
    before.sum().backward()
    assert theta.grad.abs().sum() > 0
    with torch.no_grad():
        module.loc.add_(5.0)
    assert torch.equal(prior.log_prob(theta), before)
    assert all(parameter.requires_grad for parameter in module.parameters())
    for other in (copy.deepcopy(prior), pickle.loads(pickle.dumps(prior)), prior.to("cpu")):
        assert torch.equal(other.log_prob(theta), before)


def test_making_one_draws_nothing_from_the_generator():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    LearnedPrior(priors.StandardNormal(2))
    assert torch.equal(torch.rand(1), expected)


def test_a_conditional_prior_of_one_context(parameters, tmp_path):
    labels = (parameters[:, 0] > 2).long()
    path = pyro_lrp.fit(parameters, labels, prior="conditional_flow", seconds=1).save(tmp_path)
    fitted = fitting.load(path)
    context = torch.tensor([0.0, 1.0])
    prior = LearnedPrior(fitted, context)
    assert prior.sample((3,)).shape == (3, 2)
    torch.testing.assert_close(prior.log_prob(parameters[:9]), fitted.log_prob(parameters[:9], context))
    with pytest.raises(ValueError, match="needs a context"):
        LearnedPrior(fitted)


def test_mistakes_are_sentences():
    maps = pyro_lrp.fit(torch.randn(60, 1, 2, 2), prior=["prior=mixture", "prior.components=1"], seconds=2)
    with pytest.raises(
        ValueError, match=r"expected one over vectors of parameters, got codes of shape \(1, 2, 2\)"
    ):
        LearnedPrior(maps)
    with pytest.raises(ValueError, match="a NeuralSampler has no density"):
        LearnedPrior(priors.NeuralSampler(2))
