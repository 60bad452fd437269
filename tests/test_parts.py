"""Autoencoders from parts that were written and trained elsewhere: their conventions, and what may go wrong."""

import copy
import functools
import pickle
import warnings
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from builders import small_autoencoder
from torch import nn
from torch.nn import functional as F

import pyro_lrp
from pyro_lrp import data, figures, likelihoods, metrics, models, networks, objectives, priors, trainer
from pyro_lrp.core.errors import UserError
from pyro_lrp.latents import views

IMAGE = (1, 8, 8)


def pair(mean, scale):
    return mean, scale


def identity(images):
    return images


class Model(nn.Module):
    """A convolutional model with batch normalization, whose codes are maps (2, 4, 4).

    Args:
        form: Maps mean and standard deviation to what ``encode`` returns.
        image_form: Maps mean images to what ``decode`` returns.
    """

    def __init__(self, form=pair, image_form=identity):
        super().__init__()
        self.form = form
        self.image_form = image_form
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3, 2, 1), nn.BatchNorm2d(4))
        self.head = nn.Sequential(nn.ConvTranspose2d(2, 1, 4, 2, 1), nn.BatchNorm2d(1), nn.Sigmoid())

    def moments(self, x):
        mean, raw = self.body(x).chunk(2, 1)
        return mean, 0.1 + F.softplus(raw)

    def images(self, z):
        return self.head(z)

    def encode(self, x):
        return self.form(*self.moments(x))

    def decode(self, z):
        return self.image_form(self.images(z))


class Vectors(Model):
    """The same with codes that are vectors (32,)."""

    def moments(self, x):
        return tuple(part.flatten(1) for part in super().moments(x))

    def images(self, z):
        return super().images(z.reshape(-1, 2, 4, 4))


def normal(mean, scale):
    return torch.distributions.Normal(mean, scale)


def log_variance(mean, scale):
    return mean, 2 * scale.log()


FORMS = {  # what an encoder returns, and the options that say so
    "a pair": (pair, {}),
    "a list": (lambda mean, scale: [mean, scale], {}),
    "a pair of one scale": (lambda mean, scale: (mean, torch.tensor(0.5)), {}),
    "log variance": (log_variance, {"log_variance": True}),
    "a code": (lambda mean, scale: mean, {}),
    "a code without scale": (lambda mean, scale: (mean, None), {}),
    "a code in a tuple": (lambda mean, scale: (mean,), {}),
    "a normal": (normal, {}),
    "a normal of Pyro": (lambda mean, scale: dist.Normal(mean, scale).to_event(1), {}),
    "an independent normal": (
        lambda mean, scale: torch.distributions.Independent(normal(mean, scale), 1),
        {},
    ),
    "a point": (lambda mean, scale: dist.Delta(mean).to_event(1), {}),
    "an output of diffusers": (
        lambda mean, scale: SimpleNamespace(latent_dist=SimpleNamespace(mean=mean, std=scale)),
        {},
    ),
    "an output with a normal": (lambda mean, scale: SimpleNamespace(latent_dist=normal(mean, scale)), {}),
    "an output with codes": (lambda mean, scale: SimpleNamespace(latents=mean), {}),
    "an output with a code": (lambda mean, scale: SimpleNamespace(latent=mean), {}),
}
POINTS = (
    "a code", "a code without scale", "a code in a tuple", "a point", "an output with codes",
    "an output with a code",
)  # fmt: skip
IMAGE_FORMS = {
    "images": identity,
    "an output": lambda images: SimpleNamespace(sample=images),
    "a tuple": lambda images: (images,),
    "a distribution": lambda images: dist.Bernoulli(probs=images).to_event(3),
}


class Half(nn.Module):
    """A method of a model as a module of its own."""

    def __init__(self, model, method):
        super().__init__()
        self.model = model
        self.method = method

    def forward(self, value):
        return getattr(self.model, self.method)(value)


def by_function(model):
    model.eval().requires_grad_(False)
    return lambda x: model.encode(x), lambda z: model.decode(z)


WAYS = {  # how the parts are given
    "methods": lambda model: (model.encode, model.decode),
    "two modules": lambda model: (Half(model, "encode"), Half(copy.deepcopy(model), "decode")),
    "a module and a method": lambda model: (Half(model, "encode"), model.decode),
    "partial functions": lambda model: (functools.partial(model.encode), functools.partial(model.decode)),
    "functions": by_function,
}


