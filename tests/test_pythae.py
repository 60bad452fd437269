"""A learned prior as a sampler of pythae, with its own models, pipeline and files."""

import importlib
import json
import sys

import numpy as np
import pytest
import torch

pytest.importorskip("pythae", reason="pythae is an extra: pip install 'pyro_lrp[pythae]'")

from pythae import models  # noqa: E402
from pythae.pipelines import GenerationPipeline  # noqa: E402

from pyro_lrp.adapters.pythae import LearnedPriorSampler, LearnedPriorSamplerConfig  # noqa: E402

NORMAL = LearnedPriorSamplerConfig(prior=["prior=mixture", "prior.components=1"], seconds=5)


def built(name="VAE"):
    torch.manual_seed(0)
    config = getattr(models, f"{name}Config")(input_dim=(1, 4, 4), latent_dim=2)
    return getattr(models, name)(config)


@pytest.fixture(scope="module")
def images():
    return torch.rand(201, 1, 4, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "name", ["AE", "VAE", "VAMP", "RHVAE", "IWAE", "VAEGAN", "FactorVAE", "DisentangledBetaVAE"]
)
def test_samples_of_any_model(name, images):
    sampler = LearnedPriorSampler(built(name), NORMAL)
    sampler.fit(images)
    found = sampler.sample(5, batch_size=2)
    assert found.shape == (5, 1, 4, 4)
    assert torch.isfinite(found).all()
    assert not found.requires_grad


def test_the_prior_is_that_of_the_codes(images):
    model = built("AE").eval()
    sampler = LearnedPriorSampler(model, NORMAL)
    sampler.fit(images)
    codes = model.embed(images).detach()
    drawn = sampler.fitted.sample(5000)
    torch.testing.assert_close(drawn.mean(0), codes.mean(0), rtol=0, atol=0.2 * codes.std().item())
    torch.testing.assert_close(drawn.std(0), codes.std(0), rtol=0.2, atol=0)


def test_batches_are_one_draw(images):
    sampler = LearnedPriorSampler(built(), NORMAL)
    sampler.fit(images)
    torch.manual_seed(0)
    expected = sampler.sample(5)
    torch.manual_seed(0)
    torch.testing.assert_close(sampler.sample(5, batch_size=2), expected)


def test_pythaes_pipeline_runs(images, tmp_path):
    model = built()
    pipeline = GenerationPipeline(model)
    pipeline.sampler = LearnedPriorSampler(model, NORMAL)
    found = pipeline(
        num_samples=3,
        train_data=images.numpy().astype(np.float64),
        eval_data=images[:30],
        output_dir=str(tmp_path / "out"),
        return_gen=False,
        save_sampler_config=True,
    )
    assert found is None
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["00000000.png", "00000001.png", "00000002.png", "sampler_config.json"]
    saved = json.loads((tmp_path / "out" / "sampler_config.json").read_text())
    again = LearnedPriorSamplerConfig.from_dict({key: saved[key] for key in ("prior", "seconds", "seed")})
    assert again == NORMAL


def test_mistakes_are_sentences(images):
    sampler = LearnedPriorSampler(built())
    with pytest.raises(ValueError, match="call fit"):
        sampler.sample(2)
    with pytest.raises(ValueError, match="codes: expected 40 at least, got 7"):
        sampler.fit(images[:7])
    assert not sampler.is_fitted


def test_without_the_package_its_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pythae", None)
    monkeypatch.delitem(sys.modules, "pyro_lrp.adapters.pythae")
    with pytest.raises(ImportError, match=r"needs a package: pip install 'pyro_lrp\[pythae\]'"):
        importlib.import_module("pyro_lrp.adapters.pythae")
