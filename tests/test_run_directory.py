"""What a run directory holds, and to whom it belongs."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from builders import random_vgg19
from commands import QUICK, only_run

import pyro_lrp
from pyro_lrp.core import checkpoint


def test_the_run_directory_holds_what_is_promised(train):
    code, _, _ = train(*QUICK, "likelihood=gaussian_learned", "likelihood.lr=0.01", "logger=tensorboard")
    assert code == 0
    run = only_run()
    assert str(run) == "runs/vae_flow-flow-fake-beta_0/seed_0"
    names = {p.name for p in run.iterdir()}
    assert names >= {
        "config.yaml",
        "metrics.jsonl",
        "checkpoints",
        "samples",
        "figures",
        "summary.json",
        "train.log",
    }
    assert list((run / "tensorboard").glob("events*"))
    assert not Path("outputs").exists()
    summary = json.loads((run / "summary.json").read_text())
    assert summary["final"]["step"] == 4
    assert summary["parameters"].keys() == {"autoencoder", "prior"}
    assert summary["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["phase"] for row in rows] == ["joint", "prior_only"]
    identity = yaml.safe_load((run / "config.yaml").read_text())
    assert not {"device", "logger", "progress", "overwrite", "name"} & identity.keys()


def test_a_finished_run_says_so_and_a_moved_one_loads(train, trained_by):
    trained_by(*QUICK)
    code, out, err = train(*QUICK)
    assert code == 0
    assert "already trained" in err
    assert "samples of the prior" in out
    run = only_run()
    before = pyro_lrp.load(run)
    moved = run.rename("a name, with = and umlauts äö")
    z = torch.randn(5, 8)
    assert torch.equal(pyro_lrp.load(moved).prior().log_prob(z), before.prior().log_prob(z))
    code, out, err = train(
        f"run={moved}", f"out={moved}/x, y=1.npz", "n=7", "temperature=0.5", command="sample"
    )
    assert code == 0, err
    arrays = np.load(moved / "x, y=1.npz")
    assert arrays["images"].shape == (7, 1, 28, 28)
    assert arrays["images"].dtype == np.float32
    assert 0 <= arrays["images"].min() <= arrays["images"].max() <= 1
    assert arrays["latents"].shape == (7, 8)
    train(f"run={moved}", "out=again.npz", "n=7", "temperature=0.5", command="sample")
    assert np.array_equal(np.load("again.npz")["images"], arrays["images"])
    code, out, _ = train(f"run={moved}", command="sample")
    assert out.strip() == f"{moved}/figures/prior.png"
    assert Path(out.strip()).is_file()


def test_circumstances_may_change_between_resumes(train, trained_by):
    trained_by(*QUICK)
    code, _, err = train(*QUICK, "logger=tensorboard", "progress=true")
    assert code == 0
    assert "already trained" in err


def test_another_identity_is_refused_and_nothing_is_touched(train, trained_by):
    run = trained_by(*QUICK)
    before = {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in run.rglob("*")}
    code, _, err = train(*QUICK, "lr=0.5", "batch_size=7")
    assert code == 1
    assert "batch_size (there 100, here 7), lr (there 0.001, here 0.5)" in err
    assert "name=" in err
    assert "overwrite=true" in err
    assert {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in run.rglob("*")} == before
    code, _, _ = train(*QUICK, "lr=0.5", "overwrite=true")
    assert code == 0
    assert yaml.safe_load((run / "config.yaml").read_text())["lr"] == 0.5


def test_perceptual_weights_are_recorded_and_checked(train):
    perceptual = (*QUICK, "model=vae_perceptual", "data.n=24", "batch_size=10")
    random_vgg19("a.npz", convolutions=3)
    random_vgg19("b.npz", convolutions=3, seed=1)
    code, _, err = train(*perceptual, "weights.vgg19=a.npz")
    assert code == 0
    assert "likelihood: layers ['relu_1_1', 'relu_2_1'], sha256 " in err
    run = only_run()
    likelihood = yaml.safe_load((run / "config.yaml").read_text())["likelihood"]
    assert likelihood["layers"] == ["relu_1_1", "relu_2_1"]
    assert json.loads((run / "summary.json").read_text())["log_likelihood_unit"].startswith("(no density")
    Path("a.npz").rename("moved.npz")  # where they lie may change
    code, _, err = train(*perceptual, "weights.vgg19=moved.npz")
    assert (code, "already trained" in err) == (0, True)
    code, _, err = train(*perceptual, "weights.vgg19=b.npz")
    assert code == 1
    assert "which differs in likelihood.sha256" in err
    Path("moved.npz").unlink()  # a trained run needs them no longer
    assert train(f"run={run}", "n=4", command="sample")[0] == 0


def test_a_folder_of_somebodys_files_is_refused(train):
    Path("runs/mine/seed_0").mkdir(parents=True)
    Path("runs/mine/seed_0/thesis.tex").write_text("x")
    for more in ((), ("overwrite=true",)):
        code, _, err = train(*QUICK, "name=mine", *more)
        assert code == 1
        assert "holds files but no run" in err
    assert [p.name for p in Path("runs/mine/seed_0").iterdir()] == ["thesis.tex"]


def test_a_start_that_was_killed_does_not_block_the_next(train):
    Path("runs/mine/seed_0").mkdir(parents=True)
    Path("runs/mine/seed_0/.config.yaml.tmp").write_text("presets: {mod")
    assert train(*QUICK, "name=mine")[0] == 0
    assert train(*QUICK, "name=mine", "overwrite=true")[0] == 0
    names = {path.name for path in Path("runs/mine/seed_0").iterdir()}
    assert {"config.yaml", "summary.json"} <= names
    assert ".config.yaml.tmp" not in names


def test_a_run_directory_that_cannot_be_written_is_named(train):
    Path("runs").write_text("a file")
    code, _, err = train(*QUICK)
    assert code == 1
    assert err.startswith("error: run directory runs/vae_flow-flow-fake-beta_0/seed_0 cannot be written")


@pytest.mark.parametrize("damage", ["truncated", "another architecture"])
def test_a_bad_checkpoint_is_one_line(train, trained_by, damage):
    trained_by(*QUICK)
    path = only_run() / "checkpoints" / "last.safetensors"
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
    else:
        state = checkpoint.load(path)
        state["game"] = {k: v for k, v in state["game"].items() if ".prior." not in k}
        checkpoint.save(path, state)
    (only_run() / "summary.json").unlink()
    content = path.read_bytes()
    for arguments, command in ((QUICK, "train"), ((f"run={only_run()}",), "sample")):
        code, _, err = train(*arguments, command=command)
        assert code == 1
        assert damage in err
        assert err.startswith("error: ")
        assert err.count("\n") == 1
    assert path.read_bytes() == content


def test_divergence_is_one_line(train):
    code, _, err = train("data=fake", "lr=1e30", "device=cpu", "progress=false")
    assert code == 1
    assert "at step " in err.splitlines()[-1]
    assert "no checkpoint was written yet" in err.splitlines()[-1]


MINE = """
_target_: pyro_lrp.priors.Flow
dim: ${latent_dim}
transforms:
  - _target_: pyro.distributions.transforms.affine_coupling
    input_dim: ${latent_dim}
    hidden_dims: [16]
  - _target_: pyro.distributions.transforms.permute
    input_dim: ${latent_dim}
  - _target_: pyro.distributions.transforms.spline_coupling
    input_dim: ${latent_dim}
    hidden_dims: [16]
  - _target_: pyro.distributions.transforms.affine_autoregressive
    input_dim: ${latent_dim}
    hidden_dims: [16]
"""


def test_a_users_own_prior_in_yaml(train):
    """Coupling, permutation, spline coupling, autoregressive: no Python, and one density after reloads."""
    folder = Path("my conf/prior")
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text(MINE)
    code, _, err = train("prior=mine", "--config-dir", "my conf", *QUICK)
    assert code == 0, err
    run = Path("runs/vae_flow-mine-fake-beta_0/seed_0")
    first, second = pyro_lrp.load(run), pyro_lrp.load(run)
    z = torch.randn(4, 8)
    final = json.loads((run / "summary.json").read_text())["final"]
    assert np.isfinite(final["test/log_prior"])
    assert torch.equal(first.prior().log_prob(z), second.prior().log_prob(z))
    saved = checkpoint.load(run / "checkpoints" / "last.safetensors")["game"]
    permutations = [v for k, v in saved.items() if k.endswith("_permutation")]
    assert any(
        torch.equal(t.permutation, permutations[0]) for t in first.prior.transforms if hasattr(t, "permutation")
    )
