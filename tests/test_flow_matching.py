import copy
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_lrp import networks, testing
from pyro_lrp.core.errors import UserError
from pyro_lrp.core.gradients import frozen
from pyro_lrp.priors import FlowMatching, ode
from pyro_lrp.priors.flow_matching import divergence

TIGHT = {"rtol": 1e-9, "atol": 1e-9}


class LinearVelocity(nn.Module):
    """v(t, x) = A x, whose flow is the matrix exponential of A."""

    def __init__(self, matrix):
        super().__init__()
        self.matrix = nn.Parameter(matrix)

    def forward(self, t, x):
        return x @ self.matrix.T


class FunctionVelocity(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, t, x):
        return self.function(t, x)


def random_prior(dim, dtype=torch.float64, std=0.3, **options):
    """A prior whose velocity is no longer zero; a smooth one, so that solves are short."""
    velocity = networks.velocity(dim, width=16, layers=2, frequencies=2)
    for parameter in velocity.parameters():
        nn.init.normal_(parameter, std=std)
    return FlowMatching(dim, velocity=velocity, **options).to(dtype)


# ---------------------------------------------------------------------- density


@pytest.mark.parametrize("trace", ["exact", "hutchinson"])
def test_a_scaling_velocity_has_the_log_determinant_a(trace):
    """The Jacobian is a I, for which one Rademacher probe is exact too."""
    prior = FlowMatching(3, velocity=LinearVelocity(0.7 * torch.eye(3)), trace=trace).double()
    z = torch.randn(6, 3, dtype=torch.float64)
    truth = dist.Normal(0.0, math.exp(0.7)).expand([3]).to_event(1).log_prob(z)
    torch.testing.assert_close(prior().log_prob(z), truth, rtol=0, atol=1e-4)
    torch.testing.assert_close(prior.ode.inverse_and_ladj(z)[1], torch.full((6,), -2.1).double())


def test_a_linear_velocity_is_a_matrix_exponential():
    matrix = torch.tensor([[0.3, -1.0], [0.8, -0.2]], dtype=torch.float64)
    prior = FlowMatching(2, velocity=LinearVelocity(matrix), whiten=None, **TIGHT).double()
    flow = torch.linalg.matrix_exp(matrix)
    z = torch.randn(5, 2, dtype=torch.float64)
    truth = dist.MultivariateNormal(torch.zeros(2).double(), flow @ flow.T)
    torch.testing.assert_close(prior.to_latent(z), z @ flow.T)
    torch.testing.assert_close(prior().log_prob(z), truth.log_prob(z))


@pytest.mark.parametrize("dim", [2, 3])
def test_sampler_and_density_agree(dim):
    prior = random_prior(dim, **TIGHT)
    prior.fit(3.0 * torch.randn(100, dim, dtype=torch.float64) + 1.0)
    z_0 = torch.randn(2, dim, dtype=torch.float64)
    z = prior.to_latent(z_0)
    torch.testing.assert_close(prior.to_base(z), z_0)
    jacobian = torch.stack([torch.autograd.functional.jacobian(prior.to_latent, point) for point in z_0])
    truth = prior.base().log_prob(z_0) - torch.linalg.slogdet(jacobian).logabsdet
    torch.testing.assert_close(prior().log_prob(z), truth)
    torch.manual_seed(5)
    drawn = prior().rsample((4,))
    torch.manual_seed(5)
    torch.testing.assert_close(drawn, prior.to_latent(prior.base().rsample((4,))))


def test_the_divergence_is_the_trace_of_the_jacobian():
    velocity = random_prior(4).ode.velocity
    x, t = torch.randn(3, 4, dtype=torch.float64), torch.tensor(0.3, dtype=torch.float64)
    value, trace = divergence(lambda points: velocity(t, points), x, torch.eye(4).double()[:, None])
    jacobian = torch.autograd.functional.jacobian(lambda points: velocity(t, points).sum(0), x)
    torch.testing.assert_close(trace[:, 0], torch.einsum("ini->n", jacobian))
    torch.testing.assert_close(value, velocity(t, x))


