"""The U-Net's runs as a user has them: training, resuming, samples of poses, transfer, metrics, Fig. 9."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import Unread, in_process
from PIL import Image

import pyro_lrp
from pyro_lrp.data import posed_figures
from pyro_lrp.metrics import METRICS, Subject
from pyro_lrp.people.poses import JOINTS

SMALL = (
    "data=posed_figures", "data.n=64", "data.test=32", "data.image_size=32", "data.flow.layers=2",
    "data.flow.width=4", "likelihood=gaussian", "network.first=1", "network.most=2", "latent_dim=160",
    "batch_size=16", "device=cpu", "progress=false", "trainer.report_every=1", "trainer.evaluations=1",
    "trainer.save_minutes=0",
)  # fmt: skip
MODELS = ("vunet", "vunet_flow")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, lend_cache):
    """A run of each preset, trained once for a few steps."""
    folder = tmp_path_factory.mktemp("posed")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("PYRO_LRP_CACHE", str(lend_cache(folder / "cache")))
        for model in MODELS:
            arguments = (f"model={model}", *SMALL, "epochs=1", "prior_epochs=1", f"name={model}")
            code, _, _ = in_process("train", *arguments, capsys=Unread(), monkeypatch=patch)
            assert code == 0
    return folder / "runs"


@pytest.fixture
def command(trained, train, tmp_path):
    shutil.copytree(trained, tmp_path / "runs")

    def run(*arguments, name="sample"):
        return train(*arguments, "device=cpu", command=name)

    return run


@pytest.mark.parametrize("model", MODELS)
def test_a_preset_resumes_bit_for_bit(train, interrupt_at, model):
    """Gone on with in the joint phase and in the prior's: dropout and ramps are functions of the step."""
    more = ("network.dropout=0.1", "epochs=1", "prior_epochs=1", "data.n=32")
    arguments = (f"model={model}", *SMALL, *more)
    assert train(*arguments, "name=whole")[0] == 0
    interrupt_at(2, 4)
    for _ in range(2):
        assert train(*arguments, "name=parts")[0] == 130
    code, _, err = train(*arguments, "name=parts")
    assert (code, "resumes at step 3 of 4" in err) == (0, True), err
    last = "seed_0/checkpoints/last.safetensors"
    assert Path("runs/parts", last).read_bytes() == Path("runs/whole", last).read_bytes()


def test_what_a_run_says_of_itself(trained):
    flow, original = (trained / model / "seed_0" for model in ("vunet_flow", "vunet"))
    rows = [json.loads(line) for line in (original / "metrics.jsonl").read_text().splitlines()]
    assert rows[0]["beta"] == pytest.approx(1e-6)
    assert rows[3]["beta"] == pytest.approx(1.0), "the ramp of an epoch of four steps ends at three quarters"
    assert rows[0]["kl"] > 0
    rows = [json.loads(line) for line in (flow / "metrics.jsonl").read_text().splitlines()]
    assert [row["phase"] for row in rows] == ["joint"] * 4 + ["prior_only"] * 4
    assert rows[-1]["test/log_likelihood"] == pytest.approx(rows[3]["test/log_likelihood"], rel=1e-5)
    assert len(pyro_lrp.load(flow).sites) == 2


@pytest.mark.parametrize("model", MODELS)
def test_samples_of_poses_are_rows_behind_their_stick_figures(command, model):
    run = f"run=runs/{model}/seed_0"
    code, out, err = command(run, "pose=[3,5]", "n=6", "out=a.png")
    assert code == 0, err
    assert "a.png" in out
    with Image.open("a.png") as image:
        assert image.width > image.height
    assert command(run, "pose=[3,5]", "n=5", "out=a.npz")[0] == 0
    arrays = np.load("a.npz")
    assert (arrays["images"].shape, arrays["latents"].shape) == ((5, 3, 32, 32), (5, 160))
    data = posed_figures(64, 32, 32)
    pose = data.test.extras["joints"][3].flatten()[None]
    again = pyro_lrp.load(Path("runs", model, "seed_0")).decode(torch.from_numpy(arrays["latents"][:1]), pose)
    torch.testing.assert_close(again[0].detach(), torch.from_numpy(arrays["images"][0]), atol=1e-5, rtol=0)


