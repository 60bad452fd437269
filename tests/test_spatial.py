"""Flows of codes that are maps: the laws, and what a position may know of the others."""

import pytest
import torch
from builders import jiggle

from pyro_lrp import networks, priors, testing, transforms

SHAPE, CONTEXT = (4, 3, 2), 2  # channels, height, width; channels of the context
DIM, POSITIONS = 24, 6


def conditional():
    stack = transforms.conditional_spatial_flow(SHAPE, CONTEXT, layers=2, width=8)
    mean = networks.SpatialPerceptron(CONTEXT, 8, SHAPE[0], SHAPE[1:])
    return priors.ConditionalFlow(DIM, stack, context_dim=CONTEXT * POSITIONS, conditional_base=mean)


def test_a_flow_of_maps_is_a_prior():
    testing.check_prior(lambda: priors.Flow(DIM, transforms.spatial_flow(SHAPE, layers=2, width=8)))


def test_given_maps_too():
    testing.check_prior(conditional)


def phases():
    """The U-Net's own prior: unit normals about means, phase by phase."""
    return priors.ConditionalFlow(
        32, [transforms.ConditionalPhaseShift(2, 4)], context_dim=32, conditional_base=False
    )


def test_the_unets_own_prior_is_one():
    testing.check_prior(phases)


def test_its_density_is_that_of_unit_normals_about_its_means():
    prior = phases().double().eval()
    z, context = torch.randn(2, 5, 32, dtype=torch.float64)
    means = prior.transforms[0].means.given(context.reshape(5, 2, 4, 4), z.reshape(5, 2, 4, 4)).flatten(1)
    expected = torch.distributions.Normal(means, 1.0).log_prob(z).sum(1)
    torch.testing.assert_close(prior(context).log_prob(z), expected)
    torch.testing.assert_close(z - prior.to_base(z, context), means)


def test_a_map_comes_as_its_channels_one_after_another():
    network = networks.SpatialPerceptron(3, 8, 5, (4, 6), zero_last=False)
    maps = torch.randn(7, 3, 4, 6)
    torch.testing.assert_close(network(maps.flatten(1)), network.layers(maps).flatten(1))
    assert network(maps.flatten(1).expand(2, 7, -1)).shape == (2, 7, 120)


def test_a_coupling_moves_half_of_the_channels_by_what_is_near():
    """Two 3x3 convolutions see two positions far; a coupling keeps the first half of the channels."""
    _, coupling, _ = transforms.spatial_flow((2, 8, 8), layers=1, width=4)
    jiggle(coupling, 0.5)
    jacobian = torch.autograd.functional.jacobian(
        lambda z: coupling.inverse_and_ladj(z)[0], torch.randn(128)
    ).reshape(2, 8, 8, 2, 8, 8)
    kept, moved = jacobian[0], jacobian[1]
    assert torch.equal(kept.flatten(2).reshape(64, 128), torch.eye(64, 128))
    others = moved[4, 4, 0].abs() > 0  # of the kept channel, on one position of the moved one
    rows, columns = others.nonzero().unbind(1)
    assert rows.min() >= 2
    assert rows.max() <= 6
    assert columns.max() - columns.min() <= 4
    assert others.sum() > 9


def test_a_channel_has_one_scale_and_shift():
    affine = transforms.ChannelAffine(2, 3).double()
    with torch.no_grad():
        affine.log_scale.copy_(torch.tensor([0.5, -1.0]))
        affine.shift.copy_(torch.tensor([1.0, 2.0]))
    z = torch.randn(5, 6, dtype=torch.float64)
    x, ladj = affine.inverse_and_ladj(z)
    scale = torch.tensor([0.5, 0.5, 0.5, -1.0, -1.0, -1.0], dtype=torch.float64).exp()
    torch.testing.assert_close(x, z * scale + torch.tensor([1.0, 1, 1, 2, 2, 2], dtype=torch.float64))
    torch.testing.assert_close(ladj, scale.log().sum().expand(5))


def test_at_the_start_the_prior_is_normal_whatever_the_context():
    prior = conditional()
    z, context = torch.randn(5, DIM), torch.randn(5, CONTEXT * POSITIONS)
    plain = priors.Flow(DIM, transforms.spatial_flow(SHAPE, layers=2, width=8))
    torch.testing.assert_close(prior(context).log_prob(z), plain().log_prob(z))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: transforms.spatial_flow((3, 4, 4)),
            r"expected codes \(C, h, w\) with an even C, got \(3, 4, 4\)",
        ),
        (lambda: transforms.spatial_flow((4, 4)), r"with an even C, got \(4, 4\)"),
        (lambda: transforms.spatial_flow((4, 4, 4), layers=0), "layers and width of at least 1, got layers=0"),
        (lambda: transforms.conditional_spatial_flow((4, 4, 4), 0), "context_channels of at least 1, got 0"),
    ],
)
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
