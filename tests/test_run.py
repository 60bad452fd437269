"""`Run`: the one way to a trained run, and what a new kind of condition or autoencoder takes."""

from pathlib import Path

import pytest
import torch
import yaml
from builders import small_autoencoder
from commands import QUICK, only_run

import pyro_lrp
from pyro_lrp import data, models, priors
from pyro_lrp.config import rundir
from pyro_lrp.core import checkpoint
from pyro_lrp.core.errors import UserError
from pyro_lrp.models import Codes, ImageCodes

PEOPLE = (
    "model=vunet_flow", "data=posed_figures", "data.n=32", "data.test=16", "data.image_size=32",
    "network.first=1", "network.most=2", "latent_dim=160", "data.flow.layers=2", "data.flow.width=4",
    "likelihood=gaussian", "batch_size=16", *QUICK[1:],
)  # fmt: skip


def test_a_run_gives_its_model_its_data_and_its_codes(trained_by):
    trained_by(*QUICK)
    run = pyro_lrp.Run(only_run())
    assert run.step == 4
    assert run.finished
    assert run.summary["final"]["step"] == 4
    assert run.identity["presets"]["data"] == "fake"
    assert run.condition == data.NoCondition()
    codes = run.codes("test")
    assert isinstance(codes, Codes)
    q = run.autoencoder.encode(run.data.test.batch(slice(None)).x)
    assert torch.equal(codes.loc, q.mean)
    assert codes.context.shape == (256, 0)
    assert len(run.codes("seen").loc) == len(run.seen) == 230
    assert len(run.codes("train").loc) == 256
    draw = run.draw(3)
    assert (draw.images.shape, draw.latents.shape) == ((3, 1, 28, 28), (3, 8))
    assert not run.autoencoder.training
    for name, tensor in pyro_lrp.load(only_run()).state_dict().items():
        assert torch.equal(tensor, run.autoencoder.state_dict()[name])


def test_a_run_is_read_once_and_only_where_it_is_asked(trained_by, monkeypatch):
    trained_by(*QUICK)
    run = pyro_lrp.Run(only_run())
    read = []
    monkeypatch.setattr(checkpoint, "load", lambda path, load=checkpoint.load: read.append(path) or load(path))
    monkeypatch.setattr(
        rundir, "read_identity", lambda path, f=rundir.read_identity: read.append(path) or f(path)
    )
    assert read == []
    assert run.step == 4
    assert run.autoencoder is run.autoencoder
    assert run.draw(2)
    assert len(read) == 2


def test_a_run_that_is_none_says_so_when_it_is_asked(tmp_path):
    run = pyro_lrp.Run(tmp_path / "nowhere")
    with pytest.raises(UserError, match="is not a run directory"):
        _ = run.autoencoder
    with pytest.raises(ValueError, match="expected split to be train, test or seen"):
        run.codes("validation")


def test_a_conditional_run_draws_by_words_or_tensors(train):
    train(*QUICK, "prior=conditional_flow", "context=label")
    run = pyro_lrp.Run(only_run())
    assert run.condition == data.Labels([str(number) for number in range(10)])
    assert run.codes().context.shape == (256, 10)
    assert len(run.draw(4, context=[1, 2]).images) == 4
    assert len(run.draw(4, context=torch.eye(10)[:1]).images) == 4
    with pytest.raises(ValueError, match="expected a context for each of 4 samples, got 3"):
        run.draw(4, context=torch.eye(10)[:3])
    with pytest.raises(UserError, match="context=11 is no class of this run"):
        run.draw(4, context=11)


# --------------------------------------------------------------------- contexts


def test_a_context_without_effect_is_taken():
    """Every prior is a distribution over the context's batch, and an autoencoder draws over it."""
    ae = small_autoencoder()
    context = torch.randn(5, 3)
    assert ae.prior(context).batch_shape == (5,)
    assert ae.prior.base(context).batch_shape == (5,)
    torch.manual_seed(0)
    given = ae.draw(5, context=context)
    torch.manual_seed(0)
    assert torch.equal(given.images, ae.draw(5).images)
    assert ae.draw(0).images.shape == (0, 1, 8, 8)
    assert ae.draw(5, context=torch.randn(3)).images.shape == (5, 1, 8, 8)