def test_hutchinson_is_unbiased():
    prior = random_prior(3, trace="hutchinson", rtol=1e-6, atol=1e-6)
    exact = copy.deepcopy(prior)
    exact.ode.probes = None
    z = torch.randn(3, dtype=torch.float64)
    with torch.no_grad():
        scores, truth = prior().log_prob(z.expand(4000, 3)), exact().log_prob(z)
        prior.ode.probes = 4
        four = prior().log_prob(z.expand(4000, 3))
    standard_error = scores.std() / math.sqrt(4000)
    assert abs(scores.mean() - truth) < 5.5 * standard_error + 1e-4  # fails with probability 4e-8
    assert scores.std() > 0.01
    assert 0.4 < four.std() / scores.std() < 0.6  # four probes halve it


def test_one_probe_serves_a_whole_solve():
    prior = random_prior(3, trace="hutchinson")
    z = torch.randn(4, 3, dtype=torch.float64)
    torch.manual_seed(7)
    first = prior().log_prob(z)
    state = torch.get_rng_state()
    torch.manual_seed(7)
    torch.randint(0, 2, (1, 4, 3))
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(7)
    assert torch.equal(prior().log_prob(z), first)
    assert not torch.equal(prior().log_prob(z), first)


def test_whitening_changes_only_coordinates():
    prior = random_prior(2, whiten="pca", **TIGHT)
    codes = torch.randn(500, 2, dtype=torch.float64) @ torch.tensor([[2.0, 1.0], [0.0, 0.5]]).double() + 4.0
    bare = FlowMatching(2, velocity=prior.ode.velocity, whiten=None, **TIGHT).double()
    torch.testing.assert_close(prior().log_prob(codes[:9]), bare().log_prob(codes[:9]))  # the identity so far
    assert prior.fit(codes) == {"whitening": "pca"}
    assert bare.fit(codes) is None
    white, ladj = prior.whitening.inverse_and_ladj(codes[:9])
    torch.testing.assert_close(white, prior.whitening.inv(codes[:9]))
    torch.testing.assert_close(prior().log_prob(codes[:9]), bare().log_prob(white) + ladj)
    assert prior.whitening.inv(codes).std(0).sub(1.0).abs().max() < 0.01


def test_large_batches_are_solved_in_parts(monkeypatch):
    prior = random_prior(3, rtol=1e-7, atol=1e-7)
    z = torch.randn(2, 5, 3, dtype=torch.float64)
    whole = prior().log_prob(z)
    monkeypatch.setattr(ode, "_ROWS", 9)
    torch.testing.assert_close(prior().log_prob(z), whole, rtol=0, atol=1e-5)


# -------------------------------------------------------------------- gradients


def test_gradients_of_the_density():
    prior = random_prior(2, rtol=1e-8, atol=1e-8)
    fixed = FlowMatching(2, velocity=prior.ode.velocity, method="rk4", steps=1).double()
    z = torch.randn(1, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z: prior().log_prob(z), z, atol=1e-4)
    assert torch.autograd.gradgradcheck(lambda z: fixed().log_prob(z), z)
    bias = prior.ode.velocity.output.bias

    def of_bias(value):
        with torch.no_grad():
            bias.copy_(value)
        return prior().log_prob(z).sum().item()

    start = bias.detach().clone()
    (gradient,) = torch.autograd.grad(prior().log_prob(z).sum(), bias)
    step = torch.tensor([1e-5, 0.0], dtype=torch.float64)
    difference = (of_bias(start + step) - of_bias(start - step)) / 2e-5
    assert abs(gradient[0].item() - difference) < 1e-4


def test_a_frozen_velocity_passes_gradients_to_codes_only():
    prior = random_prior(2, torch.float32)
    z = torch.randn(4, 2, requires_grad=True)
    distribution = prior()
    with frozen(distribution.fitted):
        distribution.log_prob(z).sum().backward()
    assert z.grad.abs().sum() > 0
    assert all(p.grad is None for p in prior.parameters())
    distribution.fit_loss(z.detach()).sum().backward()
    assert all(p.grad is not None for p in prior.parameters())


@pytest.mark.parametrize("of", [lambda p: p().log_prob(torch.ones(3, 2)), lambda p: p().rsample((3,))])
def test_every_parameter_learns_from_scores_and_from_samples(of):
    prior = random_prior(2, torch.float32)
    of(prior).square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in prior.parameters())


# --------------------------------------------------------------------- training


