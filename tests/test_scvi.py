"""Learned priors in scvi-tools: the gradient rule, real models, their files, and counts from prior samples."""

import importlib
import sys

import numpy as np
import pytest
import torch
from torch.distributions import Normal

from pyro_lrp import priors

pytest.importorskip("scvi", reason="scvi-tools is an extra: pip install 'pyro_lrp[scvi]'")

import scvi  # noqa: E402

from pyro_lrp.adapters.scvi import LearnedPrior, LearnedPriorSCVI, decode, encode  # noqa: E402

MIXTURE = ["prior=mixture", "prior.components=3"]
TRAIN = {"accelerator": "cpu", "enable_progress_bar": False, "logger": False, "train_size": 0.8}
pytestmark = pytest.mark.filterwarnings("ignore")  # of scvi-tools and lightning


@pytest.fixture(scope="module")
def cells():
    scvi.settings.seed = 0
    found = scvi.data.synthetic_iid(batch_size=60, n_genes=20)
    LearnedPriorSCVI.setup_anndata(found, batch_key="batch")
    scvi.model.SCVI.setup_anndata(found, batch_key="batch")
    return found


def built(cells, prior=MIXTURE, **options):
    scvi.settings.seed = 0
    return LearnedPriorSCVI(cells, n_latent=4, n_hidden=16, prior=prior, **options)


@pytest.fixture(scope="module")
def model(cells):
    model = built(cells)
    model.train(max_epochs=3, **TRAIN)
    return model


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_the_gradient_rule(beta):
    torch.manual_seed(0)
    own = priors.Mixture(4, 3)
    loc = torch.randn(7, 4, requires_grad=True)
    noise = torch.randn(7, 4)
    prior = LearnedPrior(own, beta=beta)

    def gradients(value):
        tensors = [loc, *own.parameters()]
        found = torch.autograd.grad(value, tensors, allow_unused=True)
        return [torch.zeros_like(t) if g is None else g for g, t in zip(found, tensors, strict=True)]

    qz = Normal(loc, 0.5)
    z = loc + 0.5 * noise
    kl = prior.kl(qz=qz, z=z)
    expected = qz.log_prob(z).sum(-1) - own().log_prob(z)
    torch.testing.assert_close(kl, expected)
    to_encoder, *to_prior = gradients(kl.sum())
    torch.testing.assert_close(to_encoder, beta * gradients(expected.sum())[0])
    torch.testing.assert_close(to_prior, gradients(-own().log_prob(z.detach()).sum())[1:])


def test_the_weight_of_the_kl_reaches_the_encoder_alone(cells):
    model = built(cells)
    (tensors,) = model._make_data_loader(adata=cells, batch_size=len(cells))
    module = model.module.eval()

    def gradients(weight, of="loss"):
        module.zero_grad()
        torch.manual_seed(0)
        _, _, losses = module(tensors, loss_kwargs={"kl_weight": torch.tensor(weight)})
        loss = losses.loss
        if of == "reconstruction":
            loss = losses.reconstruction_loss["reconstruction_loss"].mean()
        loss.backward()
        return {name: p.grad for name, p in module.named_parameters() if p.grad is not None}

    at_none = gradients(0.0)
    at_one = gradients(1.0)
    for name, gradient in at_none.items():
        same = torch.allclose(gradient, at_one[name], atol=1e-6)
        assert same == (not name.startswith("z_encoder")), name
    for name, gradient in gradients(0.0, of="reconstruction").items():
        torch.testing.assert_close(gradient, at_none[name])
    assert any(name.startswith("prior.") for name in at_none)


@pytest.mark.parametrize("options", [{}, {"prior": MIXTURE}, {"prior": "spline"}, {"prior": "flow"}])
def test_it_trains(cells, options):
    scvi.settings.seed = 0
    model = LearnedPriorSCVI(cells, n_latent=4, n_hidden=16, **options)
    before = [parameter.clone() for parameter in model.module.prior.parameters()]
    bound = model.get_elbo()
    model.train(max_epochs=5, plan_kwargs={"max_kl_weight": 0.5, "n_epochs_kl_warmup": None}, **TRAIN)
    assert model.get_elbo() > bound
    after = model.module.prior.parameters()
    assert any(not torch.equal(a, b) for a, b in zip(after, before, strict=True))


def test_with_a_standard_normal_it_is_scvi(cells):
    ours = built(cells, "standard_normal")
    theirs = scvi.model.SCVI(cells, n_latent=4, n_hidden=16)
    theirs.module.load_state_dict(ours.module.state_dict())
    for model in (ours, theirs):
        model.is_trained_ = True
        model.module.eval()
    bounds = [np.mean([m.get_elbo().item() for _ in range(30)]) for m in (ours, theirs)]
    assert bounds[0] == pytest.approx(bounds[1], abs=0.2)
    scores = [m.get_marginal_ll(n_mc_samples=300) for m in (ours, theirs)]
    assert scores[0] == pytest.approx(scores[1], abs=0.2)
    assert scores[0] > bounds[0]