@pytest.mark.parametrize("make", [
    lambda: priors.StandardNormal(2), lambda: priors.paper_flow(2, 2, 8), lambda: priors.Mixture(2, 3),
    lambda: priors.FlowMatching(2, 8), lambda: priors.NeuralSampler(2, width=8).eval(),
    lambda: priors.conditional_paper_flow(2, 3, 2, 8),
])  # fmt: skip
def test_a_prior_is_a_distribution_over_the_contexts_batch(make):
    prior = make()
    for batch in ((), (4,), (2, 3)):
        distribution = prior(torch.randn(*batch, 3))
        assert distribution.batch_shape == batch
        assert distribution.sample((6,)).shape == (6, *batch, 2)


def test_a_conditional_prior_names_a_missing_context():
    prior = priors.conditional_paper_flow(2, 3, 2, 8)
    for context in (None, torch.zeros(4, 0)):
        with pytest.raises(ValueError, match="needs a context, and was called without"):
            prior(context)
    with pytest.raises(ValueError, match=r"expected a context of length 3, got \(4, 2\)"):
        prior(torch.zeros(4, 2))


# --------------------------------------------------------------------- a new kind of condition, in one class


def brightness():
    """A kind of condition, registered by its definition."""

    class Brightness(data.Condition):
        """Mean brightness of an image."""

        kind = "brightness"

        @classmethod
        def for_data(cls, images, wanted):
            return cls(("mean",))

        def of(self, split):
            return split.images.float().mean((1, 2, 3))[:, None] / 255

        def parse(self, wanted, n):
            return torch.full((n, 1), float(wanted))

    return Brightness


def test_a_new_kind_of_condition_is_one_class(train):
    kind = brightness()
    code, _, err = train(*QUICK, "prior=conditional_flow", "context=brightness")
    assert code == 0, err
    run = pyro_lrp.Run(only_run())
    assert isinstance(run.condition, kind)
    images = run.data.test.images.float()
    assert torch.allclose(run.codes().context[:, 0], images.mean((1, 2, 3)) / 255)
    assert train(f"run={only_run()}", "context=0.5", "n=3", "out=three.npz", command="sample")[0] == 0
    wanted = (f"run={only_run()}", "mode=reconstruct", "out=a.png")
    assert train(*wanted, command="sample")[0] == 0


# --------------------------------------------------------------------- a new kind of autoencoder


def test_the_regularized_autoencoder_trains_without_a_kl(train):
    """Ghosh et al. (2020): deterministic, its codes held small by a penalty, a mixture fitted afterwards."""
    norms = {}
    for weight in (0.0, 100.0):
        longer = ("epochs=20", "lr=0.01", *(key for key in QUICK if not key.startswith("epochs")))
        code, out, err = train("model=rae", *longer, f"autoencoder.weight={weight}", f"name=w{weight}")
        assert code == 0, err
        assert "KL" not in out
        run = pyro_lrp.Run(f"runs/w{weight}/seed_0")
        assert isinstance(run.autoencoder, models.RegularizedAutoencoder)
        assert run.autoencoder.weight == weight
        assert "test/kl" not in run.summary["final"]
        norms[weight] = run.codes().loc.square().sum(1).mean()
    assert norms[100.0] < 0.1 * norms[0.0]


