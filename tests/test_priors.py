import copy

import pyro.distributions as dist
import pyro.distributions.transforms as T
import pytest
import torch
from torch.distributions import ComposeTransform

from pyro_lrp import testing
from pyro_lrp.priors import Flow, FlowDistribution, StandardNormal, paper_flow
from pyro_lrp.transforms import paper_flow as paper_stack


def mixed_stack(dim):
    """What a user may compose of stock transforms; permutations and masks are drawn at random."""
    return [
        T.affine_coupling(dim, hidden_dims=[16]),
        T.permute(dim),
        T.spline_coupling(dim, hidden_dims=[16]),
        T.affine_autoregressive(dim, hidden_dims=[16]),
        T.spline(dim),
    ]


def autoregressive(dim):
    return T.affine_autoregressive(dim, hidden_dims=[16])


PRIORS = {
    "standard_normal 1": lambda: StandardNormal(1),
    "standard_normal 2": lambda: StandardNormal(2),
    "paper_flow 2": lambda: paper_flow(2, 4, 16),
    "paper_flow 6, random permutations": lambda: paper_flow(6, 4, 16, permute="random"),
    "mixed stack 3": lambda: Flow(3, mixed_stack(3)),
    "mixed stack 5": lambda: Flow(5, mixed_stack(5)),
    "inverse autoregressive 4": lambda: Flow(4, [autoregressive(4).inv, T.permute(4)]),
    "householder and matrix_exponential 4": lambda: Flow(4, [T.householder(4), T.matrix_exponential(4)]),
    "fixed affine 2": lambda: Flow(2, [T.AffineTransform(torch.tensor([0.5, -1.0]), torch.tensor([2.0, 0.3]))]),
    "composed 4": lambda: Flow(4, [T.ComposeTransformModule([autoregressive(4), T.permute(4)])]),
    "composed without a module 4": lambda: Flow(4, [ComposeTransform([T.spline_coupling(4), T.permute(4)])]),
    "leaky relu 2": lambda: Flow(2, [T.LeakyReLUTransform(), paper_stack(2, 2, 8)]),
}


@pytest.mark.parametrize("name", PRIORS)
def test_laws(name):
    testing.check_prior(PRIORS[name])


def test_equals_the_stock_distribution_on_the_same_stack():
    stack = mixed_stack(4)
    prior = Flow(4, stack)
    z = torch.randn(9, 4)
    stock = dist.TransformedDistribution(dist.Normal(torch.zeros(4), 1.0).to_event(1), stack)
    torch.testing.assert_close(prior().log_prob(z), stock.log_prob(z))
    assert isinstance(prior(), dist.TransformedDistribution)
    assert isinstance(prior().expand([3]), FlowDistribution)


@pytest.mark.parametrize(
    "factory", [T.planar, T.radial, T.sylvester, T.polynomial, T.block_autoregressive, T.neural_autoregressive]
)
def test_a_transform_without_inverse_is_refused_by_name(factory):
    transform = factory(4)
    with pytest.raises(ValueError, match=rf"transform 1 \({type(transform).__name__}\) has no inverse"):
        Flow(4, [T.permute(4), transform])


@pytest.mark.parametrize(
    ("stack", "message"),
    [
        (lambda: [T.spline(3)], r"Spline\) does not accept vectors of length 4"),
        (lambda: [T.TanhTransform()], "do not reach all codes.*TanhTransform"),
        (lambda: [T.SigmoidTransform()], "do not reach all codes.*SigmoidTransform"),
        (lambda: [T.batchnorm(4)], "BatchNorm.*round trip is off"),
        (lambda: ["spline"], "expected Pyro transforms, got str"),
    ],
)
def test_what_cannot_be_a_prior_is_refused(stack, message):
    with pytest.raises(ValueError, match=message):
        Flow(4, stack())


def test_dim_zero_is_refused():
    with pytest.raises(ValueError, match="latent_dim of at least 1, got 0"):
        StandardNormal(0)


def test_held_permutation_follows_moves_loads_and_copies():
    prior, other = Flow(6, [T.permute(6)]), Flow(6, [T.permute(6)])
    z = torch.randn(3, 6)
    prior.to_base(z)  # derives the inverse permutation
    other.to_base(z)
    other.load_state_dict(prior.state_dict())
    assert torch.equal(other.to_base(z), prior.to_base(z))
    twin = copy.deepcopy(prior)
    assert torch.equal(twin.to_base(z), prior.to_base(z))
    wrapped = torch.nn.Sequential(prior).to("meta")
    assert wrapped[0].transforms[0].permutation.device.type == "meta"
    assert wrapped[0].to_latent(torch.zeros(2, 6, device="meta")).device.type == "meta"


def test_caches_are_off_inside_containers_too():
    inner = T.affine_coupling(4, hidden_dims=[8])
    prior = Flow(4, [ComposeTransform([inner, T.permute(4)]).inv])
    z = torch.randn(2, 4)
    before = prior().log_prob(z)
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.mul_(1.1)
    assert inner._cache_size == 0
    assert not torch.equal(prior().log_prob(z), before)


def test_parameters_of_an_inverse_are_registered_once():
    autoregressive = T.affine_autoregressive(4, hidden_dims=[8])
    expected = sum(p.numel() for p in autoregressive.parameters())
    assert sum(p.numel() for p in Flow(4, [autoregressive.inv]).parameters()) == expected
    composed = Flow(4, [T.ComposeTransformModule([autoregressive])])
    assert sum(p.numel() for p in composed.parameters()) == expected
    assert len([n for n in composed.state_dict() if n.endswith("layers.0.weight")]) == 1


def test_temperature_scales_the_base():
    prior = paper_flow(4, 2, 8)
    torch.manual_seed(3)
    hot = prior(temperature=2.0).sample((5,))
    torch.manual_seed(3)
    plain = prior().sample((5,))
    torch.testing.assert_close(prior.to_base(hot), 2.0 * prior.to_base(plain))


def test_densities_stay_in_float32_under_autocast():
    prior = paper_flow(16, 8, 32)
    z = torch.randn(8, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = prior().log_prob(z)
    assert mixed.dtype == torch.float32
    assert torch.equal(mixed, prior().log_prob(z))


def test_flow_learns_a_known_density():
    """NLL of a trained flow approaches the entropy of a mixture of two Gaussians (spec 15, item 13)."""
    components = dist.Normal(torch.tensor([[-2.0, 0.0], [2.0, 0.0]]), 0.5).to_event(1)
    truth = dist.MixtureSameFamily(dist.Categorical(torch.ones(2) / 2), components)
    prior = paper_flow(2, 6, 32)
    adam = torch.optim.Adam(prior.parameters(), lr=3e-3, fused=True)
    for _ in range(300):
        adam.zero_grad()
        (-prior().log_prob(truth.sample((256,))).mean()).backward()
        adam.step()
    test = truth.sample((20_000,))
    gap = (truth.log_prob(test) - prior().log_prob(test)).mean().item()
    assert -0.02 < gap < 0.15  # the entropy is 2.14 nats; an untrained flow is more than 1 nat off
