"""A prior for the autoencoders of diffusers: real classes, small, with random weights."""

import importlib
import sys

import pytest
import torch
from torch import nn

import pyro_lrp.fitting

diffusers = pytest.importorskip("diffusers", reason="diffusers is an extra: pip install 'pyro_lrp[diffusers]'")

from pyro_lrp.adapters.diffusers import LatentPrior, decode, encode  # noqa: E402

MIXTURE = ["prior=mixture", "prior.components=2", "prior.covariance=diag"]


def kl(**config):
    return diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(4, 4),
        norm_num_groups=2,
        mid_block_add_attention=False,
        latent_channels=4,
        **config,
    )


def tiny(**config):
    return diffusers.AutoencoderTiny(
        encoder_block_out_channels=(4, 4),
        decoder_block_out_channels=(4, 4),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
        **config,
    )


def dc(**config):
    return diffusers.AutoencoderDC(
        latent_channels=4,
        encoder_block_out_channels=(4, 8),
        decoder_block_out_channels=(4, 8),
        encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1),
        encoder_qkv_multiscales=((), ()),
        decoder_qkv_multiscales=((), ()),
        **config,
    )


CASES = {
    "KL": lambda: kl(scaling_factor=0.18215),
    "KL with a shift": lambda: kl(scaling_factor=1.5305, shift_factor=0.0609),
    "KL with channels": lambda: kl(
        scaling_factor=0.5, latents_mean=(0.1, 0.2, 0.3, 0.4), latents_std=(1.0, 2.0, 3.0, 4.0)
    ),
    "Tiny": lambda: tiny(scaling_factor=0.7, shift_factor=0.2),
    "DC": lambda: dc(scaling_factor=0.41407),
}


def raw_latents(vae, images):
    """What the autoencoder itself makes of images in [-1, 1]."""
    output = vae.encode(images * 2 - 1)
    if "latent_dist" in output:
        return output.latent_dist.sample()
    return output.get("latents", output.get("latent"))


@pytest.fixture
def images():
    return torch.rand(5, 3, 16, 16)


@pytest.fixture(params=CASES)
def vae(request):
    torch.manual_seed(0)
    return CASES[request.param]()


@torch.no_grad()
def test_a_round_trip_is_the_autoencoders_own(vae, images):
    vae.eval()
    torch.manual_seed(1)
    expected = vae.decode(raw_latents(vae, images)).sample / 2 + 0.5
    torch.manual_seed(1)
    found = decode(vae, encode(vae, images), batch_size=2)
    torch.testing.assert_close(found, expected.clamp(0, 1), rtol=1e-4, atol=1e-5)
    assert found.std() > 0.01


@torch.no_grad()
def test_latents_are_scaled_as_the_configuration_says(vae, images):
    vae.eval()
    torch.manual_seed(1)
    raw = raw_latents(vae, images)
    torch.manual_seed(1)
    found = encode(vae, images)
    config = vae.config
    mean = torch.tensor(config.get("latents_mean") or [config.get("shift_factor") or 0.0]).view(-1, 1, 1)
    std = torch.tensor(config.get("latents_std") or [1.0]).view(-1, 1, 1)
    torch.testing.assert_close(found, (raw - mean) / std * config.scaling_factor)


def test_latents_of_kl_are_drawn(images):
    vae = kl()
    assert not torch.equal(encode(vae, images), encode(vae, images))


def test_batches_give_what_all_at_once_give(images):
    vae = tiny()
    expected = encode(vae, images)
    torch.testing.assert_close(encode(vae, images, batch_size=2), expected)
    torch.testing.assert_close(encode(vae, (batch for batch in images.split(3))), expected)


@pytest.fixture(scope="module")
def fitted():
    """A prior of latents 4x32x32, with what it was fitted to."""
    torch.manual_seed(0)
    vae = kl(scaling_factor=2.0).train()
    latents = encode(vae, torch.rand(60, 3, 64, 64))
    return LatentPrior.fit(vae, latents, prior=MIXTURE, seconds=5), latents


def test_fit_sample_and_score(fitted):
    prior, latents = fitted
    assert latents.shape == (60, 4, 32, 32)
    samples = prior.sample_latents(3)
    assert samples.shape == (3, 4, 32, 32)
    images = prior(3, batch_size=2)
    assert images.shape == (3, 3, 64, 64)
    assert images.min() >= 0
    assert images.max() <= 1
    scores = prior.log_prob(latents)
    assert scores.shape == (60,)
    assert scores.min() > prior.log_prob(latents * 3).max()