def test_the_penalty_enters_the_loss_as_written():
    from pyro_lrp.objectives import BilevelELBO

    plain = small_autoencoder()
    penalized = models.RegularizedAutoencoder(plain.encoder, plain.decoder, plain.prior, plain.likelihood, 3.0)
    x = torch.rand(5, 1, 8, 8)
    losses = []
    for ae in (plain, penalized):
        torch.manual_seed(1)
        losses.append(BilevelELBO(0.0).losses(ae.model, ae.guide, x))
    z = losses[0].latents["z"]
    assert torch.equal(z, losses[1].latents["z"])
    penalty = 1.5 * z.square().sum()
    torch.testing.assert_close(losses[1].loss - losses[0].loss, penalty)
    torch.testing.assert_close(losses[1].terms["code_norm"], -penalty / 5)
    assert torch.equal(losses[1].terms["log_likelihood"], losses[0].terms["log_likelihood"])
    with pytest.raises(ValueError, match="expected weight to be a finite number of at least 0"):
        models.RegularizedAutoencoder(plain.encoder, plain.decoder, plain.prior, plain.likelihood, -1.0)


def test_a_run_without_an_autoencoders_node_still_loads(train):
    """Runs from before version 0.2."""
    code, _, err = train(*PEOPLE)
    assert code == 0, err
    path = only_run() / "config.yaml"
    identity = yaml.safe_load(path.read_text())
    assert identity["autoencoder"]["_target_"] == "pyro_lrp.models.HierarchicalAutoencoder"
    del identity["autoencoder"]
    path.write_text(yaml.safe_dump(identity))
    assert isinstance(pyro_lrp.load(only_run()), models.HierarchicalAutoencoder)
    run = pyro_lrp.Run(only_run())
    assert isinstance(run.codes(), ImageCodes)
    assert run.codes().sample().shape == (16, 160)


# --------------------------------------------------------------------- the prior-only phase of several latents


def trained_people(train, name, *more):
    code, _, err = train(*PEOPLE, "trainer.report_every=1", f"name={name}", *more)
    assert code == 0, err
    state = checkpoint.load(Path("runs", name, "seed_0", "checkpoints", "last.safetensors"))["game"]
    log = Path("runs", name, "seed_0", "train.log").read_text()
    return state, log


def test_noise_on_codes_of_several_latents_moves_the_prior_and_nothing_else(train):
    plain, _ = trained_people(train, "plain")
    noisy, _ = trained_people(train, "noisy", "prior_code_noise=5")
    changed = {name for name in plain if not torch.equal(plain[name], noisy[name])}
    assert changed
    assert all(".prior." in name for name in changed)


def test_noise_widens_the_codes_of_several_latents():
    split = data.Split(torch.randint(0, 255, (64, 1, 2, 2), dtype=torch.uint8))

    def encode(x, context):
        return torch.distributions.Independent(torch.distributions.Normal(x.flatten(1), 0.1), 1)

    codes = ImageCodes(split, encode)
    torch.manual_seed(0)
    plain = codes.sample()
    torch.manual_seed(0)
    wide = codes.noised(3.0)
    assert codes.noised(0.0) is codes
    expected = 3.0 * plain.std(0, correction=0)
    torch.testing.assert_close(wide.noise, expected, rtol=1e-4, atol=1e-5)
    rows = wide.rows(torch.arange(8))
    assert rows.sample().shape == (8, 4)
    assert torch.equal(rows.noise, wide.noise)


def test_an_estimator_is_run_for_each_of_several_latents(train, tmp_path):
    """EM of a mixture as the prior of each latent, given nothing; a whitening of flows given the features."""
    folder = tmp_path / "mine" / "prior"
    folder.mkdir(parents=True)
    mixture = "{_target_: pyro_lrp.priors.Mixture, dim: %d, components: 2, covariance: diag}"
    scales = f"[{mixture % 32}, {mixture % 128}]"
    (folder / "mixtures.yaml").write_text(f"_target_: pyro_lrp.priors.Hierarchy\nscales: {scales}\n")
    state, log = trained_people(train, "em", "prior=mixtures", "--config-dir", str(tmp_path / "mine"))
    assert "latent 1, em_iterations" in log
    assert "latent 2, em_iterations" in log
    locs = [value for name, value in state.items() if name.endswith("scales.0.loc")]
    assert locs
    assert locs[0].abs().max() > 0