def model_of(kind=Model, *forms):
    """A model whose batch normalizations have seen images."""
    model = kind(*forms)
    for _ in range(3):
        model.head(model.body(torch.rand(16, *IMAGE))[:, :2])
    return model


def whole(model, way="methods", prior=None, **options):
    encoder, decoder = WAYS[way](model)
    options.setdefault("image_shape", IMAGE)
    return models.from_parts(encoder, decoder, prior or priors.Mixture(32, 3), **options)


def state_of(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# --------------------------------------------------------------------- conventions


@pytest.mark.parametrize("kind", [Model, Vectors])
@pytest.mark.parametrize("form", FORMS)
def test_codes_are_those_of_the_encoder(form, kind):
    function, options = FORMS[form]
    model = model_of(kind, function)
    ae = whole(model, **options)
    x = torch.rand(5, *IMAGE)
    model.eval()
    mean, scale = model.moments(x)
    q = ae.encode(x)
    assert torch.equal(q.mean, mean.flatten(1))
    if form in POINTS:
        assert isinstance(q, dist.Delta)
        assert not ae.encoder.learns_noise
    elif form == "a pair of one scale":
        assert torch.equal(q.stddev, torch.full((5, 32), 0.5))
    else:
        torch.testing.assert_close(q.stddev, scale.flatten(1), rtol=1e-6, atol=0)


@pytest.mark.parametrize("kind", [Model, Vectors])
@pytest.mark.parametrize("form", IMAGE_FORMS)
def test_images_are_those_of_the_decoder(form, kind):
    model = model_of(kind, pair, IMAGE_FORMS[form])
    ae = whole(model)
    model.eval()
    z = torch.randn(6, 32)
    maps = z if kind is Vectors else z.reshape(6, 2, 4, 4)
    assert torch.equal(ae.decode(z), model.images(maps))
    assert ae.decode(z.reshape(2, 3, 32)).shape == (2, 3, *IMAGE)


def test_images_of_another_range_are_brought_to_it_and_back():
    def images(z):
        return 2 * Model.images(model, z) - 1

    model = model_of()
    model.images = images
    ae = whole(model, image_range=(-1, 1))
    model.eval()
    x = torch.rand(4, *IMAGE)
    z = model.moments(2 * x - 1)[0]
    torch.testing.assert_close(ae.encode(x).mean, z.flatten(1))
    torch.testing.assert_close(ae.decode(z.flatten(1)), Model.images(model, z))


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float64])
def test_parts_compute_in_their_own_precision(precision):
    model = model_of().to(precision)
    ae = whole(model)
    x = torch.rand(4, *IMAGE)
    assert ae.encode(x).mean.dtype == ae.decode(torch.randn(4, 32)).dtype == torch.float32
    mean = model.eval().moments(x.to(precision))[0]
    assert torch.equal(ae.encode(x).mean, mean.flatten(1).float())


@pytest.mark.parametrize("way", WAYS)
def test_parts_are_frozen_and_gradients_pass_through(way):
    model = model_of()
    ae = whole(model, way)
    before = state_of(ae)
    ae.train()
    learning = {name for name, p in ae.named_parameters() if p.requires_grad}
    assert {name.partition(".")[0] for name in learning} == {"prior", "likelihood"}
    assert not any(part.training for part in (*ae.encoder.modules(), *ae.decoder.modules()))
    x = torch.rand(4, *IMAGE, requires_grad=True)
    ae.decode(ae.encode(x).rsample()).sum().backward()
    assert x.grad.abs().sum() > 0
    assert all(p.grad is None for p in model.parameters())
    assert same(state_of(ae), before)  # statistics of batch normalizations too


def test_parts_that_are_not_frozen_stay_as_they_are():
    model = model_of()
    model.body.requires_grad_(False)
    ae = whole(model, frozen=False)
    assert not any(p.requires_grad for p in model.body.parameters())
    assert all(p.requires_grad for p in model.head.parameters())
    assert model.head.training
    assert not ae.eval().encoder.owner.head.training