def test_latents_of_the_prior_have_the_statistics_of_those_of_images(fitted):
    prior, latents = fitted
    samples = prior.sample_latents(500)
    torch.testing.assert_close(samples.mean(), latents.mean(), rtol=0, atol=0.05)
    torch.testing.assert_close(samples.std(), latents.std(), rtol=0.1, atol=0)


def test_images_are_clamped(images):
    vae = kl()
    nn.init.constant_(vae.decoder.conv_out.bias, 5.0)
    assert decode(vae, encode(vae, images)).max() == 1


def test_parts_compute_in_eval_mode(images):
    vae = kl().train()
    modes = []
    for part in (vae.encoder, vae.decoder):
        part.register_forward_hook(lambda module, *_: modes.append(module.training))
    decode(vae, encode(vae, images))
    assert modes == [False, False]


def test_modes_and_gradients_stay_as_they_were(fitted):
    prior, latents = fitted
    assert prior.vae.training
    assert all(parameter.requires_grad for parameter in prior.vae.parameters())
    assert not latents.requires_grad
    assert not prior(1).requires_grad


def test_the_prior_comes_back_from_its_file(fitted, tmp_path):
    prior, latents = fitted
    prior.fitted.save(tmp_path)
    again = LatentPrior(prior.vae, pyro_lrp.fitting.load(tmp_path))
    torch.testing.assert_close(again.log_prob(latents), prior.log_prob(latents))


def test_labels_are_contexts():
    latents = torch.randn(80, 4, 2, 2)
    prior = LatentPrior.fit(kl(), latents, context=torch.arange(80) % 2, prior="conditional_flow", seconds=0.2)
    assert prior(2, context=[1.0, 0.0]).shape == (2, 3, 4, 4)


def test_the_dtype_is_the_autoencoders(fitted):
    prior, _ = fitted
    vae = kl().to(torch.bfloat16)
    assert encode(vae, torch.rand(1, 3, 16, 16)).dtype == torch.bfloat16
    assert decode(vae, torch.randn(1, 4, 8, 8)).dtype == torch.bfloat16
    assert LatentPrior(vae, prior.fitted)(1).dtype == torch.bfloat16


NOISE = torch.randn(2, 3, 16, 16)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: encode(nn.Flatten(), NOISE), "vae: expected AutoencoderKL, .* of diffusers, got Flatten"),
        (lambda: encode(kl(), NOISE), r"images: expected values in \[0, 1\], got -"),
        (lambda: encode(kl(), NOISE * torch.nan), r"images: expected values in \[0, 1\], got nan to nan"),
        (lambda: encode(kl(), NOISE.byte()), "images: expected a tensor of floats, got torch.uint8"),
        (lambda: encode(kl(), [(NOISE, 1)]), "images: expected a tensor of floats, got tuple"),
        (lambda: encode(kl(), NOISE[:, :1]), r"images: expected \(N, 3, height, width\), got \(2, 1, 16, 16\)"),
        (lambda: encode(kl(), NOISE[:0]), r"images: expected \(N, 3, height, width\), got \(0, 3, 16, 16\)"),
        (lambda: encode(kl(), []), "images: expected one batch at least, got none"),
        (lambda: decode(kl(), NOISE), r"latents: expected \(N, 4, height, width\), got \(2, 3, 16, 16\)"),
        (lambda: LatentPrior.fit(kl(), NOISE), r"latents: expected \(N, 4, height, width\)"),
        (lambda: LatentPrior.fit(kl(), torch.randn(9, 4, 8, 8)), "codes: expected 40 at least, got 9"),
    ],
)
def test_mistakes_are_sentences(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_latents_of_another_size_have_no_score(fitted):
    prior, latents = fitted
    with pytest.raises(ValueError, match=r"expected codes of shape \(4, 32, 32\), got \(4, 16, 16\)"):
        prior.log_prob(latents[:, :, :16, :16])


def test_without_the_package_its_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    monkeypatch.delitem(sys.modules, "pyro_lrp.adapters.diffusers")
    with pytest.raises(ImportError, match=r"needs a package: pip install 'pyro_lrp\[diffusers\]'"):
        importlib.import_module("pyro_lrp.adapters.diffusers")
