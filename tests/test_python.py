"""The library in Python, without its commands: another default dtype, directories, metrics, notebooks."""

import asyncio
import math
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from builders import GAMES, small_autoencoder, small_game
from commands import QUICK, ROOT
from test_hierarchy import posed

import pyro_lrp
from pyro_lrp import data, metrics, objectives, priors
from pyro_lrp.core.errors import UserError
from pyro_lrp.objectives import BilevelELBO, LatentGame
from pyro_lrp.trainer import Phase, Trainer

DIGITS = data.digits().limited(60)
PHASES = (Phase("joint", 1), Phase("prior_only", 1))


def trainer(game, images=DIGITS, **options):
    return Trainer(game, images, phases=PHASES, batch_size=20, evaluations=1, progress=False, **options)


# --------------------------------------------------------------------- torch's default dtype


@pytest.fixture
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def labelled():
    """Digits with their class as context, made where the default dtype is float32."""
    return DIGITS.with_contexts(data.Labels([str(number) for number in range(10)]).of)


def conditional_game():
    prior = priors.conditional_paper_flow(4, 10, layers=2, width=8)
    return LatentGame(small_autoencoder(prior=prior), BilevelELBO(0.5))


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("name", [*GAMES, "conditional"])
def test_models_are_trained_in_float64_where_that_is_the_default(name):
    """As Pyro's maintainers advise for double precision; images and contexts follow, and the densities too."""
    images = labelled() if name == "conditional" else DIGITS
    game = {**GAMES, "conditional": conditional_game}[name]()
    rows = trainer(game, images).fit()
    assert all(math.isfinite(value) for value in rows[-1].values() if isinstance(value, float))
    ae = game.autoencoder
    assert {tensor.dtype for tensor in ae.parameters()} == {torch.float64}
    context = torch.eye(10, dtype=torch.float32)[:1] if name == "conditional" else None
    draw = ae.draw(5, context=context)
    assert draw.images.dtype == draw.latents.dtype == torch.float64
    if ae.prior.has_log_prob:
        contexts = torch.zeros(5, ae.prior.context_dim, dtype=torch.float32)
        assert ae.prior(contexts).log_prob(draw.latents).dtype == torch.float64


@pytest.mark.usefixtures("double")
def test_the_u_net_is_trained_in_float64_where_that_is_the_default():
    images = data.posed_figures(n=20, test=10, image_size=32)
    images, _ = data.with_context(images, "pose")
    ae = posed()
    rows = trainer(LatentGame(ae, BilevelELBO(0.5)), images).fit()
    assert math.isfinite(rows[-1]["test/log_prior"])
    context = images.test.context[:1]
    assert context.dtype == torch.float32
    assert ae.sample(2, context=context).dtype == torch.float64
    assert ae.prior(context).sample().dtype == torch.float64
    results = metrics.evaluate(ae, images, ["pose_recovery", "reconstruction_mse"], n=10)
    assert math.isfinite(results["reconstruction_mse"]["value"])


def test_the_default_dtype_is_that_of_a_batch_and_nothing_else():
    split = labelled().train
    torch.set_default_dtype(torch.float64)
    try:
        batch = split.batch(slice(0, 3))
    finally:
        torch.set_default_dtype(torch.float32)
    single = split.batch(slice(0, 3))
    assert batch.x.dtype == batch.context.dtype == torch.float64
    assert single.x.dtype == single.context.dtype == torch.float32
    torch.testing.assert_close(batch.x.float(), single.x)
    assert torch.equal(batch.x, split.images[:3].double() / 255)


# --------------------------------------------------------------------- directories of trainings in Python


@pytest.mark.parametrize("name", ["bilevel", "vamp", "adversarial", "total correlation"])
def test_a_training_in_python_is_loaded_into_a_model_of_the_same_code(tmp_path, name):
    torch.manual_seed(0)
    game = GAMES[name]()
    trainer(game, directory=tmp_path).fit()
    torch.manual_seed(1)
    fresh = GAMES[name]().autoencoder
    loaded = pyro_lrp.load(tmp_path, into=fresh)
    assert loaded is fresh
    assert not loaded.training
    draws = []
    for ae in (game.autoencoder, loaded):
        torch.manual_seed(2)
        draws.append(ae.sample(5))
    assert torch.equal(*draws)


