import copy
import math
import sys

import pyro
import pytest
import torch
from torch import nn
from torch.distributions import Distribution, Transform, constraints

from pyro_lrp import testing
from pyro_lrp.core.errors import UserError
from pyro_lrp.priors import Zuko

validates = Distribution._validate_args
zuko = pytest.importorskip("zuko")
Distribution.set_default_validate_args(validates)  # importing zuko switches it off for all tests

SMALL = {"transforms": 2, "hidden_features": [8]}


def spline(dim, context_dim=None, **options):
    flow = zuko.flows.NSF(features=dim, context=context_dim or 0, **(SMALL | options))
    return Zuko(dim, flow, context_dim=context_dim)


@pytest.mark.parametrize("dim", [2, 3])
def test_laws(dim):
    testing.check_prior(lambda: spline(dim))


OTHERS = {  # and what makes them small; those of smaller networks have no exact inverse before they are trained
    "MAF": {},
    "NICE": {},
    "RealNVP": {},
    "NAF": {"signal": 8, "network": {"hidden_features": [32, 32]}},
    "SOSPF": {"transforms": 1, "degree": 2, "polynomials": 2},
    "BPF": {"transforms": 1, "degree": 4},
}


@pytest.mark.parametrize("name", OTHERS)
def test_laws_of_other_flows(name):
    options = SMALL | OTHERS[name]
    testing.check_prior(lambda: Zuko(3, getattr(zuko.flows, name)(features=3, **options)))


@pytest.mark.parametrize("name", ["NSF", "GF", "CNF", "GMM"])
def test_density_and_samples_are_those_of_zuko(name):
    flow = getattr(zuko.flows, name)(features=3)
    prior, z = Zuko(3, flow), torch.randn(4, 3)
    torch.testing.assert_close(prior().log_prob(z), flow().log_prob(z))
    torch.manual_seed(4)
    drawn = prior().sample((4,))
    torch.manual_seed(4)
    torch.testing.assert_close(drawn, flow().sample((4,)))
    assert prior.has_base == (name != "GMM")
    assert prior.has_rsample == flow().has_rsample
    assert (prior.tolerance > 0) == (name == "CNF")
    assert {id(p) for p in prior.parameters()} == {id(p) for p in flow.parameters()}


def test_the_density_of_a_sample_follows_an_update():
    prior = spline(2)
    site = prior()
    z = site()
    before = site.log_prob(z)
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.add_(0.1)
    after = prior().log_prob(z)
    assert not torch.equal(after, before)
    torch.testing.assert_close(after, prior.flow().log_prob(z))
    torch.testing.assert_close(site.log_prob(z), after)


