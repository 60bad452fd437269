"""What only real processes show: a kill in the middle, a run from another directory."""

import json
import signal
import time

import numpy as np
import pytest
from commands import start
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

import pyro_lrp

# about 350 tiny steps: long enough to be hit, at 5 steps a report, in either phase
RUN = (
    *("data=fake", "data.image_shape=[1,8,8]", "data.n=120", "latent_dim=4", "network.hidden_dims=[32]"),
    *("batch_size=20", "epochs=40", "prior_epochs=30", "device=cpu", "progress=false", "name=killed"),
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
    process = start("train", *RUN, *model, cwd=cwd)
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        done = rows(directory)
        if done and done[-1]["step"] >= step:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            return
        time.sleep(0.02)
    process.kill()
    pytest.fail(f"the run ended before step {step}: {process.communicate()[0]}")


def finish(cwd, model):
    process = start("train", *RUN, *model, cwd=cwd)
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    return cwd / "runs/killed/seed_0", output


KILLS = {  # shares of the joint phase and of the prior-only phase at which a run is killed
    ("model=vae_flow",): ((0.02, 0.95), (0.5,)),
    (
        "model=aae_learned",
        "prior.width=16",
        "objective.discriminator.width=16",
        "epochs=30",
        "prior_epochs=15",
    ): (
        (0.5,),
        (0.5,),
    ),
    ("model=factor_vae", "objective.discriminator.width=16", "epochs=30", "beta_schedule=warmup"): ((0.3,), ()),
}


@pytest.mark.parametrize("model", KILLS, ids=lambda model: model[0])
def test_kills_in_both_phases_change_nothing(tmp_path, model):
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    whole, _ = finish(tmp_path / "whole", model)
    total = rows(whole)[-1]["step"]
    joint = max(row["step"] for row in rows(whole) if row["phase"] == "joint")
    in_joint, in_prior = KILLS[model]
    for share in in_joint:
        kill_at(int(share * joint), tmp_path / "killed", model)
    for share in in_prior:
        kill_at(joint + int(share * (total - joint)), tmp_path / "killed", model)
    killed, output = finish(tmp_path / "killed", model)
    assert "resumes at step" in output
    assert (killed / LAST).read_bytes() == (whole / LAST).read_bytes()
    steps = [row["step"] for row in rows(killed)]
    assert steps == [row["step"] for row in rows(whole)]
    assert len(steps) == len(set(steps))
    assert steps[-1] == total


def test_the_default_command_draws_digits(tmp_path):
    """The README's first command: 500 samples that a classifier of real digits takes for digits."""
    process = start("train", "progress=false", "device=cpu", cwd=tmp_path)
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    assert "samples.png" in output
    assert "try next" in output
    directory = tmp_path / "runs/vae_flow-flow-digits-beta_0/seed_0"
    images = pyro_lrp.load(directory).sample(500).flatten(1).numpy()
    real = load_digits()
    judge = LogisticRegression(max_iter=5000).fit(real.data / 16, real.target)
    probabilities = judge.predict_proba(images)
    assert probabilities.max(1).mean() > 0.8
    assert np.bincount(probabilities.argmax(1), minlength=10).min() >= 10  # 2 % of each class
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