def test_fit_loss_is_the_conditional_flow_matching_loss():
    prior = random_prior(3, torch.float32)
    prior.fit(2.0 * torch.randn(50, 3) - 1.0)
    z = torch.randn(4, 5, 3)
    torch.manual_seed(2)
    loss = prior().fit_loss(z)
    torch.manual_seed(2)
    x_1 = (z - prior.whitening.mean) / prior.whitening.inverse.diagonal()
    x_0, t = torch.randn(4, 5, 3), torch.rand(4, 5, 1)
    error = prior.ode.velocity(t, (1 - t) * x_0 + t * x_1) - (x_1 - x_0)
    assert loss.shape == (4, 5)
    torch.testing.assert_close(loss, (error**2).sum(-1))


def test_it_learns_a_known_density():
    """NLL approaches the entropy of a mixture of two Gaussians, 2.14 nats."""
    components = dist.Normal(torch.tensor([[-2.0, 0.0], [2.0, 0.0]]), 0.5).to_event(1)
    truth = dist.MixtureSameFamily(dist.Categorical(torch.ones(2) / 2), components)
    prior = FlowMatching(2, width=64, layers=2)
    prior.fit(truth.sample((2000,)))
    test = truth.sample((500,))

    def gap():
        with torch.no_grad():
            return (truth.log_prob(test) - prior().log_prob(test)).mean().item()

    before = gap()
    adam = torch.optim.Adam(prior.parameters(), lr=3e-3, fused=True)
    for _ in range(400):
        adam.zero_grad()
        prior().fit_loss(truth.sample((512,))).mean().backward()
        adam.step()
    assert before > 0.5
    assert -0.02 < gap() < 0.15


# ----------------------------------------------------------------------- solver


@pytest.mark.parametrize(
    ("velocity", "options", "sentence"),
    [
        (lambda t, x: 50 * (50 * x).sin(), {"max_steps": 3}, "more than prior.max_steps=3 steps"),
        (lambda t, x: x / 0.0, {}, "step size shrank to nothing"),
    ],
)
def test_a_solver_that_does_not_converge_says_what_to_do(velocity, options, sentence):
    prior = FlowMatching(2, velocity=FunctionVelocity(velocity), **options)
    with pytest.raises(UserError, match=rf"prior.method=dopri5 did not converge: .*{sentence}") as error:
        prior().sample((3,))
    assert all(key in str(error.value) for key in ("prior.rtol=1e-05", "prior.max_steps", "prior.method=rk4"))
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="did not converge"):
        prior().log_prob(torch.ones(3, 2))


@pytest.mark.parametrize(("method", "order"), [("euler", 1), ("midpoint", 2), ("heun3", 3), ("rk4", 4)])
def test_methods_of_fixed_steps_converge_at_their_order(method, order):
    z, velocity = torch.randn(3, 2, dtype=torch.float64), random_prior(2).ode.velocity
    truth = FlowMatching(2, velocity=velocity, **TIGHT).double()().log_prob(z)
    errors = []
    for steps in (20, 40):
        prior = FlowMatching(2, velocity=velocity, method=method, steps=steps).double()
        errors.append((prior().log_prob(z) - truth).abs().max().item())
        assert errors[-1] < prior.tolerance
    assert abs(math.log2(errors[0] / errors[1]) - order) < 0.5
    assert prior.record() == {"log_prob": "exact trace", "solver": method, "steps": 40}


@pytest.mark.parametrize("method", ["dopri5", "dopri8"])
@pytest.mark.parametrize("tolerance", [1e-3, 1e-5])
def test_adaptive_methods_keep_their_tolerance(method, tolerance):
    z, velocity = torch.randn(20, 2, dtype=torch.float64), random_prior(2, std=0.2).ode.velocity
    exact = FlowMatching(2, velocity=velocity, **TIGHT).double()
    prior = FlowMatching(2, velocity=velocity, method=method, rtol=tolerance, atol=tolerance).double()
    with torch.no_grad():
        assert (prior().log_prob(z) - exact().log_prob(z)).abs().max() < prior.tolerance
        assert (prior.to_latent(z) - exact.to_latent(z)).abs().max() < prior.tolerance


# ---------------------------------------------------------------------- a prior


def test_laws():
    testing.check_prior(lambda: FlowMatching(3, width=8, layers=1, rtol=1e-4, atol=1e-4))