def test_files_of_scvi(cells, model, tmp_path):
    model.save(str(tmp_path / "model"))
    again = LearnedPriorSCVI.load(str(tmp_path / "model"), adata=cells, accelerator="cpu")
    z = torch.randn(5, 4)
    expected = model.module.prior.get_prior().log_prob(z)
    assert torch.equal(again.module.prior.get_prior().log_prob(z), expected)
    torch.manual_seed(0)
    bound = model.get_elbo()
    torch.manual_seed(0)
    assert again.get_elbo() == bound


def test_scarches_keeps_the_prior(model):
    query = scvi.data.synthetic_iid(batch_size=20, n_genes=20)
    query.obs["batch"] = "new"
    mapped = LearnedPriorSCVI.load_query_data(query, model, accelerator="cpu")
    mapped.train(max_epochs=1, **TRAIN)
    for own, reference in zip(mapped.module.prior.parameters(), model.module.prior.parameters(), strict=True):
        assert torch.equal(own, reference)


def test_early_stopping_follows_the_bound(cells):
    model = built(cells)
    model.train(max_epochs=2, early_stopping=True, check_val_every_n_epoch=1, **{**TRAIN, "logger": None})
    history = model.history["elbo_validation"]
    assert np.isfinite(history.to_numpy().astype(float)).all()


def test_codes_are_draws(cells, model):
    torch.manual_seed(0)
    mean, variance = map(torch.as_tensor, model.get_latent_representation(return_dist=True))
    draws = torch.stack([encode(model) for _ in range(400)])
    torch.testing.assert_close(draws.mean(0), mean, rtol=0, atol=0.3 * variance.sqrt().max().item())
    torch.testing.assert_close(draws.var(0), variance, rtol=0.5, atol=0)
    assert encode(model, indices=[3, 5]).shape == (2, 4)


def test_counts_are_those_of_their_codes_and_cells(cells, model):
    torch.manual_seed(0)
    counts = decode(model, model.module.prior.get_prior().sample((200,)))
    assert counts.shape == (200, 20)
    assert torch.equal(counts, counts.round().clamp(min=0))
    size = cells.X.sum(1)
    order = np.argsort(size)
    few, many = (decode(model, torch.zeros(300, 4), np.full(300, cell)) for cell in (order[0], order[-1]))
    assert (many.sum(1).mean() / few.sum(1).mean()).item() == pytest.approx(size.max() / size.min(), rel=0.1)


def test_any_module_that_asks_for_a_kl(cells):
    normal = cells.copy()
    normal.X = np.log1p(normal.X).astype(np.float32)
    scvi.external.SysVI.setup_anndata(normal, batch_key="batch")
    model = scvi.external.SysVI(normal, prior="standard_normal", n_latent=4, n_hidden=16)
    model.module.prior = LearnedPrior(priors.Mixture(4, 3), beta=0.0)
    before = model.module.prior.prior.loc.clone()
    model.train(max_epochs=2, **TRAIN)
    assert not torch.equal(model.module.prior.prior.loc, before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prior": "mixtur"}, "mixtur"),
        ({"prior": "flow_matching"}, "FlowMatching does not learn by its density"),
        ({"prior": "vamp"}, "computes with an encoder"),
        ({"prior": "conditional_flow"}, "is conditional, and there is no context"),
        ({"prior": "neural_sampler"}, "expected a density of codes alone, got NeuralSampler"),
        ({"latent_distribution": "ln"}, "latent_distribution: expected normal"),
    ],
)
def test_mistakes_are_sentences(cells, options, message):
    with pytest.raises(ValueError, match=message):
        built(cells, **options)


def test_mistakes_with_a_trained_model(cells, model):
    with pytest.raises(ValueError, match="indices: expected one cell for each of 3 codes, got 2"):
        decode(model, torch.zeros(3, 4), [0, 1])
    other = built(cells, use_observed_lib_size=False)
    other.train(max_epochs=1, **TRAIN)
    assert torch.isfinite(other.get_elbo())
    with pytest.raises(ValueError, match="needs use_observed_lib_size=True"):
        other.get_marginal_ll(n_mc_samples=2)


def test_without_the_package_its_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "scvi", None)
    monkeypatch.delitem(sys.modules, "pyro_lrp.adapters.scvi")
    with pytest.raises(ImportError, match=r"needs a package: pip install 'pyro_lrp\[scvi\]'"):
        importlib.import_module("pyro_lrp.adapters.scvi")
