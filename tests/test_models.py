import pyro
import pyro.distributions as dist
import pytest
import torch
from builders import small_autoencoder
from pyro import poutine
from pyro.infer import Predictive
from torch import nn

from pyro_lrp import likelihoods, models, networks, priors


def test_model_and_guide_have_the_sites_z_and_x():
    ae = small_autoencoder()
    x = torch.rand(5, 1, 8, 8)
    guide = poutine.trace(ae.guide).get_trace(x)
    model = poutine.trace(poutine.replay(ae.model, guide)).get_trace(x)
    assert [n for n, s in model.nodes.items() if s["type"] == "sample" and n != "batch"] == ["z", "x"]
    assert guide.nodes["z"]["value"].shape == (5, 4)
    assert model.nodes["x"]["is_observed"]
    assert isinstance(model.nodes["z"]["fn"], priors.FlowDistribution)


def test_the_model_generates_without_data():
    ae = small_autoencoder()
    assert ae.model().shape == (1, 1, 8, 8)
    samples = Predictive(ae.model, num_samples=3)()
    assert samples["x"].shape == (3, 1, 1, 8, 8)


def test_decode_accepts_any_batch_shape():
    ae = small_autoencoder().eval()
    z = torch.randn(3, 2, 4)
    assert ae.decode(z).shape == (3, 2, 1, 8, 8)
    torch.testing.assert_close(ae.decode(z)[1], ae.decode(z[1]))


def test_sample_uses_eval_mode_and_restores_the_mode():
    encoder, decoder = networks.infogan((1, 8, 8), 4, channels=(4, 8), hidden=16)
    ae = models.Autoencoder(encoder, decoder, priors.StandardNormal(4), likelihoods.Gaussian())
    before = {k: v.clone() for k, v in ae.state_dict().items()}
    assert ae.sample(6).shape == (6, 1, 8, 8)
    ae.reconstruct(torch.rand(2, 1, 8, 8))
    assert ae.training
    assert all(m.training for m in ae.modules())
    assert all(torch.equal(v, before[k]) for k, v in ae.state_dict().items())


def test_non_finite_samples_are_left_out_counted_and_reported():
    class Broken(priors.StandardNormal):
        def forward(self, context=None, *, temperature=1.0):
            draws = torch.zeros(10, 4)
            draws[2, 1], draws[5, 0] = float("inf"), float("nan")
            normal = self.base(context)
            normal.sample = lambda shape=(): draws
            return normal

    ae = small_autoencoder(prior=Broken(4))
    draw = ae.draw(10)
    assert draw.non_finite == 2
    assert len(draw.images) == len(draw.latents) == 8
    assert torch.isfinite(draw.images).all()
    with pytest.warns(UserWarning, match="2 of 10 samples were not finite"):
        assert len(ae.sample(10)) == 8


def test_a_deterministic_encoder_gives_a_delta():
    class Encoder(nn.Module):
        def forward(self, x):
            return x.flatten(1)[:, :4], None

    base = small_autoencoder()
    ae = models.Autoencoder(Encoder(), base.decoder, base.prior, base.likelihood)
    x = torch.rand(3, 1, 8, 8)
    q = ae.encode(x)
    assert isinstance(q, dist.Delta)
    assert torch.equal(q.sample(), x.flatten(1)[:, :4])


def test_importing_the_library_leaves_pyros_global_state_alone():
    small_autoencoder().model(torch.rand(2, 1, 8, 8))
    assert len(list(pyro.get_param_store().keys())) == 0


def test_images_are_a_leading_batch_of_anything():
    encoder, decoder = nn.Linear(3, 4), nn.Linear(2, 3)

    class Encoder(nn.Module):
        def forward(self, x):
            loc, raw = encoder(x).chunk(2, -1)
            return loc, raw.exp()

    ae = models.Autoencoder(Encoder(), decoder, priors.StandardNormal(2), likelihoods.Gaussian())
    trace = poutine.trace(ae.model).get_trace(torch.randn(5, 3))
    trace.compute_log_prob()
    assert trace.nodes["x"]["log_prob"].shape == (5,)