def test_transfer_keeps_the_appearance_and_takes_the_pose(command):
    run = "run=runs/vunet/seed_0"
    code, _, err = command(run, "mode=transfer", "indices=[0,1]", "pose=[2,3,4]", "out=a.npz")
    assert code == 0, err
    arrays = np.load("a.npz")
    images = arrays["images"].reshape(3, 4, 3, 32, 32)
    codes = arrays["latents"].reshape(3, 4, 160)
    test = posed_figures(64, 32, 32).test
    np.testing.assert_allclose(images[1, 0], test.images[0].numpy() / 255, atol=1e-6)
    assert (images[0, 0] == 1).all()
    assert (codes[1, 1:] == codes[1, 1]).all()
    assert not np.allclose(codes[1, 1], codes[2, 1])
    ae = pyro_lrp.load("runs/vunet/seed_0")
    made = ae.decode(torch.from_numpy(codes[2, 1:2]), test.extras["joints"][4].flatten()[None])
    np.testing.assert_allclose(images[2, 3], made[0].detach().numpy(), atol=1e-5)


def test_a_picture_of_ones_own_brings_its_joints(command, tmp_path):
    test = posed_figures(64, 32, 32).test
    Image.fromarray(test.images[7].permute(1, 2, 0).numpy()).save("me.png")
    run, transfer = "run=runs/vunet/seed_0", ("mode=transfer", "pose=2")
    code, _, err = command(run, *transfer, "images=me.png", "out=a.npz")
    assert (code, "needs its joints in me.json beside it" in err) == (1, True)
    joints = {name: place.tolist() for name, place in zip(JOINTS, test.extras["joints"][7], strict=True)}
    Path("me.json").write_text(json.dumps(joints))
    assert command(run, *transfer, "images=me.png", "out=a.npz")[0] == 0
    assert command(run, *transfer, "indices=[7]", "out=b.npz")[0] == 0
    mine, known = (np.load(file)["images"] for file in ("a.npz", "b.npz"))
    np.testing.assert_allclose(mine, known, atol=1e-5)
    Path("me.json").write_text(json.dumps({"tail": [0.5, 0.5]}))
    assert "tail is no joint" in command(run, *transfer, "images=me.png", "out=a.npz")[2]
    Image.new("RGB", (32, 40)).save("me.png")
    assert "must be square to fit its joints, got 32x40" in command(run, *transfer, "images=me.png")[2]


def test_the_other_modes_know_the_pose(command):
    run = "run=runs/vunet_flow/seed_0"
    for mode in ("reconstruct indices=[0,1]", "interpolate indices=[0,1] steps=3 space=both"):
        code, _, err = command(run, *f"mode={mode}".split(), "out=a.npz")
        assert code == 0, err
    images = np.load("a.npz")["images"].reshape(2, 5, 3, 32, 32)
    np.testing.assert_allclose(images[0, [1, 3]], images[1, [1, 3]], atol=1e-4)  # both spaces share the ends


def test_figure_9_compares_two_runs(command):
    runs = "runs=[runs/vunet/seed_0,runs/vunet_flow/seed_0]"
    code, out, err = command("number=9", runs, "pose=[0,1]", "n=8", name="figure")
    assert code == 0, err
    assert out.split() == ["figure_9.png", "figure_9.pdf"]
    code, _, err = command("number=9", "runs=[runs/vunet/seed_0]", name="figure")
    assert (code, "compares two runs or more" in err) == (1, True)


