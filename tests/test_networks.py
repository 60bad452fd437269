import pytest
import torch
from torch import nn

from pyro_lrp import networks


def count(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("shape", "encoder_count", "decoder_count"),
    [
        ((1, 28, 28), 6_689_344, 6_642_241),
        ((3, 32, 32), 8_657_472, 8_616_131),
        ((3, 64, 64), 33_823_296, 33_855_683),
    ],
)
def test_infogan_has_the_known_number_of_parameters(shape, encoder_count, decoder_count):
    """Spec 4.1."""
    encoder, decoder = networks.infogan(shape, 64)
    assert (count(encoder), count(decoder)) == (encoder_count, decoder_count)


NETWORKS = {
    "infogan 28": (lambda: networks.infogan((1, 28, 28), 6, channels=(4, 8), hidden=16), (1, 28, 28)),
    "infogan 32 RGB": (lambda: networks.infogan((3, 32, 32), 6, channels=(4, 8), hidden=16), (3, 32, 32)),
    "infogan 64 RGB": (lambda: networks.infogan((3, 64, 64), 6, channels=(4, 8), hidden=16), (3, 64, 64)),
    "infogan 8, spectral norm": (
        lambda: networks.infogan((1, 8, 8), 6, channels=(4, 8), hidden=16, encoder_spectral_norm=True),
        (1, 8, 8),
    ),
    "mlp 5x7": (lambda: networks.mlp((3, 5, 7), 6, hidden_dims=(16, 8)), (3, 5, 7)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_shapes_and_ranges(name):
    build, shape = NETWORKS[name]
    encoder, decoder = build()
    x = torch.rand(5, *shape)
    loc, scale = encoder(x)
    assert loc.shape == scale.shape == (5, 6)
    assert (scale >= 1e-6).all()
    mean = decoder(loc)
    assert mean.shape == x.shape
    assert 0 <= mean.min() <= mean.max() <= 1


@pytest.mark.parametrize("name", NETWORKS)
def test_two_images_can_be_learned_by_heart(name):
    build, shape = NETWORKS[name]
    encoder, decoder = build()
    x = torch.zeros(16, *shape)  # two images, eight times each: batch normalization needs a batch
    x[::2, :, : shape[1] // 2] = 1.0
    adam = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=1e-2)
    for _ in range(200):
        adam.zero_grad()
        loss = (decoder(encoder(x)[0]) - x).square().mean()
        loss.backward()
        adam.step()
    assert loss.item() < 0.02  # the best constant image has 0.25


def test_initialisation_of_infogan():
    encoder, decoder = networks.infogan((1, 28, 28), 64)
    convolution, linear = encoder.trunk[2], encoder.trunk[6]
    assert convolution.weight.abs().max() <= 0.04 + 1e-6
    assert linear.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert decoder[10].weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert not any(m.bias.any() for m in [*encoder.modules(), *decoder.modules()] if isinstance(m, nn.Linear))


def test_spectral_norm_bounds_every_layer_of_the_encoder():
    encoder, _ = networks.infogan((1, 28, 28), 4, channels=(4, 8), hidden=16, encoder_spectral_norm=True)
    for _ in range(30):
        encoder(torch.rand(2, 1, 28, 28))  # power iterations
    layers = [m for m in encoder.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    norms = [torch.linalg.matrix_norm(m.weight.flatten(1), 2).item() for m in layers]
    assert len(norms) == 4
    assert norms == pytest.approx([1.0] * 4, rel=0.05)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: networks.infogan((1, 30, 30), 4), "multiple of 4, got 30x30"),
        (lambda: networks.infogan((1, 28, 32), 4), "square images"),
        (lambda: networks.infogan((28, 28), 4), "image_shape"),
        (lambda: networks.infogan((1, 28, 28), 0), "latent_dim of at least 1, got 0"),
        (lambda: networks.mlp((1, 8, 8), 0), "latent_dim of at least 1, got 0"),
    ],
)
def test_what_a_network_cannot_take_is_said(build, message):
    with pytest.raises(ValueError, match=message):
        build()