@pytest.mark.parametrize("way", ["methods", "two modules", "a module and a method", "partial functions"])
def test_the_state_has_the_names_of_the_modules(way):
    model = model_of()
    encoder, decoder = WAYS[way](model)
    ae = models.from_parts(encoder, decoder, priors.Mixture(32, 3), image_shape=IMAGE)
    expected = {f"encoder.{name}" for name in ae.encoder.owner.state_dict()}
    if way == "two modules":  # else the decoder's module is one of the encoder's
        expected |= {f"decoder.{name}" for name in ae.decoder.owner.state_dict()}
    parts = {name for name in ae.state_dict() if name.startswith(("encoder.", "decoder."))}
    assert parts == expected
    if way == "methods":
        assert ae.encoder.owner is ae.decoder.owner is model
    fresh = whole(model_of(), way)
    assert not torch.equal(fresh.decode(torch.ones(1, 32)), ae.decode(torch.ones(1, 32)))
    fresh.load_state_dict(ae.state_dict())
    assert torch.equal(fresh.decode(torch.ones(1, 32)), ae.decode(torch.ones(1, 32)))


@pytest.mark.parametrize("way", ["methods", "two modules", "partial functions"])
def test_copies_are_whole(way):
    ae = whole(model_of(Model, normal), way)
    x = torch.rand(3, *IMAGE)
    for other in (copy.deepcopy(ae), pickle.loads(pickle.dumps(ae))):
        assert torch.equal(other.encode(x).mean, ae.encode(x).mean)
        assert not {*map(id, other.parameters())} & {*map(id, ae.parameters())}
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.zero_()
        assert other.encode(x).mean.abs().sum() == 0 < ae.encode(x).mean.abs().sum()
    twice = copy.deepcopy(ae).double()
    torch.testing.assert_close(twice.encode(x.double()).mean.float(), ae.encode(x).mean)
    assert twice.sample(2).dtype == torch.float64


def test_an_autoencoder_of_the_library_is_made_of_parts_too():
    base = small_autoencoder()
    ae = models.from_parts(base.encode, base.decode, priors.paper_flow(4, 2, 8), image_shape=IMAGE)
    x = torch.rand(3, *IMAGE)
    assert torch.equal(ae.encode(x).stddev, base.encode(x).stddev)
    pair = models.from_parts(base.encoder, base.decoder, base.prior, image_shape=IMAGE)
    assert torch.equal(pair.decode(torch.ones(2, 4)), base.decode(torch.ones(2, 4)))
    assert pair.prior is base.prior


def test_a_prior_may_use_the_encoder():
    ae = whole(model_of(), prior=priors.VampPrior(32, IMAGE, 4))
    assert ae.sample(3).shape == (3, *IMAGE)
    assert pickle.loads(pickle.dumps(ae)).sample(2).shape == (2, *IMAGE)
    with pytest.raises(ValueError, match="this one is deterministic"):
        whole(model_of(Model, FORMS["a code"][0]), prior=priors.VampPrior(32, IMAGE, 4))


# --------------------------------------------------------------------- mistakes


def encoder_of(form):
    return Half(Model(form), "encode")


