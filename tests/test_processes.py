"""What only real processes show: a kill in the middle, a run from another directory."""

import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import forked, start
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

import pyro_lrp

# about 250 tiny steps: long enough to be hit, at 5 steps a report, in either phase
RUN = (
    *("data=fake", "data.image_shape=[1,8,8]", "data.n=120", "latent_dim=4", "network.hidden_dims=[32]"),
    *("batch_size=20", "epochs=24", "prior_epochs=18", "device=cpu", "progress=false", "name=killed"),
    *("trainer.report_every=5", "trainer.evaluations=2", "trainer.save_minutes=0"),
)
LAST = "checkpoints/last.safetensors"


def rows(directory):
    path = directory / "metrics.jsonl"
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]


def kill_at(step, cwd, model):
    """Start the run, and kill it without warning as soon as it reports ``step``."""
    directory = cwd / "runs/killed/seed_0"
    process = forked("train", *RUN, *model, cwd=cwd)
    deadline = time.monotonic() + 120
    while process.is_alive() and time.monotonic() < deadline:
        done = rows(directory)
        if done and done[-1]["step"] >= step:
            process.kill()
            process.join()
            return
        time.sleep(0.02)
    process.kill()
    process.join()
    pytest.fail(f"the run ended before step {step}: {(cwd / 'output.txt').read_text()}")


KILLS = {  # shares of the joint phase and of the prior-only phase at which a run is killed
    ("model=vae_flow",): ((0.02, 0.95), (0.5,)),
    (
        "model=aae_learned",
        "prior.width=16",
        "objective.discriminator.width=16",
        "epochs=20",
        "prior_epochs=12",
    ): (
        (0.5,),
        (0.5,),
    ),
    ("model=factor_vae", "objective.discriminator.width=16", "epochs=20", "beta_schedule=warmup"): ((0.3,), ()),
}


@pytest.mark.parametrize("model", KILLS, ids=lambda model: model[0])
def test_kills_in_both_phases_change_nothing(train, tmp_path, model):
    code, _, err = train(*RUN, *model)
    assert code == 0, err
    whole = Path("runs/killed/seed_0").rename("whole")
    total = rows(whole)[-1]["step"]
    joint = max(row["step"] for row in rows(whole) if row["phase"] == "joint")
    in_joint, in_prior = KILLS[model]
    for share in in_joint:
        kill_at(int(share * joint), tmp_path, model)
    for share in in_prior:
        kill_at(joint + int(share * (total - joint)), tmp_path, model)
    code, _, err = train(*RUN, *model)
    assert code == 0, err
    assert "resumes at step" in err
    killed = Path("runs/killed/seed_0")
    assert (killed / LAST).read_bytes() == (whole / LAST).read_bytes()
    steps = [row["step"] for row in rows(killed)]
    assert steps == [row["step"] for row in rows(whole)]
    assert len(steps) == len(set(steps))
    assert steps[-1] == total


def test_the_default_command_draws_digits(train):
    """The README's first command, a fifth as long: samples that a classifier of real digits takes for digits.

    It is surer of them than of images of codes from a Gaussian with the codes' mean and deviation (0.77 and
    0.71, each with a standard error below 0.006), and a prior N(0, I) misses classes.
    """
    code, output, err = train("progress=false", "device=cpu", "epochs=30", "trainer.evaluations=2")
    assert code == 0, err
    assert "samples.png" in output
    assert "try next" in output
    directory = Path("runs/vae_flow-flow-digits-beta_0/seed_0")
    ae = pyro_lrp.load(directory)
    real = load_digits()
    judge = LogisticRegression(max_iter=5000).fit(real.data / 16, real.target)
    with torch.no_grad():
        codes = ae.encode(torch.from_numpy(real.images[:, None] / 16).float()).mean
        gaussian = ae.decode(codes.mean(0) + codes.std(0) * torch.randn(2000, codes.shape[1]))
        probabilities = judge.predict_proba(ae.sample(2000).flatten(1).numpy())
        of_gaussian = judge.predict_proba(gaussian.flatten(1).numpy())
    sureness = probabilities.max(1).mean()
    assert sureness > 0.73
    assert sureness > of_gaussian.max(1).mean() + 0.03
    assert np.bincount(probabilities.argmax(1), minlength=10).min() >= 40  # 2 % of each class
    joint = [row for row in rows(directory) if row["phase"] == "joint"]
    prior = [row for row in rows(directory) if row["phase"] == "prior_only"]
    assert joint[-1]["log_likelihood"] > joint[0]["log_likelihood"] + 1
    assert prior[-1]["log_prior"] > prior[0]["log_prior"] + 0.1  # of codes with noise


def test_console_module_runs_from_another_directory(tmp_path):
    process = start("train", "--cfg", "job", cwd=tmp_path)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert "beta: 0" in output
    assert list(tmp_path.iterdir()) == []
