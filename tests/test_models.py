import pyro
import pyro.distributions as dist
import pytest
import torch
from builders import small_autoencoder
from pyro import poutine
from pyro.infer import Predictive
from torch import nn

from pyro_lrp import likelihoods, models, networks, priors
from pyro_lrp.core.errors import UserError
from pyro_lrp.data import Batch


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


class Network(nn.Module):
    """An encoder or a decoder that is a function."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def flat(x):
    return x.flatten(1)[:, :4]


PAIR = r"\(Network\) must return a pair \(loc, scale\), each of shape \(6, 4\).* it returned "
WRONG_FORMS = {
    "a tensor": (flat, PAIR + r"one value, \(6, 4\)"),
    "a tensor of two rows": (lambda x: flat(x)[:2], PAIR + r"one value, \(2, 4\)"),
    "three values": (lambda x: (flat(x), flat(x), None), PAIR + "3 values"),
    "a distribution": (lambda x: dist.Normal(flat(x), 1.0), PAIR + "one value, Normal"),
    "means of another length": (lambda x: (flat(x)[:, :3], flat(x)[:, :3]), PAIR + r"a pair of \(6, 3\)"),
    "maps": (lambda x: (x, x), PAIR + r"a pair of \(6, 1, 8, 8\) and"),
    "scales of another length": (
        lambda x: (flat(x), flat(x)[:, :3]),
        PAIR + r"a pair of \(6, 4\) and \(6, 3\)",
    ),
    "a number for the scale": (lambda x: (flat(x), 0.1), PAIR + r"a pair of \(6, 4\) and float"),
}
WRONG_VALUES = {
    "a negative scale": (lambda x: (flat(x), flat(x) - 1.5), r"a scale of -1\.\d+ .* 1e-6 \+ softplus"),
    "a scale of 0": (lambda x: (flat(x), 0 * flat(x)), "a scale of 0 for .* or None for a deterministic"),
    "a scale that is NaN": (lambda x: (flat(x), flat(x) / 0 * 0), "a scale that is not finite"),
    "means that are infinite": (lambda x: (1 / (0 * flat(x)), flat(x) + 1), "a loc that is not finite"),
}


def of_encoder(function, prior=None):
    base = small_autoencoder()
    return models.Autoencoder(Network(function), base.decoder, prior or base.prior, base.likelihood)


@pytest.mark.parametrize("mistake", WRONG_FORMS)
def test_what_an_encoder_must_return_is_said_whenever_it_is_called(mistake):
    function, sentence = WRONG_FORMS[mistake]
    ae = of_encoder(function)
    for call in (ae.encode, ae.guide, ae.initialize):
        with pytest.raises(UserError, match=sentence):
            call(torch.rand(6, 1, 8, 8))
    if mistake != "a number for the scale":
        with pytest.raises(UserError, match=r"\(Network\) must return a pair"):
            of_encoder(function, priors.VampPrior(4, (1, 8, 8), 3))


@pytest.mark.parametrize("mistake", WRONG_VALUES)
def test_scales_that_are_none_are_said_before_training(mistake):
    function, sentence = WRONG_VALUES[mistake]
    with pytest.raises(UserError, match=rf"the encoder \(Network\) returned {sentence}"):
        of_encoder(function).initialize(torch.rand(6, 1, 8, 8))


@pytest.mark.parametrize("scale", [lambda x: torch.tensor(0.1), lambda x: flat(x)[:1] + 1, lambda x: None])
def test_a_scale_may_broadcast_or_be_left_out(scale):
    ae = of_encoder(lambda x: (flat(x), scale(x)))
    ae.initialize(torch.rand(6, 1, 8, 8))
    assert ae.codes(Batch(torch.rand(6, 1, 8, 8))).scale.shape == (6, 4)


@pytest.mark.parametrize(
    ("function", "likelihood", "sentence"),
    [
        (
            lambda z: z,
            likelihoods.Gaussian(),
            r"\(Network\) must return images of shape \(1, 8, 8\), got \(4,\)",
        ),
        (
            lambda z: torch.nan * z.repeat(1, 16).reshape(-1, 1, 8, 8),
            likelihoods.Gaussian(),
            "is not finite: likel",
        ),
        (lambda z: z[:, :1, None, None].expand(-1, 1, 1, 8), likelihoods.Gaussian(), r"got \(1, 1, 8\)"),
        (
            lambda z: 3 + 0 * z.repeat(1, 16).reshape(-1, 1, 8, 8),
            likelihoods.Bernoulli(),
            "between 3 and 3: end it with a sigmoid",
        ),
    ],
)
def test_what_a_decoder_must_return_is_said(function, likelihood, sentence):
    """Images of another shape would broadcast, or end in the middle of a step."""
    base = small_autoencoder()
    ae = models.Autoencoder(base.encoder, Network(function), base.prior, likelihood)
    with pytest.raises(UserError, match=sentence):
        ae.initialize(torch.rand(6, 1, 8, 8))
    if "got" in sentence:
        with pytest.raises(UserError, match=sentence):
            ae.model(torch.rand(6, 1, 8, 8))


def test_one_context_serves_all_samples_and_others_one_each():
    ae = small_autoencoder(prior=priors.conditional_paper_flow(4, 3, 2, 8))
    eye = torch.eye(3)
    for context in (eye[0], eye[:1], eye[:1].expand(5, -1)):
        torch.manual_seed(0)
        images = ae.sample(5, context=context)
        assert images.shape == (5, 1, 8, 8)
        assert len(images.unique(dim=0)) == 5
    for rows in (0, 3, 6):
        with pytest.raises(ValueError, match=f"a context for each of 5 samples, got {rows}"):
            ae.sample(5, context=eye[:1].expand(rows, -1))
    assert ae.sample(0, context=eye[0]).shape == (0, 1, 8, 8)
    with pytest.raises(ValueError, match="at least 0, got -1"):
        ae.sample(-1, context=eye[0])


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
