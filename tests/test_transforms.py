import math

import pyro.distributions.transforms as T
import pytest
import torch
from builders import jiggle
from torch import nn

from pyro_lrp import testing
from pyro_lrp import transforms as ours
from pyro_lrp.networks import perceptron

CONTEXT = torch.randn(3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def _conditioned(conditional):
    with torch.no_grad():
        for parameter in conditional.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return conditional.double().condition(CONTEXT)


def _fitted(kind):
    whitening = ours.Whitening(3, kind)
    whitening.fit(CODES)
    return whitening


CODES = torch.randn(500, 3, generator=torch.Generator().manual_seed(2)) @ torch.tensor(
    [[2.0, 0.1, 0.0], [0.0, 0.5, 0.3], [0.0, 0.0, 0.01]]
)
BIJECTIONS = {
    "sigmoid_coupling": lambda: (ours.sigmoid_coupling(4, [8, 8]), 4),
    "sigmoid_coupling of odd length": lambda: (ours.sigmoid_coupling(5, [8]), 5),
    "elementwise_affine": lambda: (ours.elementwise_affine(3), 3),
    "swap": lambda: (ours.swap(), 4),
    "swap of odd length": lambda: (ours.swap(), 5),
    "conditional coupling": lambda: (_conditioned(ours.conditional_sigmoid_coupling(4, 3, [8])), 4),
    "conditional affine": lambda: (_conditioned(ours.conditional_elementwise_affine(4, 3)), 4),
    "spline coupling": lambda: (ours.spline_coupling(4, [8]), 4),
    "spline coupling of odd length": lambda: (ours.spline_coupling(5, [8], bins=4, bound=2.0), 5),
    "invertible linear": lambda: (ours.invertible_linear(5), 5),
    "standardizing": lambda: (_fitted("standardize"), 3),
    "pca": lambda: (_fitted("pca"), 3),
    "spatial flow": lambda: (T.ComposeTransformModule(ours.spatial_flow((2, 2, 3), 2, 4)), 12),
    "channel affine": lambda: (ours.ChannelAffine(3, 4), 12),
    "inverse of a coupling": lambda: (ours.sigmoid_coupling(4, [8]).inv, 4),
}


@pytest.mark.parametrize("name", BIJECTIONS)
def test_laws(name):
    testing.check_transform(*BIJECTIONS[name]())


CONDITIONAL = {
    "coupling": lambda: (ours.conditional_sigmoid_coupling(4, 3, [8]), 4),
    "coupling of odd length": lambda: (ours.conditional_sigmoid_coupling(5, 3, [8]), 5),
    "affine": lambda: (ours.conditional_elementwise_affine(4, 3, [8]), 4),
    "coupling of maps": lambda: (ours.conditional_spatial_flow((2, 1, 3), 1, 1, 4)[1], 6),
    "shift by phases": lambda: (_without_dropout(ours.ConditionalPhaseShift(3, 2)), 12),
}
CONTEXTS = {"shift by phases": 12}  # the length of a context, where it is not 3


def _without_dropout(conditional):
    return conditional.eval()


@torch.no_grad()
def _jiggled(conditional):
    for parameter in conditional.parameters():
        parameter.add_(0.3 * torch.randn_like(parameter))
    return conditional


@pytest.mark.parametrize("batches", [((), (3,)), ((1,), (3,)), ((5, 1), (3,)), ((5, 3), (3,)), ((3,), ())])
@pytest.mark.parametrize("name", CONDITIONAL)
def test_codes_and_contexts_broadcast_either_way(name, batches):
    """As if both were repeated to one batch, in both directions, with their log-determinants."""
    conditional, dim = CONDITIONAL[name]()
    _jiggled(conditional).double()
    of_codes, of_contexts = batches
    whole = torch.broadcast_shapes(of_codes, of_contexts)
    codes = torch.randn(*of_codes, dim, dtype=torch.float64)
    contexts = torch.randn(*of_contexts, CONTEXTS.get(name, 3), dtype=torch.float64)
    transform = conditional.condition(contexts)
    repeated = conditional.condition(contexts.expand(*whole, -1))
    whole_codes = codes.expand(*whole, -1)
    for actual, expected in zip(
        (transform(codes), *transform.inverse_and_ladj(codes), transform.log_abs_det_jacobian(codes, codes)),
        (
            repeated(whole_codes),
            *repeated.inverse_and_ladj(whole_codes),
            repeated.log_abs_det_jacobian(whole_codes, whole_codes),
        ),
        strict=True,
    ):
        torch.testing.assert_close(actual.expand_as(expected), expected)
        assert actual.shape == expected.shape


@pytest.mark.parametrize("name", CONDITIONAL)
def test_a_conditioned_transform_follows_its_parameters(name):
    """One that was conditioned before an update is the one that is conditioned after it."""
    conditional, dim = CONDITIONAL[name]()
    codes = torch.randn(3, dim)
    contexts = torch.randn(3, CONTEXTS.get(name, 3))
    before = conditional.condition(contexts)
    old = before.inverse_and_ladj(codes)[0].detach()
    _jiggled(conditional)
    after = conditional.condition(contexts)
    assert not torch.equal(after.inverse_and_ladj(codes)[0], old)
    for held, fresh in zip(before.inverse_and_ladj(codes), after.inverse_and_ladj(codes), strict=True):
        assert torch.equal(held, fresh)
    assert torch.equal(before(codes), after(codes))
    before.inverse_and_ladj(codes)[0].sum().backward()  # nothing of a freed graph is held
    before.inverse_and_ladj(codes)[0].sum().backward()


def test_the_kit_finds_what_is_wrong():
    class Forgetful(ours.SigmoidCoupling):
        def inverse_and_ladj(self, y):
            x, ladj = super().inverse_and_ladj(y)
            return x, 0.9 * ladj

    wrong = Forgetful(2, perceptron(2, [8], 4))
    with pytest.raises(AssertionError, match="inverse log-determinant against autograd"):
        testing.check_transform(wrong, 4)
    with pytest.raises(AssertionError, match="rescoring after an update"):
        testing.check_transform(T.affine_coupling(4, hidden_dims=[8]), 4)  # its cache goes stale


def test_initialisation_is_glorot_with_a_zero_last_layer():
    first, _, second, _, last = ours.sigmoid_coupling(64, (1024, 1024)).conditioner
    for layer, bound in ((first, 0.07538), (second, 0.05413)):
        assert 0.98 * bound < layer.weight.abs().max().item() <= bound + 1e-5
        assert not layer.bias.any()
    assert last.out_features == 64
    assert not last.weight.any()
    assert not last.bias.any()


def _to_base(stack, z):
    total = torch.zeros(z.shape[:-1], dtype=z.dtype)
    for transform in reversed(stack):
        z, ladj = ours.inverse_and_ladj(transform, z)
        total = total + ladj
    return z, total


def _parameters(stack):
    return sum(p.numel() for t in stack if isinstance(t, nn.Module) for p in t.parameters())


@pytest.mark.parametrize(
    ("layers", "width", "parameters", "factor", "logdet"),
    [
        (24, 1024, 27_577_344, 0.2180271, -97.48071),
        (16, 256, 1_452_032, 0.362249, -64.98714),
        (30, 1024, 34_471_680, 0.1489834, -121.85089),
    ],
)
def test_known_values_of_the_paper_flow(layers, width, parameters, factor, logdet):
    """Spec 5.2: parameter counts, and scale and log-determinant at initialisation, at dim 64."""
    stack = ours.paper_flow(64, layers, width)
    assert _parameters(stack) == parameters
    z = torch.randn(5, 64)
    base, ladj = _to_base(stack, z)
    torch.testing.assert_close(base, factor * z, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ladj, torch.full((5,), logdet), rtol=0, atol=1e-4)


def test_dim_two_has_the_known_number_of_parameters():
    assert _parameters(ours.paper_flow(2, 24, 1024)) == 25_288_800


def test_placement_of_affines_against_the_listing():
    """Spec 5.2: affines with log-scale k/100, counted from the data side, against the listing written out."""
    dim, layers = 6, 8
    stack = ours.paper_flow(dim, layers, 4)
    affines = [t for t in reversed(stack) if isinstance(t, ours.ElementwiseAffine)]
    assert len(affines) == layers // 2
    with torch.no_grad():
        for k, affine in enumerate(affines, start=1):
            affine.log_scale.fill_(k / 100)
            affine.shift.fill_(k / 10)
    z = torch.randn(3, dim)
    expected, logdet = z.clone(), 0.0
    for t in range(1, layers + 1):
        if t % 2 == 1:
            k = (t + 1) // 2
            expected = math.exp(k / 100) * expected + k / 10
            logdet += dim * k / 100
        a, b = expected.chunk(2, dim=-1)
        sigma = 1 / (1 + math.exp(-2.0))
        expected = torch.cat([sigma * b, a], dim=-1)  # coupling, then the halves change places
        logdet += dim / 2 * math.log(sigma)
    base, ladj = _to_base(stack, z)
    torch.testing.assert_close(base, expected)
    torch.testing.assert_close(ladj, torch.full((3,), logdet))


def test_two_transformations_change_every_coordinate():
    stack = ours.paper_flow(6, 2, 8)
    z = torch.randn(1, 6)
    base, _ = _to_base(stack, z)
    assert (base != z).all()


def test_random_permutations_are_fixed_by_their_seed():
    def first(seed):
        stack = ours.paper_flow(16, 2, 4, permute="random", seed=seed)
        return next(t.permutation for t in stack if isinstance(t, T.Permute))

    assert torch.equal(first(0), first(0))
    assert not torch.equal(first(0), first(1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dim": 3}, "even latent_dim, got 3"),
        ({"dim": 0}, "latent_dim of at least 2, got 0"),
        ({"dim": 4, "layers": 0}, "layers=0"),
        ({"dim": 4, "permute": "none"}, "'none'"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        ours.paper_flow(**arguments)


def test_log_prob_evaluates_each_network_once():
    from pyro_lrp.priors import Flow

    stack = ours.paper_flow(4, 3, 8)
    calls = []
    for transform in stack:
        if isinstance(transform, ours.SigmoidCoupling):
            transform.conditioner.register_forward_hook(lambda *_: calls.append(1))
    prior = Flow(4, stack)
    calls.clear()
    prior().log_prob(torch.randn(2, 4))
    assert len(calls) == 3


def test_conditional_coupling_broadcasts_its_context_and_reads_it():
    conditional = ours.conditional_sigmoid_coupling(4, 3, [8])
    nn.init.normal_(conditional.conditioner[-1].weight)
    z = torch.randn(7, 4)
    one = conditional.condition(torch.randn(3)).inverse_and_ladj(z)[0]
    many = conditional.condition(torch.randn(7, 3)).inverse_and_ladj(z)[0]
    assert one.shape == many.shape == z.shape
    assert not torch.allclose(one, many)


def test_fitted_codes_are_white():
    for kind, off_diagonal in (("standardize", False), ("pca", True)):
        x = _fitted(kind).inverse_and_ladj(CODES)[0].double()
        covariance = torch.cov(x.T, correction=0)
        torch.testing.assert_close(x.mean(0), torch.zeros(3).double(), rtol=0, atol=1e-5)
        torch.testing.assert_close(covariance.diagonal(), torch.ones(3).double(), rtol=1e-4, atol=0)
        assert (covariance.tril(-1).abs().max() < 1e-4) == off_diagonal


def test_an_invertible_linear_map_starts_as_its_matrix():
    weight = torch.randn(4, 4, dtype=torch.float64)
    linear, y = ours.InvertibleLinear(weight), torch.randn(3, 4, dtype=torch.float64)
    x, ladj = linear.inverse_and_ladj(y)
    torch.testing.assert_close(x, y @ weight.T)
    torch.testing.assert_close(ladj, torch.linalg.slogdet(weight).logabsdet.expand(3))


def test_a_spline_coupling_equals_pyros_and_keeps_no_graph():
    import copy

    ours_, z = ours.spline_coupling(4, [8]), torch.randn(6, 4)
    stock = T.SplineCoupling(4, 2, ours_.upper_spline.nn, 8, 5.0, order="quadratic")
    stock.load_state_dict(ours_.state_dict())
    torch.testing.assert_close(ours_.inverse_and_ladj(z)[0], stock._inverse(z))
    torch.testing.assert_close(ours_.inverse_and_ladj(z)[1], -stock.log_abs_det_jacobian(stock._inverse(z), z))
    assert torch.equal(copy.deepcopy(ours_)(z), ours_(z))


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_dropout_is_a_share(share):
    with pytest.raises(ValueError, match="dropout to be a share"):
        ours.paper_flow(4, 2, 8, dropout=share)


def test_dropout_is_off_outside_training():
    from pyro_lrp.priors import paper_flow

    prior, z = paper_flow(4, 2, 64, dropout=0.5), torch.randn(8, 4)
    for parameter in prior.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    assert not torch.equal(prior().log_prob(z), prior().log_prob(z))
    prior.eval()
    assert torch.equal(prior().log_prob(z), prior().log_prob(z))
    testing.check_prior(prior)


@pytest.mark.parametrize("dim", [4, 5])
def test_an_exchange_and_its_coupling_are_one_transform(dim):
    coupling = jiggle(ours.sigmoid_coupling(dim, [8]).double(), 0.5)
    pair = [ours.Swap(), coupling]
    (one,) = ours.fused(pair, dim)
    x = torch.randn(3, 2, dim, dtype=torch.float64)
    y = coupling(pair[0](x))
    assert torch.equal(one(x), y)
    back, ladj = one.inverse_and_ladj(y)
    torch.testing.assert_close(back, x)
    expected = -coupling.log_abs_det_jacobian(pair[0](x), y)
    torch.testing.assert_close(ladj, expected)
    torch.testing.assert_close(one.log_abs_det_jacobian(x, y), -expected)


def test_only_an_exchange_before_its_own_coupling_is_fused():
    coupling = ours.sigmoid_coupling(6, [8])
    other = ours.SigmoidCoupling(2, torch.nn.Linear(2, 8))
    listing = [coupling, ours.Swap(), ours.Swap(), other]
    assert ours.fused(listing, 6) == listing