@pytest.mark.parametrize("batch", [(), (7,), (2, 3, 4)])
def test_shapes(batch):
    prior = random_prior(3, torch.float32)
    distribution = prior().expand(batch)
    assert distribution.batch_shape == batch
    assert distribution.sample((2,)).shape == (2, *batch, 3)
    assert not distribution.sample().requires_grad
    z = torch.randn(*batch, 3)
    assert distribution.log_prob(z).shape == batch
    assert distribution.fit_loss(z).shape == batch
    assert prior.to_base(z).shape == prior.to_latent(z).shape == z.shape


def test_temperature_scales_the_base():
    prior = random_prior(2)
    torch.manual_seed(3)
    hot = prior(temperature=0.5).sample((5,))
    torch.manual_seed(3)
    plain = prior().sample((5,))
    torch.testing.assert_close(prior.to_base(hot), 0.5 * prior.to_base(plain), rtol=1e-3, atol=1e-4)


def test_it_is_a_site_of_a_pyro_model():
    prior = random_prior(2, torch.float32)

    def model():
        with pyro.plate("codes", 4):
            return pyro.sample("z", prior())

    trace = pyro.poutine.trace(model).get_trace()
    trace.compute_log_prob()
    assert trace.nodes["z"]["value"].shape == (4, 2)
    assert trace.nodes["z"]["log_prob"].shape == (4,)


def test_state_is_saved_and_copied():
    prior, other = random_prior(3, torch.float32), random_prior(3, torch.float32)
    prior.fit(torch.randn(50, 3) * 4.0 + 1.0)
    z = torch.randn(5, 3)
    truth = prior().log_prob(z)
    assert torch.equal(copy.deepcopy(prior)().log_prob(z), truth)
    assert not torch.equal(other().log_prob(z), truth)
    other.load_state_dict(prior.state_dict())
    assert torch.equal(other().log_prob(z), truth)


def test_float32_under_autocast():
    prior = random_prior(4, torch.float32)
    prior.fit(torch.randn(50, 4) * 4.0 + 1.0)
    z = torch.randn(8, 4)
    of = [prior().log_prob, prior.to_base, prior.to_latent, prior().fit_loss, lambda z: prior().rsample((8,))]
    for function in of:
        torch.manual_seed(1)
        plain = function(z)
        torch.manual_seed(1)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            mixed = function(z)
        assert mixed.dtype == torch.float32
        assert torch.equal(mixed, plain)
    assert prior().log_prob(z.bfloat16()).dtype == torch.float32


def test_the_record_says_how_scores_come_about():
    assert FlowMatching(16, 8, 1).record()["log_prob"] == "exact trace"
    assert FlowMatching(17, 8, 1).record()["log_prob"] == "Hutchinson, 1 probe"
    record = FlowMatching(2, 8, 1, trace="hutchinson", probes=3, rtol=1e-4).record()
    assert record == {"log_prob": "Hutchinson, 3 probes", "solver": "dopri5", "rtol": 1e-4, "atol": 1e-5}
    assert FlowMatching(32, 8, 1, trace="exact").record()["log_prob"] == "exact trace"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trace": "sloppy"}, "expected trace to be auto, exact or hutchinson, got 'sloppy'"),
        ({"probes": 0}, "expected probes to be at least 1, got 0"),
        ({"width": 0}, "width, layers and frequencies to be at least 1, got 2, 0"),
        ({"whiten": "zca"}, "whitening of 'standardize' or 'pca', got 'zca'"),
        ({"method": "dopri4"}, "expected method to be one of dopri5, .*rk4, got 'dopri4'"),
        ({"rtol": 0.0}, "expected rtol and atol to be between 0 and 1, got 0.0"),
        ({"max_steps": 0}, "expected max_steps to be at least 1, got 0"),
        ({"method": "rk4"}, "expected steps to be a whole number for method rk4, got None"),
        ({"steps": 10}, "expected steps to be null for method dopri5, got 10"),
        ({"method": "rk4", "steps": 0}, "expected steps to be at least 1, got 0"),
        ({"velocity": nn.Linear(2, 2)}, r"expected velocity to take times of shape \(\) and points"),
        ({"velocity": LinearVelocity(torch.eye(3))}, r"points of shape \(2, 2\), got"),
        ({"velocity": FunctionVelocity(lambda t, x: x[:, :1])}, r"return shape \(2, 2\), got \(2, 1\)"),
    ],
)
def test_wrong_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        FlowMatching(2, **options)