def test_a_directory_that_cannot_be_loaded_says_how_it_could(tmp_path):
    trainer(small_game(), directory=tmp_path).fit()
    with pytest.raises(UserError, match=r"no config.yaml, so it was trained from Python: .*into=autoencoder"):
        pyro_lrp.load(tmp_path)
    with pytest.raises(UserError, match="is of another architecture"):
        pyro_lrp.load(tmp_path, into=small_autoencoder(latent_dim=2))
    with pytest.raises(UserError, match="has no checkpoint: is it the directory of a Trainer"):
        pyro_lrp.load(tmp_path / "nowhere", into=small_autoencoder())
    with pytest.raises(UserError, match="is not a run directory: there is no such folder$"):
        pyro_lrp.load(tmp_path / "nowhere")


# --------------------------------------------------------------------- metrics


def test_metrics_of_a_model_are_those_of_its_subject(tmp_path, monkeypatch):
    monkeypatch.setenv("PYRO_LRP_CACHE", str(tmp_path))
    ae = small_autoencoder().train()
    ae.decoder.network.append(torch.nn.Dropout(0.5))
    results = metrics.evaluate(ae, DIGITS, ["prior_gap", "reconstruction_mse"], n=60, seed=3)
    assert ae.training
    subject = metrics.Subject(ae.eval(), DIGITS, n=60, seed=3)
    expected = metrics.METRICS["prior_gap"].compute(subject)
    assert {"prior_gap", "prior_gap_nll_test", "reconstruction_mse"} <= results.keys()
    for name, result in expected.items():
        assert results[name]["value"] == result["value"], name
    one = metrics.evaluate(ae, DIGITS, "reconstruction_mse", n=60, seed=3)
    assert one["reconstruction_mse"] == results["reconstruction_mse"]


def test_metrics_that_cannot_be_computed_are_said(monkeypatch):
    ae = small_autoencoder()
    with pytest.raises(UserError, match=r"metrics: fiddle is unknown; the known ones are: auto, or of \[fid, "):
        metrics.evaluate(ae, DIGITS, ["reconstruction_mse", "fiddle"])
    with pytest.raises(UserError, match="metrics: class_accuracy needs a prior that is conditional"):
        metrics.evaluate(ae, DIGITS, "class_accuracy")

    def fails(subject):
        raise RuntimeError("out of luck")

    known = {
        "reconstruction_mse": metrics.METRICS["reconstruction_mse"],
        "unlucky": metrics.Metric(fails),
        "class_accuracy": metrics.METRICS["class_accuracy"],
    }
    monkeypatch.setattr(metrics, "METRICS", known)
    with pytest.warns(UserWarning, match=r"not computed: unlucky \(out of luck\)"):
        results = metrics.evaluate(ae, DIGITS, n=50)
    assert results.keys() == {"reconstruction_mse", "constant_image_mse"}
    with pytest.raises(RuntimeError, match="out of luck"):
        metrics.evaluate(ae, DIGITS, "unlucky")


# --------------------------------------------------------------------- pyro_lrp.train


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYRO_LRP_CACHE", str(tmp_path / "cache"))
    return tmp_path


def bytes_of(run):
    return (run.directory / "checkpoints/last.safetensors").read_bytes()


def test_a_training_in_python_is_that_of_the_command(folder, train, capsys):
    run = pyro_lrp.train(*QUICK, "name=python", "seed=2")
    assert isinstance(run, pyro_lrp.Run)
    assert run.finished
    assert run.directory == folder / "runs/python/seed_2"
    assert run.autoencoder.sample(2).shape[0] == 2
    assert "try next" in capsys.readouterr().out
    train(*QUICK, "name=command", "seed=2")
    assert bytes_of(run) == bytes_of(pyro_lrp.Run("runs/command/seed_2"))
    again = pyro_lrp.train(*QUICK, "name=python", "seed=2")  # complete: nothing is left to do
    assert again.step == run.step