def test_base_and_temperature():
    prior = spline(3)
    z = torch.randn(5, 3)
    torch.testing.assert_close(prior.to_latent(prior.to_base(z)), z, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(prior.base(temperature=2.0).stddev, torch.full((3,), 2.0))
    torch.manual_seed(3)
    hot = prior(temperature=2.0).sample((5,))
    torch.manual_seed(3)
    plain = prior().sample((5,))
    torch.testing.assert_close(prior.to_base(hot), 2.0 * prior.to_base(plain), rtol=1e-3, atol=1e-3)
    shift = prior(temperature=2.0).log_prob(z) - prior().log_prob(z)
    expected = 0.375 * prior.to_base(z).square().sum(-1) - 3 * math.log(2.0)
    torch.testing.assert_close(shift, expected, rtol=1e-4, atol=1e-4)


def test_without_a_normal_base():
    prior = Zuko(2, zuko.flows.GMM(features=2, components=3))
    z = torch.randn(4, 2)
    assert prior.to_base(z) is z
    assert prior.to_latent(z) is z
    with pytest.raises(NotImplementedError, match="a GMM has no normal base"):
        prior.base()
    with pytest.raises(ValueError, match="temperature to be 1, as the base of a GMM is not normal, got 0.5"):
        prior(temperature=0.5)


def test_a_conditional_flow():
    prior = spline(3, context_dim=2)
    context, z = torch.randn(5, 2), torch.randn(5, 3)
    distribution = prior(context)
    assert distribution.batch_shape == (5,)
    assert distribution.sample((4,)).shape == (4, 5, 3)
    torch.testing.assert_close(distribution.log_prob(z), prior.flow(context).log_prob(z))
    torch.testing.assert_close(prior(context[:1]).log_prob(z[:1]), distribution.log_prob(z)[:1])
    assert not torch.allclose(prior(context.flip(0)).log_prob(z), distribution.log_prob(z))
    z_0 = prior.to_base(z, context)
    torch.testing.assert_close(prior.to_latent(z_0, context), z, rtol=1e-4, atol=1e-4)
    assert prior.base(context).batch_shape == (5,)
    assert prior.to_base(z, context[0]).shape == (5, 3)
    with pytest.raises(ValueError, match="needs a context, and was called without"):
        prior()
    with pytest.raises(ValueError, match=r"expected a context of length 2, got \(5, 3\)"):
        prior(z)


@pytest.mark.parametrize("batch", [(), (7,), (2, 3)])
def test_shapes(batch):
    distribution = spline(3)().expand(batch)
    assert distribution.batch_shape == batch
    assert distribution.rsample((2,)).shape == (2, *batch, 3)
    assert not distribution.sample().requires_grad
    assert distribution.log_prob(torch.randn(*batch, 3)).shape == batch


def test_it_is_a_site_of_a_pyro_model():
    prior = spline(3)

    def model():
        with pyro.plate("codes", 4):
            return pyro.sample("z", prior())

    trace = pyro.poutine.trace(model).get_trace()
    trace.compute_log_prob()
    assert trace.nodes["z"]["value"].shape == (4, 3)
    torch.testing.assert_close(trace.nodes["z"]["log_prob"], prior().log_prob(trace.nodes["z"]["value"]))


def test_state_is_saved_and_copied():
    prior, other = spline(3), spline(3)
    z = torch.randn(5, 3)
    truth = prior().log_prob(z)
    assert torch.equal(copy.deepcopy(prior)().log_prob(z), truth)
    other.load_state_dict(prior.state_dict())
    assert torch.equal(other().log_prob(z), truth)


def test_float32_under_autocast():
    prior = spline(3, context_dim=2)
    z, context = torch.randn(5, 3), torch.randn(5, 2)
    of = [
        lambda: prior(context).log_prob(z),
        lambda: prior(context).rsample(),
        lambda: prior.to_base(z, context),
    ]
    for function in of:
        torch.manual_seed(1)
        plain = function()
        torch.manual_seed(1)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            mixed = function()
        assert mixed.dtype == torch.float32
        assert torch.equal(mixed, plain)
    assert prior(context.bfloat16()).log_prob(z.bfloat16()).dtype == torch.float32


class OneWay(Transform):
    domain = codomain = constraints.real_vector
    bijective = True

    def _call(self, x):
        return x

    def log_abs_det_jacobian(self, x, y):
        return x.sum(-1)


def one_way(*, invert):
    class Lazy(zuko.lazy.LazyTransform):
        def forward(self, c=None):
            return OneWay().inv if invert else OneWay()

    base = zuko.flows.MAF(features=2).base
    return zuko.flows.Flow(Lazy(), base)


@pytest.mark.parametrize(
    ("dim", "flow", "context_dim", "message"),
    [
        (0, lambda: zuko.flows.MAF(2), None, "expected dim to be at least 1, got 0"),
        (2, lambda: zuko.flows.MAF(2, 1), 0, "expected context_dim to be at least 1, or None, got 0"),
        (2, lambda: zuko.flows.MAF, None, "expected flow to be a zuko flow"),
        (2, lambda: nn.Linear(2, 2), None, r"\(Linear\) does not accept vectors of length 2"),
        (2, lambda: zuko.flows.MAF(3), None, r"\(MAF\) does not accept vectors of length 2: .* \(3,\)"),
        (2, lambda: zuko.flows.MAF(2, 5), None, r"\(MAF\) does not accept vectors of length 2:"),
        (2, lambda: zuko.flows.MAF(2, 5), 4, r"vectors of length 2 and contexts of length 4:"),
        (2, lambda: zuko.flows.MAF(2), 4, r"vectors of length 2 and contexts of length 4:"),
        (2, lambda: zuko.flows.GF(2), 4, r"vectors of length 2 and contexts of length 4:"),
        (2, lambda: zuko.flows.NCSF(2), None, r"\(NCSF\) does not reach all codes"),
        (2, lambda: one_way(invert=False), None, r"\(Flow\) has no inverse"),
        (2, lambda: one_way(invert=True), None, r"\(Flow\) has no inverse"),
    ],
)
def test_what_cannot_be_a_prior_is_refused(dim, flow, context_dim, message):
    with pytest.raises(ValueError, match=message):
        Zuko(dim, flow(), context_dim)


def test_without_zuko(monkeypatch):
    monkeypatch.setitem(sys.modules, "zuko.distributions", None)
    with pytest.raises(UserError, match=r"prior=zuko needs a package: pip install 'pyro_lrp\[zuko\]'"):
        Zuko(2, nn.Identity())
