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


@pytest.mark.parametrize(
    ("options", "encoder_count", "decoder_count"),
    [({"base": 16}, 1_147_056, 4_065_843), ({"base": 32}, 3_333_344, 15_988_323)],
)
def test_resnet_has_the_known_number_of_parameters(options, encoder_count, decoder_count):
    """Spec 4.2."""
    encoder, decoder = networks.resnet((3, 64, 64), 64, **options)
    assert (count(encoder), count(decoder)) == (encoder_count, decoder_count)


def test_the_described_resnet_has_two_blocks_a_scale_and_keeps_positions():
    """Four scales of two blocks, sides 64, 32, 16, 8; flattened, not averaged."""
    plain, _ = networks.resnet((3, 64, 64), 64)
    described, decoder = networks.resnet((3, 64, 64), 64, blocks_per_scale=2, pool="flatten")
    residual = sum(count(m) for m in plain.trunk if type(m).__name__ == "_Residual")
    wider = (
        2 * (8 * 8 - 1) * 256 * 512
    )  # the first linear layer and its shortcut see 64 positions, not their mean
    assert count(described) - count(plain) == residual + wider
    assert decoder(torch.randn(2, 64)).shape == (2, 3, 64, 64)


def test_a_pointwise_encoder_has_no_scale_and_half_the_outputs():
    for build in (networks.infogan, networks.resnet, networks.mlp):
        encoder, _ = build((1, 8, 8), 6, stochastic=False)
        loc, scale = encoder(torch.rand(5, 1, 8, 8))
        assert loc.shape == (5, 6)
        assert scale is None
        assert encoder.output.out_features == 6


def test_initialisation_of_resnet():
    encoder, decoder = networks.resnet((3, 64, 64), 64)
    for fan_in, fan_out, weight in (
        (512, 64, encoder.output.weight[:64]),
        (512, 64, encoder.output.weight[64:]),
        (64, 4096, decoder[0].weight),
        (27, 288, encoder.trunk[0].weight),
    ):
        bound = (6 / (fan_in + fan_out)) ** 0.5
        assert 0.95 * bound < weight.abs().max() <= bound
    linear = [m for m in [*encoder.modules(), *decoder.modules()] if isinstance(m, (nn.Linear, nn.Conv2d))]
    assert not any(m.bias.any() for m in linear)


NETWORKS = {
    "infogan 28": (lambda: networks.infogan((1, 28, 28), 6, channels=(4, 8), hidden=16), (1, 28, 28)),
    "infogan 32 RGB": (lambda: networks.infogan((3, 32, 32), 6, channels=(4, 8), hidden=16), (3, 32, 32)),
    "infogan 64 RGB": (lambda: networks.infogan((3, 64, 64), 6, channels=(4, 8), hidden=16), (3, 64, 64)),
    "infogan 8, spectral norm": (
        lambda: networks.infogan((1, 8, 8), 6, channels=(4, 8), hidden=16, encoder_spectral_norm=True),
        (1, 8, 8),
    ),
    "resnet 64 RGB": (lambda: networks.resnet((3, 64, 64), 6, base=4, hidden=16), (3, 64, 64)),
    "resnet 16, as described": (
        lambda: networks.resnet((3, 16, 16), 6, base=4, hidden=16, blocks_per_scale=2, pool="flatten"),
        (3, 16, 16),
    ),
    "resnet 8": (lambda: networks.resnet((1, 8, 8), 6, base=4, hidden=16), (1, 8, 8)),
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


@pytest.mark.parametrize("name", [name for name in NETWORKS if "64" not in name])
def test_two_images_can_be_learned_by_heart(name):
    build, shape = NETWORKS[name]
    encoder, decoder = build()
    x = torch.zeros(16, *shape)  # two images, eight times each: batch normalization needs a batch
    x[::2, :, : shape[1] // 2] = 1.0
    rate, steps = (2e-3, 100) if name.startswith("resnet") else (1e-2, 200)
    adam = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=rate)
    for _ in range(steps):
        adam.zero_grad()
        loss = (decoder(encoder(x)[0]) - x).square().mean()
        loss.backward()
        adam.step()
        if loss.item() < 0.02:
            break
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
        (lambda: networks.resnet((3, 28, 28), 4), "power of two of at least 8, got 28x28"),
        (lambda: networks.resnet((3, 4, 4), 4), "power of two of at least 8, got 4x4"),
        (lambda: networks.resnet((3, 64, 64), 4, pool="max"), "pool to be average or flatten, got 'max'"),
        (lambda: networks.resnet((3, 64, 64), 4, base=0), "of at least 1"),
        (lambda: networks.mlp((1, 8, 8), 0, stochastic=False), "latent_dim of at least 1, got 0"),
        (lambda: networks.mlp((1, 8, 8), 0), "latent_dim of at least 1, got 0"),
    ],
)
def test_what_a_network_cannot_take_is_said(build, message):
    with pytest.raises(ValueError, match=message):
        build()