GOOD = Model()
FLAT = {"encoder": nn.Linear(64, 32), "decoder": nn.Linear(32, 64)}
MISTAKES = {
    "no images": ({"image_shape": None}, "needs images, a batch in .* or else image_shape"),
    "images twice": ({"images": torch.rand(2, *IMAGE)}, "needs images, a batch in .* or else image_shape"),
    "one image": (
        {"images": torch.rand(IMAGE), "image_shape": None},
        r"a tensor of shape \(B, C, H, W\), got \(1, 8, 8\)",
    ),
    "an array": (
        {"images": np.ones((2, 1, 8, 8)), "image_shape": None},
        r"a tensor of shape \(B, C, H, W\), got a ndarray",
    ),
    "bytes": (
        {"images": torch.full((2, *IMAGE), 255, dtype=torch.uint8), "image_shape": None},
        "lie between 255 and 255",
    ),
    "images of another range": (
        {"images": 2 * torch.rand(2, *IMAGE) - 1, "image_shape": None},
        r"images must be in \[0, 1\] and lie between -\S+ and \S+: scale them, .* image_range",
    ),
    "a shape of two": ({"image_shape": (8, 8)}, r"image_shape of \(channels, height, width\), got \(8, 8\)"),
    "a range upside down": ({"image_range": (1, 0)}, r"black below white, got \(1, 0\)"),
    "a number for the encoder": ({"encoder": 3}, "encoder must be a module or a function, got a int"),
    "parameters for the prior": (
        {"prior": nn.Linear(1, 1)},
        "must be a prior of pyro_lrp.priors, got a Linear",
    ),
    "images of another shape": (
        {"image_shape": (3, 8, 8)},
        r"the encoder \(Model.encode\) cannot be called with images of shape \(3, 3, 8, 8\) \(.*channels.*\)",
    ),
    "vectors for images": (FLAT, r"the encoder \(Linear\) cannot be called .* are image_shape and flat_images"),
    "the whole model": (
        {"encoder": encoder_of(lambda m, s: (m, m, s))},
        r"\(Half\) must return a code, a pair .* it returned 3 values \(Tensor, Tensor, Tensor\)",
    ),
    "another distribution": (
        {"encoder": encoder_of(torch.distributions.LogNormal)},
        r"must return .* a normal distribution.* it returned a LogNormal",
    ),
    "words": ({"encoder": encoder_of(lambda m, s: {"mean": m})}, "must return .* it returned a dict"),
    "one code for all": (
        {"encoder": encoder_of(lambda m, s: m.sum(0))},
        r"must return a code for each image, and returned \(2, 4, 4\) for 3 images",
    ),
    "scales of another shape": (
        {"encoder": encoder_of(lambda m, s: (m, s[:, :, :3]))},
        r"of different shapes, \(3, 2, 4, 4\) and \(3, 2, 3, 4\)",
    ),
    "log variances for scales": (
        {"encoder": encoder_of(lambda m, s: (m, -1 - s))},
        r"a standard deviation of -\S+, which .* above 0: log_variance=True is for pairs \(mean, log var",
    ),
    "scales for log variances": (
        {"encoder": encoder_of(lambda m, s: (m, 1000 * s)), "log_variance": True},
        "a standard deviation of .*: without log_variance=True a pair is",
    ),
    "log variance of a normal": (
        {"encoder": encoder_of(normal), "log_variance": True},
        r"log_variance=True is for pairs .* \(Half\) returned a Normal",
    ),
    "codes that are not finite": ({"encoder": encoder_of(lambda m, s: m / 0)}, "codes that are not finite"),
    "draws": (
        {"encoder": encoder_of(lambda m, s: m + torch.randn_like(m))},
        "two codes for one image: it must return the mean and the standard deviation, not a draw",
    ),
    "codes of another length": (
        {"prior": priors.StandardNormal(16)},
        r"codes of shape \(2, 4, 4\), 32 numbers as a vector, and the prior \(StandardNormal\) is of codes of "
        r"shape \(16,\): make it one of 32 dimensions",
    ),
    "a decoder of other codes": (
        {"decoder": nn.Linear(16, 64)},
        r"the decoder \(Linear\) cannot be called with codes of shape \(3, 2, 4, 4\) \(.*\)",
    ),
    "decoded vectors": (
        {"decoder": nn.Sequential(nn.Flatten(), nn.Linear(32, 64))},
        r"\(Sequential\) returned images of shape \(3, 64\) where \(3, 1, 8, 8\) were expected; flat_images",
    ),
    "decoded pairs": (
        {"decoder": Half(Model(image_form=lambda y: (y, y)), "decode")},
        r"must return images, or an object with sample; it returned 2 values \(Tensor, Tensor\)",
    ),
    "decoded images that are not finite": (
        {"decoder": Half(Model(image_form=lambda y: y / 0), "decode")},
        r"the decoder \(Half\) returned images that are not finite",
    ),
    "hidden parameters": (
        {"encoder": lambda x: GOOD.encode(x)},
        r"the encoder \(<lambda>\) hides its parameters: give the module or its method",
    ),
    "hidden parameters of the decoder": (
        {"decoder": lambda z: Model().decode(z)},
        r"the decoder \(<lambda>\) hides its parameters",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_told_in_a_sentence(mistake):
    changes, sentence = MISTAKES[mistake]
    arguments = {
        "encoder": GOOD.encode,
        "decoder": GOOD.decode,
        "prior": priors.StandardNormal(32),
        "image_shape": IMAGE,
    }
    with pytest.raises(ValueError, match=sentence) as caught:
        models.from_parts(**{**arguments, **changes})
    assert "\n" not in str(caught.value)
    assert all(p.requires_grad for p in GOOD.parameters())  # what is refused stays as it was
    assert GOOD.training


def test_a_range_that_was_forgotten_is_a_warning():
    model = model_of(Model, pair, lambda images: 0 * images - 1)
    with pytest.warns(UserWarning, match="pixels between -1 and -1, and images are in .*image_range"):
        whole(model, images=torch.rand(4, *IMAGE), image_shape=None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        whole(model)  # of images that were made up nothing follows


def test_images_of_another_data_set_are_refused():
    ae = whole(model_of())
    with pytest.raises(
        UserError, match=r"\(Model.encode\) is for images of shape \(1, 8, 8\), got \(1, 6, 6\)"
    ):
        ae.encode(torch.rand(2, 1, 6, 6))


# --------------------------------------------------------------------- everything of the library


class VAE(nn.Module):
    """What people write by hand, without this library: images are vectors, encode returns (mu, logvar)."""

    def __init__(self, latent_dim=8):
        super().__init__()
        self.enc = nn.Sequential(nn.Linear(64, 128), nn.ReLU())
        self.mu = nn.Linear(128, latent_dim)
        self.logvar = nn.Linear(128, latent_dim)
        self.dec = nn.Sequential(nn.Linear(latent_dim, 128), nn.ReLU(), nn.Linear(128, 64), nn.Sigmoid())

    def encode(self, x):
        h = self.enc(x.view(-1, 64))
        return self.mu(h), self.logvar(h)

    def decode(self, z):
        return self.dec(z)

    def forward(self, x):
        mu, logvar = self.encode(x)
        z = mu + torch.randn_like(mu) * (0.5 * logvar).exp()
        return self.decode(z), mu, logvar


@pytest.fixture(scope="module")
def vae():
    """A VAE that a plain loop has trained on the digits, with N(0, I) and a small weight of the KL."""
    torch.manual_seed(0)
    vae = VAE()
    optimizer = torch.optim.Adam(vae.parameters(), lr=3e-3)
    images = data.digits().train.images.float() / 255
    for _ in range(15):
        for x in images.reshape(-1, 64)[torch.randperm(len(images))].split(64):
            y, mu, logvar = vae(x)
            error = F.binary_cross_entropy(y, x, reduction="sum")
            kl = -0.5 * (1 + logvar - mu.square() - logvar.exp()).sum()
            optimizer.zero_grad()
            (error + 0.1 * kl).backward()
            optimizer.step()
    return vae


@pytest.fixture
def from_vae(vae):
    """Builds autoencoders from copies of the trained VAE."""

    def build(prior=None, **options):
        own = copy.deepcopy(vae)
        prior = prior or priors.Mixture(8, 20)
        form = {"flat_images": True, "log_variance": True, "image_shape": IMAGE}
        return models.from_parts(own.encode, own.decode, prior, **form, **options)

    return build


def trained(ae, *phases, game=objectives.LatentGame, loss=None, **options):
    loss = loss or objectives.BilevelELBO(beta=0.0)
    phases = [trainer.Phase(*phase) for phase in phases]
    options = {"lr": 1e-3, "device": "cpu", "progress": False, **options}
    return trainer.Trainer(game(ae, loss), data.digits(), phases=phases, **options)


def moved(before, ae):
    """The parts of an autoencoder whose tensors have changed."""
    after = ae.state_dict()
    return {name.partition(".")[0] for name in before if not torch.equal(before[name], after[name])}


@pytest.mark.parametrize(
    "prior",
    [
        lambda: priors.Mixture(8, 20),
        lambda: priors.paper_flow(8, 2, 16),
        lambda: priors.FlowMatching(8, width=16),
    ],
    ids=["mixture", "flow", "flow matching"],
)
def test_a_prior_only_phase_moves_the_prior_alone(from_vae, prior):
    ae = from_vae(prior())
    before = state_of(ae)
    trained(ae, ("prior_only", 1)).fit()
    assert moved(before, ae) == {"prior"}


def test_a_joint_phase_moves_prior_and_likelihood(from_vae):
    for likelihood, expected in ((None, {"prior", "likelihood"}), (likelihoods.Gaussian(), {"prior"})):
        ae = from_vae(priors.paper_flow(8, 2, 16), likelihood=likelihood)
        before = state_of(ae)
        trained(ae, ("joint", 1)).fit()
        assert moved(before, ae) == expected
    ae = from_vae(priors.paper_flow(8, 2, 16), frozen=False)
    before = state_of(ae)
    trained(ae, ("joint", 1)).fit()
    assert moved(before, ae) == {"encoder", "prior", "likelihood"}  # the module of both parts is in the encoder


@pytest.mark.parametrize("phase", ["joint", "autoencoder_only", "decoder_only"])
def test_phases_that_move_nothing_are_refused(from_vae, phase):
    ae = from_vae(priors.StandardNormal(8), likelihood=likelihoods.Gaussian())
    with pytest.raises(UserError, match="leave nothing to train"):
        trained(ae, (phase, 1))
    factor = functools.partial(
        objectives.TotalCorrelation, discriminator=networks.factor_discriminator(8, 1, 8)
    )
    with pytest.raises(UserError, match="leave nothing to train"):
        trained(ae, (phase, 1), game=factor)


def test_an_adversarial_prior_is_trained_alone(from_vae):
    ae = from_vae(priors.NeuralSampler(8, 1, 8), likelihood=likelihoods.Gaussian())
    before = state_of(ae)

    def game(ae, loss):
        return objectives.Adversarial(ae, networks.discriminator(8, 1, 8))

    with pytest.raises(UserError, match="phase joint: .* are fixed; train in prior_only"):
        trained(ae, ("joint", 1), game=game)
    trained(ae, ("prior_only", 1), game=game).fit()
    assert moved(before, ae) == {"prior"}


def test_checkpoints_are_loaded_and_training_resumes(from_vae, tmp_path):
    def build():
        torch.manual_seed(0)
        return from_vae(priors.paper_flow(8, 2, 16))

    ae = build()
    trained(ae, ("prior_only", 1), directory=tmp_path).fit()
    again = pyro_lrp.load(tmp_path, into=build())
    assert same(again.state_dict(), ae.state_dict())
    longer = build()
    rows = trained(longer, ("prior_only", 2), directory=tmp_path).fit()
    straight = build()
    trained(straight, ("prior_only", 2)).fit()
    assert rows[-1]["step"] == 28
    assert same(longer.state_dict(), straight.state_dict())


def test_the_learned_prior_is_better_than_the_one_it_was_trained_with(from_vae, monkeypatch, tmp_path):
    monkeypatch.setenv("PYRO_LRP_CACHE", str(tmp_path))
    ae = from_vae()
    trained(ae, ("prior_only", 5)).fit()
    digits = data.digits()
    few = replace(digits, train=digits.train[:400])  # the classifier of the distance trains in a second
    names = ["reconstruction_mse", "prior_gap", "fd_classifier"]
    plain = metrics.evaluate(from_vae(priors.StandardNormal(8)), few, names, n=300)
    learned = metrics.evaluate(ae, few, names, n=300)
    for name, share in {"fd_classifier": 0.8, "prior_gap_energy_distance": 0.4}.items():
        assert learned[name]["value"] < share * plain[name]["value"]
    mse = learned["reconstruction_mse"]["value"]
    assert mse == plain["reconstruction_mse"]["value"] < 0.04


def test_walks_and_pictures(from_vae, tmp_path):
    ae = from_vae(priors.paper_flow(8, 2, 16))
    images = data.digits().test.batch(slice(0, 4)).x
    assert ae.reconstruct(images).shape == images.shape
    spaces = [views.Space(ae, name) for name in views.SPACES]
    strip = views.interpolations(images[:2], images[2:], ["a", "b"], spaces, steps=5)
    assert strip.images.shape == (4, 7, *IMAGE)
    figures.save_picture(tmp_path / "samples.png", figures.grid(ae.sample(16)))
    figures.save_figure(figures.strips(strip.images, strip.rows), tmp_path / "walks.png")
    assert {path.name for path in tmp_path.iterdir()} >= {"samples.png", "walks.png"}