def test_it_runs_where_an_event_loop_runs_and_in_a_thread(folder):
    """As in a notebook, whose cells run in one."""

    async def cell():
        return pyro_lrp.train(*QUICK, "name=cell")

    runs = [asyncio.run(cell())]
    thread = threading.Thread(target=lambda: runs.append(pyro_lrp.train(*QUICK, "name=thread")))
    thread.start()
    thread.join()
    assert bytes_of(runs[0]) == bytes_of(runs[1])


def test_hydras_own_state_stays_as_it_was(folder):
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    from pyro_lrp import config

    Path("mine.yaml").write_text("answer: 42\n")
    with initialize_config_dir(str(folder), version_base="1.3"):
        plan = config.compose_train("data=fake", "latent_dim=3")
        assert plan.identity["latent_dim"] == 3
        assert compose("mine").answer == 42
    assert not GlobalHydra.instance().is_initialized()


PROGRAM = """
import pyro_lrp
assert callable(pyro_lrp.train)
import pyro_lrp.train
assert callable(pyro_lrp.train) and callable(pyro_lrp.train.main)
from pyro_lrp.train import train
for call in (pyro_lrp.train, train):
    try:
        call("data=nowhere")
    except ValueError as error:
        print(error)
"""


def test_the_name_is_the_function_before_and_after_the_module_is_imported():
    shown = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, cwd=ROOT
    )
    lines = shown.stdout.splitlines()
    assert len(lines) == 2
    assert all(line.startswith("data=nowhere is unknown; the known ones are: ") for line in lines)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["modle=vae"], r"unknown key modle \(did you mean model\?\)"),
        (["beta=x"], "beta must be a finite number of at least 0, got 'x'"),
        (["prior=null"], "prior=null names nothing"),
        (["--config-dir", "mine"], "expected arguments key=value, got '--config-dir'.* config_dir=DIR"),
        (["digits"], "expected arguments key=value, got 'digits'"),
        (["data=folder"], "data=folder needs data.path=DIR"),
        (["data=fake", "latent_dim=3"], "expected an even latent_dim, got 3"),
    ],
)
def test_mistakes_are_errors_and_never_the_end_of_the_interpreter(folder, arguments, message):
    with pytest.raises(UserError, match=message):
        pyro_lrp.train(*arguments)
    assert not Path("runs").exists()


def test_files_of_ones_own_are_found(folder, capsys):
    own = folder / "it's mine" / "prior"
    own.mkdir(parents=True)
    (own / "narrow.yaml").write_text(
        "_target_: pyro_lrp.priors.paper_flow\ndim: ${latent_dim}\nlayers: 1\nwidth: 4\n"
    )
    run = pyro_lrp.train(*QUICK, "prior=narrow", "name=own", config_dir=own.parent)
    assert len(run.autoencoder.prior.transforms) == 3
    (own / "narrow.yaml").rename(own / "flow.yaml")  # it goes before the library's, as with the command
    run = pyro_lrp.train(*QUICK, "prior=flow", "name=mine", config_dir=own.parent)
    assert len(run.autoencoder.prior.transforms) == 3
    assert "prior/flow.yaml is that of" in capsys.readouterr().err
    with pytest.raises(UserError, match="nowhere: there is no such folder"):
        pyro_lrp.train(*QUICK, config_dir=folder / "nowhere")


def test_an_objective_of_ones_own_words_is_a_game():
    """The quick start of the README: a model, a game, a training, samples."""
    game = objectives.LatentGame(small_autoencoder(), objectives.BilevelELBO(beta=0.0))
    trainer(game).fit()
    assert game.autoencoder.sample(3).shape == (3, 1, 8, 8)
