"""The networks of the Variational U-Net: published sizes, and what each latent may know of."""

import pytest
import torch
from torch import nn

from pyro_lrp.networks.vunet.blocks import (
    LATENT_SIDES,
    AppearanceEncoder,
    PhaseMeans,
    PoseDecoder,
    PoseEncoder,
    Posterior,
    WeightNormConv,
    channels_of,
    data_dependent_initialization,
    depth_to_space,
    space_to_depth,
)


def count(*modules):
    return sum(p.numel() for module in modules for p in module.parameters())


def test_the_published_network_has_its_number_of_parameters():
    decoder, means = PoseDecoder(256), [PhaseMeans(), PhaseMeans()]
    assert count(decoder, *means) == 39_862_016 + 870  # spec 11.2
    assert count(AppearanceEncoder(256), Posterior(), PoseEncoder(256), decoder, *means) == 47_272_966


@pytest.mark.parametrize("size", [32, 64, 256])
def test_shapes_from_coarse_to_fine(size):
    """Spec 15.15, and the same with scales taken off."""
    networks = [AppearanceEncoder(size), Posterior(), PoseEncoder(size), PoseDecoder(size)]
    appearance, posterior, pose, decoder = (network.eval() for network in networks)
    drawn, asked = {}, {}

    def keep(number, mean):
        drawn[number] = mean + torch.randn_like(mean)
        return drawn[number]

    def give(number, features):
        asked[number] = features.shape
        return drawn[number]

    with torch.no_grad():
        posterior(appearance(torch.rand(2, 24, size // 4, size // 4)), keep)
        features = pose(torch.rand(2, 3, size, size))
        image = decoder(features, give)
    assert {number: z.shape for number, z in drawn.items()} == {0: (2, 128, 4, 4), 1: (2, 128, 8, 8)}
    assert asked == {number: z.shape for number, z in drawn.items()}
    assert image.shape == (2, 3, size, size)
    assert len(features) == 2 * len(channels_of(size))
    assert [f.shape[-1] for f in features[::2]] == [size >> k for k in range(len(features) // 2)]


@pytest.mark.parametrize("size", [0, 8, 16, 48, 100])
def test_sizes_that_cannot_be_halved_so_often_are_refused(size):
    with pytest.raises(ValueError, match=f"a power of two, got {size}"):
        PoseEncoder(size)


def test_depth_and_space_are_inverse():
    x = torch.randn(2, 8, 6, 4)
    assert torch.equal(space_to_depth(depth_to_space(x)), x)
    y = torch.randn(2, 3, 6, 4)
    assert torch.equal(depth_to_space(space_to_depth(y)), y)
    assert torch.equal(space_to_depth(y)[:, :3], y[:, :, ::2, ::2])  # a phase is every second position
    assert torch.equal(space_to_depth(y)[:, 9:], y[:, :, 1::2, 1::2])


@pytest.mark.parametrize("network", [PoseEncoder(32, dropout=0.0), WeightNormConv(3, 32)])
def test_after_initialization_from_data_convolutions_pass_on_units(network):
    images = 3 + 5 * torch.randn(4, 3, 32, 32)
    outputs = []
    for part in network.modules():
        if isinstance(part, WeightNormConv):
            part.register_forward_hook(lambda module, given, output: outputs.append(output))
    with data_dependent_initialization(network):
        network(images)
    outputs.clear()
    network(images)
    for y in outputs:
        torch.testing.assert_close(y.mean((0, 2, 3)), torch.zeros(y.shape[1]), atol=1e-3, rtol=0)
        torch.testing.assert_close(y.std((0, 2, 3)), torch.ones(y.shape[1]), atol=1e-3, rtol=0)
    assert len(outputs) == sum(isinstance(part, WeightNormConv) for part in network.modules())
    assert not any(getattr(part, "initializing", False) for part in network.modules())


def test_kernels_have_length_one_but_for_the_gain():
    convolution = WeightNormConv(2, 3, size=3, stride=2)
    with torch.no_grad():
        convolution.direction.mul_(7.0)
        convolution.gain.copy_(torch.tensor([1.0, -2.0, 0.5]))
    plain = nn.Conv2d(2, 3, 3, stride=2, padding=1)
    lengths = convolution.direction.flatten(1).norm(dim=1)
    with torch.no_grad():
        plain.weight.copy_(convolution.direction * (convolution.gain / lengths)[:, None, None, None])
        plain.bias.copy_(convolution.bias)
    x = torch.randn(2, 2, 8, 8)
    torch.testing.assert_close(convolution(x), plain(x))


@pytest.fixture
def means():
    torch.manual_seed(0)
    network = PhaseMeans(4).double().eval()
    with data_dependent_initialization(network):
        network.given(torch.randn(8, 4, 4, 4).double(), torch.randn(8, 4, 4, 4).double())
    return network


def test_a_latent_is_its_means_and_the_noise(means):
    features, noise = torch.randn(2, 3, 4, 4, 4, dtype=torch.float64)
    z = means.sample(features, noise)
    torch.testing.assert_close(z - means.given(features, z), noise)


def test_a_phase_knows_the_features_and_the_phases_before_it(means):
    features, z = torch.randn(2, 1, 4, 4, 4, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda z: means.given(features, z), z)
    order = space_to_depth(torch.arange(16.0).reshape(1, 1, 4, 4)).flatten().long()
    by_position = jacobian.abs().sum((0, 1, 4, 5)).reshape(16, 16)[order][:, order]
    by_phase = by_position.reshape(4, 4, 4, 4).sum((1, 3))  # (phase of a mean, phase of the latent)
    assert (by_phase.triu() == 0).all()
    assert (by_phase[torch.ones(4, 4).tril(-1).bool()] > 0).all()
    other = means.given(features + 1, z)
    assert (other != means.given(features, z)).all()


def test_a_latent_may_know_the_pose_and_the_coarser_latent():
    torch.manual_seed(0)
    pose, decoder = PoseEncoder(32).eval(), PoseDecoder(32).eval()
    stick = torch.rand(1, 3, 32, 32)
    z = [torch.randn(1, 128, side, side) for side in LATENT_SIDES]

    def features(stick, z):
        seen = []
        with torch.no_grad():
            decoder(pose(stick), lambda number, h: seen.append(h) or z[number])
        return seen

    plain, shifted = features(stick, z), features(stick, [z[0] + 1, z[1]])
    assert torch.equal(plain[0], shifted[0])
    assert not torch.equal(plain[1], shifted[1])
    assert torch.equal(plain[1], features(stick, [z[0], z[1] + 1])[1])
    assert not torch.equal(plain[0], features(1 - stick, z)[0])
