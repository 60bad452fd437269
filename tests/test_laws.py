"""The law kit finds every kind of fault, by the name of the right law, and lets correct priors pass."""

import copy
import math

import pyro.distributions as dist
import pytest
import torch
from broken_priors import (
    DensityOfABatch,
    HiddenInALambda,
    HiddenInAList,
    Honest,
    IgnoresContext,
    LostPermutation,
    Narrow,
    NarrowBase,
    OneDensityForAll,
    OneDrawForAll,
    StaleMixture,
    StaleTransform,
    Underflowing,
    Unnormalised,
    Unsaved,
    WrongInverse,
    WrongLogDet,
)
from torch import nn

from pyro_lrp import testing
from pyro_lrp.priors import (
    Mixture,
    NeuralSampler,
    StandardNormal,
    VampPrior,
    conditional_paper_flow,
    paper_flow,
)
from pyro_lrp.priors.flow_matching import FlowMatching
from pyro_lrp.testing.core import At, default_dtype
from pyro_lrp.testing.importance import by_importance

FAULTS = {
    "wrong log-det": (WrongLogDet, "density at samples, against autograd of the sampler"),
    "wrong inverse": (WrongInverse, "round trip, base to latent to base"),
    "stale cache of a transform": (StaleTransform, "rescoring after an update"),
    "stale cache without a base": (lambda: StaleMixture(3), "rescoring after an update"),
    "parameter in a list": (HiddenInAList, r"every parameter is registered: 1,.*shape \(3,\)"),
    "network in a lambda": (HiddenInALambda, "every parameter is registered: 2,"),
    "tails that overflow": (lambda: Underflowing(3), "density is finite far out"),
    "unnormalised, dim 2": (lambda: Unnormalised(2), "mass is 1 by quadrature: 0.10"),
    "unnormalised, dim 5": (lambda: Unnormalised(5), r"mass is 1 by importance sampling: 0\.(09|10|11)"),
    "sampler and density disagree, dim 2": (lambda: Narrow(2), r"sampler against density \(chi-square"),
    "sampler and density disagree, dim 5": (lambda: Narrow(5), "sampler against density by importance"),
    "sampler and base disagree, dim 16": (NarrowBase, "sampler against base"),
    "context ignored": (lambda: IgnoresContext(3), "the density depends on the context: 5,"),
    "one density for all contexts": (OneDensityForAll, "contexts gives a batch of densities"),
    "density of a batch": (lambda: DensityOfABatch(3), "contexts gives a batch of densities"),
    "one draw for all contexts": (OneDrawForAll, "contexts gives as many independent samples"),
    "permutation lost on reload": (LostPermutation, "reload under another seed"),
    "tensor lost on reload": (Unsaved, "reload under another seed"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_the_first_law_that_breaks_is_the_right_one(name):
    build, law = FAULTS[name]
    with pytest.raises(AssertionError, match=f"law broken: .*{law}"):
        testing.check_prior(build)


def test_later_laws_are_measured_all_the_same():
    laws = {law.name: law for law in testing.prior_laws(WrongLogDet)}
    assert not laws["mass is 1 by quadrature"].holds
    assert laws["mass is 1 by quadrature"].figure == pytest.approx(math.exp(0.1) - 1, abs=1e-2)


class Encoder(nn.Module):
    """With batch normalization, whose statistics are not those of any batch it will see."""

    def __init__(self, dim):
        super().__init__()
        self.network = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.ReLU())
        self.output = nn.Linear(8, 2 * dim)
        self.network[2].running_mean.normal_()

    def forward(self, x):
        loc, scale = self.output(self.network(x)).chunk(2, dim=-1)
        return loc, nn.functional.softplus(scale)


def vamp_prior(dim=3):
    autoencoder = nn.Module()
    autoencoder.encoder = Encoder(dim)
    prior = VampPrior(dim, (1, 4, 4), components=5)
    prior.bind(autoencoder)
    return prior


CORRECT = {
    **{f"normal {dim}": lambda dim=dim: StandardNormal(dim) for dim in (1, 3, 64)},
    **{f"torch's mixture {dim}": lambda dim=dim: Honest(dim) for dim in (2, 5, 16)},
    "mixture 1": lambda: Mixture(1, 4, covariance="diag"),
    "flow on a mixture 6": lambda: paper_flow(6, 4, 16, base=Mixture(6, 3)),
    "flow 16": lambda: paper_flow(16, 4, 32),
    "conditional flow 2": lambda: conditional_paper_flow(2, 3, 4, 16),
    "conditional flow 6": lambda: conditional_paper_flow(6, 3, 4, 16),
    "VampPrior 3": vamp_prior,
    "sampler 3": lambda: NeuralSampler(3, 2, 16),
}


@pytest.mark.parametrize("name", CORRECT)
def test_correct_priors_pass(name):
    laws = list(testing.prior_laws(CORRECT[name]))
    assert [law for law in laws if not law.holds] == []
    assert [law for law in laws if law.note] == []  # and every law could tell


@pytest.mark.parametrize("trace", ["exact", "hutchinson"])
def test_numerical_priors_pass_within_their_tolerance(trace):
    laws = {
        law.name: law
        for law in testing.prior_laws(
            lambda: FlowMatching(3, width=8, layers=1, trace=trace, method="rk4", steps=8)
        )
    }
    assert [law for law in laws.values() if not law.holds] == []
    assert laws["round trip, base to latent to base"].limit == pytest.approx(2 * 100 * 8**-4)
    assert "every parameter receives a gradient from its own loss" in laws
    assert ("mass is 1" in laws) == (trace == "hutchinson")
    assert trace == "exact" or laws["mass is 1"].note.startswith("no power: log_prob is an estimate")


def test_the_names_of_the_laws():
    """By these the README, the check command and the tests know them."""
    names = [law.name for law in testing.prior_laws(vamp_prior) if "device" not in law.name]
    assert names == [
        "samples are reparametrized if the prior says so",
        "every parameter is registered",
        "shapes for a batch of ()",
        "shapes for a batch of (7,)",
        "shapes for a batch of (6, 5)",
        "a batch of contexts gives a batch of densities",
        "a batch of contexts gives as many independent samples",
        "samples are finite (share of others)",
        "density is finite far out (number of codes where not)",
        "mass is 1 by importance sampling",
        "sampler against density by importance sampling (over its limit)",
        "every parameter receives a gradient",
        "rescoring after an update",
        "rescoring after an update of what it is bound to",
        "dtype follows the prior",
        "float32 agrees with float64",
        "reload into the same prior gives the same density",
        "reload under another seed gives the same density",
    ]
    names = [law.name for law in testing.prior_laws(lambda: conditional_paper_flow(4, 3, 2, 8))]
    assert names[5:13] == [
        "round trip, base to latent to base",
        "round trip, latent to base to latent",
        "density at samples, against autograd of the sampler",
        "density at codes, against autograd of to_base",
        "the density depends on the context",
        "a batch of contexts gives a batch of densities",
        "a batch of contexts gives as many independent samples",
        "one code broadcasts against a batch of contexts",
    ]
    assert "sampler against base (Kolmogorov-Smirnov distance)" in names
    names = [law.name for law in testing.prior_laws(lambda: NeuralSampler(3, 1, 8))]
    assert "log_prob refuses, as the prior has no density" in names
    assert "reload under another seed gives the same samples" in names


def test_what_cannot_be_decided_says_so():
    """Fifty sharp peaks in sixteen dimensions: draws from ten wide ones hardly ever meet them."""
    notes = {law.name: law for law in testing.prior_laws(lambda: Honest(16, components=50, scale=0.01))}
    for name in ("mass is 1 by importance", "sampler against density by importance"):
        law = next(law for law in notes.values() if law.name.startswith(name))
        assert law.holds
        assert law.limit == math.inf
        assert law.note.startswith("no power: effective sample size ")
    assert all(law.holds for law in notes.values())


def test_importance_sampling_raises_no_false_alarm_and_has_power():
    """Over twenty seeds a correct density stays well inside the limits, and one that is 5 % off never does."""
    honest, heavy = (At(p.double(), torch.zeros(0)) for p in (Honest(5), Unnormalised(5, excess=0.05)))
    heavy.prior.load_state_dict(honest.prior.state_dict())
    for seed in range(20):
        torch.manual_seed(seed)
        with torch.no_grad(), default_dtype(torch.float64):
            samples = honest().sample((20_000,))
            assert max(law.figure / law.limit for law in by_importance(honest, samples)) < 0.8
            assert not next(by_importance(heavy, samples)).holds


def test_a_parameter_without_effect_is_noted_and_one_without_gradient_found():
    class Detached(Honest):
        def forward(self, context=None, *, temperature=1.0):
            return dist.Normal(self.loc.mean(0), self.log_scale.detach().mean(0).exp()).to_event(1)

    laws = {law.name: law for law in testing.prior_laws(lambda: Mixture(2, 1))}
    assert laws["every parameter receives a gradient"].note == "without effect: logits"
    laws = {law.name: law for law in testing.prior_laws(lambda: Detached(2))}
    law = laws["every parameter receives a gradient"]
    assert (law.figure, law.note) == (3.0, "not logits, tril, log_scale")


def test_a_prior_that_says_it_is_reparametrized_must_be():
    class Boastful(Honest):
        has_rsample = True

    with pytest.raises(AssertionError, match="samples are reparametrized if the prior says so"):
        testing.check_prior(lambda: Boastful(2))


def test_a_sampler_that_scores_is_found():
    class Scoring(StandardNormal):
        has_log_prob = has_base = False

    with pytest.raises(AssertionError, match="log_prob refuses"):
        testing.check_prior(Scoring(2))


def _snapshot(*modules):
    return [
        (copy.deepcopy(module.state_dict()), [part.training for part in module.modules()]) for module in modules
    ]


@pytest.mark.parametrize("build", [lambda: paper_flow(4, 2, 8), vamp_prior, lambda: Underflowing(3)])
def test_the_kit_leaves_its_subject_as_it_was(build):
    """Its bound module too, and whether or not a law broke."""
    prior = build()
    modules = [prior] if prior.bound is None else [prior, prior.bound]
    if prior.bound is not None:
        prior.bound.network[2].eval()
    before = _snapshot(*modules)
    for law in testing.prior_laws(prior):
        assert law.name
    for (state, modes), (old_state, old_modes) in zip(_snapshot(*modules), before, strict=True):
        assert modes == old_modes
        for name, tensor in state.items():
            assert tensor.dtype == old_state[name].dtype
            assert torch.equal(tensor, old_state[name])


def test_between_the_laws_settings_are_the_callers():
    torch.manual_seed(3)
    state = torch.get_rng_state()
    for law in testing.prior_laws(lambda: Mixture(2, 3)):
        assert law.holds
        assert torch.get_default_dtype() == torch.float32
        assert torch.is_grad_enabled()
        assert torch.distributions.Distribution._validate_args
        assert torch.equal(torch.get_rng_state(), state)


def test_a_broken_prior_is_left_as_it_was_while_the_error_is_at_hand():
    prior = Underflowing(3)
    with pytest.raises(AssertionError) as caught:
        testing.check_prior(prior)
    assert "far out" in str(caught.value)
    assert prior.loc.dtype == torch.float32
    assert prior.training