MISTAKES = {
    "pose=40": "pose: 40 is outside the test images of posed_figures, 0 to 31",
    "pose=[-1]": "pose must be",
    "context=3": "use pose=",
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_in_a_line(command, mistake):
    code, _, err = command("run=runs/vunet/seed_0", mistake)
    assert code == 1
    assert len(err.splitlines()) == 1
    assert MISTAKES[mistake] in err


REFUSED = {
    ("model=vunet_flow", "data=digits", "epochs=1", "prior_epochs=1"): "and the data set digits has none",
    ("model=vunet", *SMALL, "data.image_size=48"): "data.image_size must be 32, 64, 128 or 256, got 48",
    ("model=vunet", *SMALL, "latent_dim=64"): "latents have length 160 at most=2, and latent_dim=64",
    ("model=vunet", *SMALL, "context=null"): "context=pose",
    ("model=vunet", *SMALL, "prior=standard_normal"): "takes none",
    ("model=vunet_flow", *SMALL, "objective=adversarial"): "Adversarial",
    ("model=vunet", *SMALL, "likelihood=vunet", "weights.vgg19=nothing.npz"): "nothing.npz",
    ("model=vae", "prior=unet_flow", "context=pose", "data=posed_figures", "data.n=64", "data.test=32",
     "network=infogan_small", "latent_dim=10240", "epochs=1"): "use network=vunet",
}  # fmt: skip


@pytest.mark.parametrize("arguments", REFUSED, ids=lambda a: a[-1])
def test_what_does_not_fit_is_refused_before_anything_is_written(train, arguments):
    code, _, err = train(*arguments)
    assert (code, len(err.splitlines())) == (1, 1), err
    assert REFUSED[arguments] in err
    assert not Path("runs").exists()


# ---------------------------------------------------------------------
# judging
# ---------------------------------------------------------------------


class Copyist(torch.nn.Module):
    """An autoencoder that draws what the truth would, moved to the right by some pixels."""

    def __init__(self, data, right=0):
        super().__init__()
        self.data, self.right, self.seed = data, right, 0

    context_dim = 30

    @property
    def prior(self):
        return self

    def forward(self, context):
        return torch.distributions.Normal(torch.zeros(len(context), 1), 1.0)

    def decode(self, z, context):
        self.seed += 1
        images = self.data.truth.draw(context.reshape(-1, 15, 2), self.seed).float() / 255
        return images.roll(self.right, -1)

    def reconstruct(self, x, context):
        return x


def judged(right):
    data = posed_figures(64, 64, 64)
    data = pyro_lrp.data.with_context(data, "pose")[0]
    results = METRICS["pose_recovery"].compute(Subject(Copyist(data, right), data))
    return {name: found["value"] for name, found in results.items()}


def test_pose_recovery_counts_markers_within_four_pixels(tmp_path, monkeypatch):
    monkeypatch.setenv("PYRO_LRP_CACHE", str(tmp_path))
    found = judged(right=0)
    assert found["pose_recovery"] > 0.97
    assert found["pose_recovery_real"] == 1.0
    assert found["pose_recovery_reconstructions"] == 1.0
    assert found["pose_recovery_of_another_pose"] < 0.4
    assert judged(right=2)["pose_recovery"] > 0.95
    assert judged(right=6)["pose_recovery"] < 0.1


def test_metrics_of_a_run_stand_beside_the_truth(command):
    metrics = "metrics=[pose_recovery,diversity_classifier,reconstruction_mse,prior_gap]"
    code, out, err = command("run=runs/vunet_flow/seed_0", metrics, "n=24", "k=2", name="evaluate")
    assert code == 0, err
    found = json.loads(Path("runs/vunet_flow/seed_0/evaluation.json").read_text())
    assert found["diversity_classifier_truth"]["value"] > 0
    assert found["diversity_classifier"]["n"] == found["diversity_classifier_truth"]["n"] == 48
    for site in ("z1", "z2"):
        for name in ("nll_training", "nll_test", "c2st", "energy_distance"):
            assert f"prior_gap_{site}_{name}" in found
    whole, parts = found["prior_gap_nll_test"], [found[f"prior_gap_{s}_nll_test"] for s in ("z1", "z2")]
    assert whole["value"] == pytest.approx(sum(part["value"] for part in parts), rel=1e-4)


def test_pose_recovery_says_what_it_needs(train):
    assert train("epochs=1", "prior_epochs=1", "device=cpu", "progress=false", "name=digits")[0] == 0
    code, _, err = train("run=runs/digits/seed_0", "metrics=[pose_recovery]", command="evaluate")
    assert (code, "needs a run that is given poses" in err) == (1, True)
