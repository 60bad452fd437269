"""Runs as folders to share: the run itself, its programs, its model card, and the way through a hub."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from builders import jiggle
from commands import QUICK, ROOT, composed, in_process, only_run

import pyro_lrp
from pyro_lrp import config, data, priors, sharing
from pyro_lrp.config import hub, rundir
from pyro_lrp.core import checkpoint
from pyro_lrp.core.errors import UserError
from pyro_lrp.core.randomness import seeded
from pyro_lrp.sharing.card import Facts, card
from pyro_lrp.sharing.folder import portable
from pyro_lrp.sharing.programs import TOLERANCE, write_programs
from pyro_lrp.sharing.pushforward import pushforward

TINY = ("data=digits", "network=mlp", "network.hidden_dims=[8]", "latent_dim=4", "data.flow.layers=2",
        "data.flow.width=8")  # fmt: skip
PRESETS = {  # what each prior needs beside its name to be small
    "conditional_flow": ("context=label",),
    "flow": (), "flow_matching": ("prior.width=8",), "flow_on_mixture": ("prior.base.components=3",),
    "glow": (),
    "iaf": ("prior.layers=1",), "maf": ("prior.layers=1",),
    "mixture": ("prior.components=3",), "neural_sampler": ("prior.width=8",),
    "realnvp": (), "spatial_flow": ("prior.shape=[2,1,2]",), "spline": ("prior.layers=1",),
    "standard_normal": (), "vamp": ("prior.components=3",),
    "zuko": ("prior.flow.transforms=1", "prior.flow.hidden_features=[8]", "latent_dim=2"),
}  # fmt: skip
UNETS = {"unet_flow": "vunet_flow", "unet_autoregressive": "vunet"}
PEOPLE = (
    "data=posed_figures", "data.n=32", "data.test=16", "data.image_size=32", "network.first=1",
    "network.most=2", "latent_dim=160", "data.flow.layers=2", "data.flow.width=4", "likelihood=gaussian",
    "batch_size=16",
)  # fmt: skip
LATE = ("realnvp", "zuko")  # which PyTorch 2.6 cannot trace
TORCH = tuple(int(part) for part in torch.__version__.split(".")[:2])
ODE = "solutions of a differential equation"


def autoencoder(name):
    """An autoencoder with a preset's prior, away from its initial values."""
    if name in UNETS:
        identity = composed(*PEOPLE, f"model={UNETS[name]}", f"prior={name}")
        shape = (3, 32, 32)
        identity["context"] = {"kind": "pose", "names": [str(i) for i in range(30)]}
    else:
        identity = composed(*TINY, f"prior={name}", *PRESETS[name])
        shape = (1, 8, 8)
        if name == "conditional_flow":
            identity["context"] = {"kind": "label", "names": [str(i) for i in range(10)]}
            identity["prior"]["context_dim"] = 10
        if name == "vamp":
            identity["prior"]["image_shape"] = [1, 8, 8]
    return jiggle(config.build_autoencoder(identity, shape)).eval()


def contexts(ae, n):
    if not ae.prior.context_dim:
        return None
    return torch.rand(n, ae.prior.context_dim)


# --------------------------------------------------------------------- priors as functions of noise


def test_every_preset_is_in_the_table():
    files = {path.stem for path in (ROOT / "conf" / "prior").iterdir()}
    assert files == {*PRESETS, *UNETS}


@pytest.mark.parametrize("name", [*PRESETS, *UNETS])
def test_noise_gives_the_codes_that_the_library_draws(name):
    ae = autoencoder(name)
    if name == "flow_matching":
        with pytest.raises(UserError, match=ODE):
            pushforward(ae.prior)
        return
    push = pushforward(ae.prior)
    context = contexts(ae, 40)
    for temperature in (1.0, 0.5):
        with seeded(0, "test"):
            noise = push.draw(40)
        with seeded(0, "test"):
            draw = ae.draw(40, temperature, context)
        with torch.no_grad():
            codes = push(noise, torch.tensor(temperature), context)
        assert noise.shape == (40, push.noise_dim)
        torch.testing.assert_close(codes, draw.latents, rtol=1e-4, atol=1e-4)
        assert codes.std(0).min() > 0.01


def test_the_noise_of_a_mixture_chooses_components_by_their_weights():
    prior = priors.Mixture(1, components=3)
    with torch.no_grad():
        prior.logits.copy_(torch.tensor([0.2, 0.5, 0.3]).log())
        prior.loc.copy_(torch.tensor([[-100.0], [0.0], [100.0]]))
    noise = torch.randn(20_000, 2)
    codes = pushforward(prior)(noise, torch.tensor(1.0))
    shares = [(codes < -50).float().mean(), (codes.abs() < 50).float().mean(), (codes > 50).float().mean()]
    assert torch.tensor(shares).sub(torch.tensor([0.2, 0.5, 0.3])).abs().max() < 0.02
    near = codes - 100 * (codes / 100).round()
    torch.testing.assert_close(near, noise[:, :1], rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_exports_or_says_why_not(name, tmp_path):
    ae = autoencoder(name)
    before = {key: tensor.clone() for key, tensor in ae.state_dict().items()}
    lines = []
    decoder, sampler = write_programs(ae, tmp_path, ["pt2"], lines.append)
    assert decoder.difference <= TOLERANCE
    assert len(lines) == 2
    assert all(torch.equal(before[key], tensor) for key, tensor in ae.state_dict().items())
    if name == "flow_matching":
        assert ODE in sampler.reason
        assert sorted(path.name for path in tmp_path.iterdir()) == ["decoder.pt2"]
        return
    if sampler.reason and name in LATE and TORCH < (2, 14):
        pytest.skip(f"with PyTorch {torch.__version__}: {sampler.reason}")
    assert sampler.reason == ""
    program = torch.export.load(tmp_path / "sampler.pt2").module()
    push = pushforward(ae.prior)
    context = contexts(ae, 7)
    with seeded(1, "test"):
        noise = push.draw(7)
    with seeded(1, "test"):
        draw = ae.draw(7, 0.7, context)
    inputs = [noise, torch.tensor(0.7)] if context is None else [noise, torch.tensor(0.7), context]
    images, latents = program(*inputs)
    torch.testing.assert_close(images, draw.images, rtol=0, atol=TOLERANCE)
    torch.testing.assert_close(latents, draw.latents, rtol=1e-4, atol=1e-4)
    decode = torch.export.load(tmp_path / "decoder.pt2").module()
    torch.testing.assert_close(decode(draw.latents), ae.decode(draw.latents), rtol=0, atol=TOLERANCE)


class Stubborn(priors.StandardNormal):
    """A prior that no tracer can follow: its code depends on a number."""

    def to_latent(self, z, context=None):
        return z if z.mean() > 0 else 2 * z


class Forgetful(priors.StandardNormal):
    """A prior whose map is not that of its samples."""

    def to_latent(self, z, context=None):
        return z + 1


@pytest.mark.parametrize(("prior", "reason"), [
    (Stubborn, "torch.export cannot convert it ("), (Forgetful, "its images differ from the library's by "),
])  # fmt: skip
def test_a_program_that_is_wrong_is_not_written(prior, reason, tmp_path, capfd):
    ae = autoencoder("standard_normal")
    decoder, sampler = write_programs(ae.with_prior(prior(4)), tmp_path, ["pt2"])
    assert decoder.difference <= TOLERANCE
    assert sampler.difference is None
    assert sampler.reason.startswith(reason)
    assert [path.name for path in tmp_path.iterdir()] == ["decoder.pt2"]
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("name", ["glow", "conditional_flow"])
def test_onnx_gives_the_librarys_images(name, tmp_path):
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason="ONNX is an extra: pip install 'pyro_lrp[export]'")
    import onnxruntime

    ae = autoencoder(name)
    programs = write_programs(ae, tmp_path, ["onnx"])
    assert [program.reason for program in programs] == ["", ""]
    session = onnxruntime.InferenceSession(tmp_path / "sampler.onnx")
    context = contexts(ae, 7)
    with seeded(1, "test"):
        noise = pushforward(ae.prior).draw(7)
    with seeded(1, "test"):
        draw = ae.draw(7, 0.7, context)
    inputs = {"noise": noise.numpy(), "temperature": np.array(0.7, "float32")}
    if context is not None:
        inputs["context"] = context.numpy()
    images, _ = session.run(["images", "latents"], inputs)
    np.testing.assert_allclose(images, draw.images, rtol=0, atol=TOLERANCE)
    assert not sources(tmp_path)


def test_without_its_packages_onnx_is_left_out(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    ae = autoencoder("standard_normal")
    for program in write_programs(ae, tmp_path, ["onnx"]):
        assert program.reason.endswith("pip install 'pyro_lrp[export]'")
    assert list(tmp_path.iterdir()) == []


# --------------------------------------------------------------------- the folder


def sources(folder, *others):
    """Files that hold a path of this machine."""
    marks = [f"{place}/" for place in (ROOT, Path(torch.__file__).parent, Path.home(), folder, *others)]
    found = []
    for path in folder.rglob("*"):
        if path.is_file() and any(mark.encode() in path.read_bytes() for mark in marks):
            found.append(path.name)
    return found


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a run on images of one's own, evaluated, and the folder that was exported from it."""
    folder = tmp_path_factory.mktemp("place")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("PYRO_LRP_CACHE", str(folder / "cache"))
        images = np.random.default_rng(0).integers(0, 255, (200, 1, 8, 8), dtype=np.uint8)
        (folder / "mine").mkdir()
        np.savez(folder / "mine" / "faces.npz", train_images=images[:150], test_images=images[150:])
        few = ("epochs=1", "prior_epochs=1", "device=cpu", "progress=false", "prior.width=8", "name=it")
        path = f"data.path={folder / 'mine' / 'faces.npz'}"
        pyro_lrp.train("data=npz", path, *few, "evaluate_with=[reconstruction_mse]", "batch_size=10")
        run = pyro_lrp.Run("runs/it/seed_0")
        assert run.export(folder / "shared", programs=["pt2"]) == folder / "shared"
    return folder


@pytest.fixture
def shared(place, monkeypatch):
    """The exported folder, in the folder of its run."""
    monkeypatch.chdir(place)
    monkeypatch.setenv("PYRO_LRP_CACHE", str(place / "cache"))
    return place / "shared"


def test_the_folder_is_the_run(shared, place):
    run = pyro_lrp.Run(place / "runs" / "it" / "seed_0")
    again = pyro_lrp.Run(shared)
    assert again.finished
    assert (again.step, again.settings.fingerprint) == (run.step, run.settings.fingerprint)
    for name, tensor in run.autoencoder.state_dict().items():
        assert torch.equal(tensor, again.autoencoder.state_dict()[name])
    draws = []
    for each in (run.autoencoder, pyro_lrp.load(shared)):
        torch.manual_seed(5)
        draws.append(each.draw(20, 0.8))
    assert torch.equal(draws[0].images, draws[1].images)
    assert torch.equal(draws[0].latents, draws[1].latents)
    assert torch.equal(run.codes().loc, again.codes().loc)  # the place of the data is remembered
    state = checkpoint.load(again.checkpoint_path)
    assert set(state) == {"game", "step"}
    assert all(name.startswith("autoencoder.") for name in state["game"])
    assert (shared / "checkpoints/last.safetensors").stat().st_mode == (shared / "config.yaml").stat().st_mode


def test_the_commands_take_the_folder(shared, place, monkeypatch, capsys):
    def command(name, *arguments):
        return in_process(name, *arguments, capsys=capsys, monkeypatch=monkeypatch)

    copy = place / "copy"
    shutil.copytree(shared, copy)
    for run, out in ((place / "runs/it/seed_0", "a.npz"), (copy, "b.npz")):
        code, _, err = command("sample", f"run={run}", "n=9", f"out={out}", "device=cpu")
        assert code == 0, err
    with np.load("a.npz") as first, np.load("b.npz") as second:
        assert np.array_equal(first["images"], second["images"])
    code, out, err = command(
        "evaluate", f"run={copy}", "metrics=[reconstruction_mse,scores]", "n=20", "k=2", "device=cpu"
    )
    assert code == 0, err
    assert (copy / "scores.csv").is_file()
    code, _, err = command("report", copy, "out=report")
    assert code == 0, err
    code, _, err = command("export", f"run={copy}", "out=again", "programs=[]")
    assert code == 0, err
    assert "scores" not in json.loads(Path("again/evaluation.json").read_text())
    weights = "checkpoints/last.safetensors"
    assert Path("again", weights).read_bytes() == (shared / weights).read_bytes()
    assert not Path("again/programs").exists()


def test_no_path_of_this_machine_is_in_the_folder(shared, place):
    assert yaml.safe_load((place / "runs/it/seed_0/config.yaml").read_text())["data"]["path"].startswith("/")
    assert sources(shared, place) == []
    assert sources(place / "runs", place)  # which would be found
    assert rundir.read_identity(shared)["data"]["path"] == "faces.npz"
    assert "weights" not in json.loads((shared / "summary.json").read_text())["circumstances"]
    files = {path.relative_to(shared).as_posix() for path in shared.rglob("*") if path.is_file()}
    assert files == {
        "README.md", "checkpoints/last.safetensors", "config.yaml", "evaluation.json", "figures/samples.png",
        "metrics.jsonl", "programs/decoder.pt2", "programs/sampler.pt2", "summary.json", "trained_on.npz",
    }  # fmt: skip


def test_paths_of_any_system_lose_their_folders():
    tree = {"data": {"root": "a/b", "kind": "a/b"}, "x": ["C:\\me\\x.pth", "~/x.npz", "1/255", "/"], "y": 3}
    expected = {"data": {"root": "b", "kind": "a/b"}, "x": ["x.pth", "x.npz", "1/255", ""], "y": 3}
    assert portable(tree) == expected


def test_the_folder_of_a_stranger_is_no_more_trusted_than_a_run(shared, place):
    stranger = place / "stranger"
    shutil.copytree(shared, stranger)
    identity = yaml.safe_load((stranger / "config.yaml").read_text())
    identity["prior"] = {"_target_": "os.system", "command": "touch harm"}
    (stranger / "config.yaml").write_text(yaml.safe_dump(identity))
    with pytest.raises(UserError, match="os.system is not allowed"):
        pyro_lrp.load(stranger)
    with pytest.raises(UserError, match="os.system is not allowed"):
        pyro_lrp.Run(stranger).export(place / "no")
    assert not (place / "no").exists()
    (shared / "programs" / "link").symlink_to(place / "mine")
    try:
        with pytest.raises(UserError, match="leads out of the run"):
            pyro_lrp.load(shared)
    finally:
        (shared / "programs" / "link").unlink()


def test_a_folder_that_is_not_empty_is_refused_before_any_work(shared, place, monkeypatch):
    run = pyro_lrp.Run(place / "runs" / "it" / "seed_0")
    full = place / "full"
    full.mkdir()
    (full / "file").write_text("mine")
    for out in (full, full / "file", place / "runs/it/seed_0"):
        with pytest.raises(UserError, match="exists and is not an empty folder"):
            run.export(out)
    with pytest.raises(UserError, match="cannot be written"):
        run.export(full / "file" / "below", programs=[])
    with pytest.raises(UserError, match="programs: coreml is unknown; the known ones are pt2, onnx"):
        run.export(place / "other", programs=["coreml"])
    with pytest.raises(UserError, match="is not a run directory"):
        pyro_lrp.Run(place / "nothing").export(place / "other")
    assert "identity" not in vars(pyro_lrp.Run(place / "runs/it/seed_0"))

    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(sharing.folder, "write_programs", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run.export(place / "other")
    assert not (place / "other").exists()
    assert [path for path in place.iterdir() if path.name.endswith(".tmp")] == []
    monkeypatch.undo()
    empty = place / "empty"
    empty.mkdir()
    assert (run.export(empty, programs=[]) / "config.yaml").is_file()


def test_the_command_says_what_is_wrong_and_what_it_did(train):
    train(*QUICK)
    run = only_run()
    for arguments, message in {
        (f"run={run}",): "say out=..., as in",
        ("out=x",): "say run=..., as in",
        (f"run={run}", "out=x", "onnx=true"): "unknown key onnx; the known ones are run, out, programs",
        (f"run={run}", "x"): "x is no argument: expected key=value",
        ("run=nowhere", "out=x"): "run=nowhere is not a run directory: there is no such folder",
    }.items():
        code, _, err = train(*arguments, command="export")
        assert (code, message in err) == (1, True), err
        assert not Path("x").exists()
    code, out, err = train(f"run={run}", "out=x", "programs=pt2", command="export")
    assert code == 0, err
    assert "programs/sampler.pt2: images within" in out
    assert "hf upload OWNER/NAME x" in out
    lines = train("--help", command="export")[1].splitlines()
    assert len(lines) <= 50
    assert max(map(len, lines)) <= 108


def test_a_run_that_is_not_finished_says_so_and_cannot_be_trained_on(train, interrupt_at):
    interrupt_at(4)
    slow = [key for key in QUICK if not key.startswith("epochs")]
    assert train(*slow, "epochs=3", "trainer.report_every=1", "trainer.save_minutes=0", "name=half")[0] == 130
    run = pyro_lrp.Run("runs/half/seed_0")
    lines = []
    run.export("runs/other/seed_0", programs=[], log=lines.append)
    assert lines == [f"runs/half/seed_0 is not finished; exporting step {run.step}"]
    text = Path("runs/other/seed_0/README.md").read_text()
    assert f"**Its training is not finished**: these are the weights of step {run.step}." in text
    assert "None: the run was not evaluated." in text
    assert len(pyro_lrp.load("runs/other/seed_0").sample(2)) == 2
    code, _, err = train(*slow, "epochs=3", "trainer.report_every=1", "name=other")
    assert code == 1
    assert "was exported, without the state of the optimizers" in err
    assert train(*slow, "epochs=3", "trainer.report_every=1", "name=half")[0] == 0


# --------------------------------------------------------------------- the card


def front_matter(card):
    _, text, rest = card.split("---\n", 2)
    return yaml.safe_load(text), rest


def code_blocks(card, language):
    fences = re.findall(r"^```(\w*)\n(.*?)^```$", card, flags=re.DOTALL | re.MULTILINE)
    return [content for named, content in fences if named == language]


def test_the_card_has_the_numbers_of_the_run_with_their_protocols(shared):
    text = (shared / "README.md").read_text(encoding="utf-8")
    fields, rest = front_matter(text)
    assert fields["library_name"] == "pyro_lrp"
    assert fields["pipeline_tag"] == "unconditional-image-generation"
    assert "license" not in fields  # which is its user's to choose
    assert "# license: yours to choose" in text
    results = json.loads((shared / "evaluation.json").read_text())
    final = json.loads((shared / "summary.json").read_text())["final"]
    values = {name: result["value"] for name, result in results.items()}
    values |= {name: final[name] for name in ("test/log_likelihood", "test/kl")}
    assert set(results) >= {"reconstruction_mse", "constant_image_mse"}
    marks = {}
    for name, value in values.items():
        (row,) = [line for line in rest.splitlines() if line.startswith(f"| `{name}` |")]
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert cells[1].startswith(f"{value:.4g}")
        marks[name] = cells[-1]
    (protocol,) = [
        line for line in rest.splitlines() if line.startswith(f"- **{marks['reconstruction_mse']}**")
    ]
    assert results["reconstruction_mse"]["protocol"]["images"] in protocol
    assert marks["test/kl"] != marks["reconstruction_mse"]
    assert "`fid`" in rest
    assert "reconstruction_mse" not in rest.partition("## What was not measured")[2]
    assert "![Samples of the prior, decoded](figures/samples.png)" in rest
    assert "`faces.npz`" in rest
    assert "| vae_flow |" in rest


RECORDED = sorted((ROOT / "runs" / "recorded").rglob("config.yaml"))


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.parent.name)
def test_recorded_runs_have_cards(path):
    """Those of earlier versions as well, which lack some keys and have many results."""
    results = {}
    evaluation = path.with_name("evaluation.json")
    if evaluation.is_file():
        results = json.loads(evaluation.read_text())
    identity = rundir.read_identity(path.parent)
    facts = Facts(
        identity=portable(identity),
        summary={},
        results=results,
        step=0,
        finished=True,
        condition=data.condition_of(identity.get("context")),
        programs=(),
        pictured=True,
    )
    text = card(facts)
    assert front_matter(text)[0]["library_name"] == "pyro_lrp"
    assert all(f"| `{name}` |" in text for name in results)


def test_a_card_cannot_be_written_into_by_a_run(shared):
    evil = "x\n# heading <script>"
    protocol = {"images": evil}
    facts = Facts(
        identity=rundir.read_identity(shared),
        summary={},
        results={evil: {"value": 1.0, "protocol": protocol, "verdict": evil}},
        step=0,
        finished=True,
        condition=data.Labels([evil]),
        programs=(),
        pictured=True,
    )
    text = card(facts)
    assert "\n# heading" not in text
    assert "<script>" not in re.sub(r"(?ms)^```.*?^```$", "", text)
    assert "images: x # heading &lt;script>" in text


def test_the_hub_reads_the_card(shared):
    hub_package = pytest.importorskip(
        "huggingface_hub", reason="the hub is an extra: pip install 'pyro_lrp[hub]'"
    )
    text = hub_package.ModelCard.load(shared / "README.md")
    assert text.data.library_name == "pyro_lrp"
    assert "learned-prior" in text.data.tags


def test_the_code_of_the_card_works(shared, place, monkeypatch, capsys):
    text = (shared / "README.md").read_text(encoding="utf-8").replace("FOLDER", str(shared))
    blocks = code_blocks(text, "python")
    assert len(blocks) == 2
    for block in blocks:
        names: dict = {}
        exec(compile(block, "card", "exec"), names)
        assert names["images"].shape == (16, 1, 8, 8)
    (commands,) = code_blocks(text, "")
    sample, evaluate = commands.splitlines()
    assert evaluate == f"python -m pyro_lrp.evaluate run={shared}"
    words = sample.split()
    code, _, err = in_process("sample", *words[3:], capsys=capsys, monkeypatch=monkeypatch)
    assert code == 0, err
    assert (place / "samples.png").is_file()


def test_a_conditional_run_has_a_row_for_each_class(train):
    train(*QUICK, "prior=conditional_flow", "context=label", "network=mlp", "network.hidden_dims=[8]")
    run = pyro_lrp.Run(only_run())
    run.export("shared", programs=["pt2"])
    text = Path("shared/README.md").read_text(encoding="utf-8")
    assert "| conditional on | label: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 |" in text
    assert "A context: The class of an image, one-hot" in text
    assert "and a prior p(z | label) of" in text
    assert "pipeline_tag" not in front_matter(text)[0]
    for block in code_blocks(text.replace("FOLDER", "shared"), "python"):
        names: dict = {}
        exec(compile(block, "card", "exec"), names)
        assert names["images"].shape == (16, 1, 28, 28)
    program = torch.export.load("shared/programs/sampler.pt2").module()
    context = run.condition.parse([3, 5], 6)
    push = pushforward(run.autoencoder.prior)
    with seeded(0, "test"):
        noise = push.draw(6)
    with seeded(0, "test"):
        draw = run.draw(6, context=[3, 5])
    images, _ = program(noise, torch.tensor(1.0), context)
    torch.testing.assert_close(images, draw.images, rtol=0, atol=TOLERANCE)


def test_people_in_poses(train):
    """A U-Net, whose decoder is given a pose."""
    code, _, err = train(*PEOPLE, "model=vunet_flow", "name=people", *QUICK[1:])
    assert code == 0, err
    run = pyro_lrp.Run("runs/people/seed_0")
    run.export("people", programs=["pt2"])
    text = Path("people/README.md").read_text(encoding="utf-8")
    assert "latents (n, 160), context (n, 30)" in text
    assert "noise (n, 160), temperature (), context (n, 30)" in text
    assert "A context: The joints of JOINTS, (x, y) in shares of the image's side" in text
    blocks = code_blocks(text.replace("FOLDER", "people"), "python")
    names: dict = {}
    exec(compile(blocks[0], "card", "exec"), names)
    assert names["images"].shape == (4, 3, 32, 32)
    trained = run.directory / "figures" / "samples.png"
    assert Path("people/figures/samples.png").read_bytes() == trained.read_bytes()


def test_an_adversarial_autoencoder(train):
    """Its prior is a sampler without a density, and its discriminator is no part of what is shared."""
    code, _, err = train(*QUICK, "model=aae_learned", "name=aae", "prior.width=16", "network=mlp")
    assert code == 0, err
    run = pyro_lrp.Run("runs/aae/seed_0")
    run.export("aae", programs=["pt2"])
    again = pyro_lrp.load("aae")
    images = []
    for each in (run.autoencoder, again):
        torch.manual_seed(0)
        images.append(each.sample(5))
    assert torch.equal(*images)
    assert not any(
        "discriminator" in name for name in checkpoint.load(Path("aae/checkpoints/last.safetensors"))["game"]
    )
    assert "`programs/sampler.pt2` | noise" in Path("aae/README.md").read_text(encoding="utf-8")


# --------------------------------------------------------------------- the hub


def snapshot(root, folder, commit="0123abc"):
    """The hub's cache of a repository: a folder of links to blobs."""
    place = root / "models--owner--name" / "snapshots" / commit
    blobs = root / "models--owner--name" / "blobs"
    blobs.mkdir(parents=True, exist_ok=True)
    for number, path in enumerate(sorted(p for p in folder.rglob("*") if p.is_file())):
        blob = blobs / f"{commit}{number}"
        shutil.copyfile(path, blob)
        link = place / path.relative_to(folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(blob)
    return place


@pytest.fixture
def hubs(monkeypatch, tmp_path):
    """Pretends that repositories are in the hub; returns what was asked for."""
    package = pytest.importorskip("huggingface_hub", reason="the hub is an extra: pip install 'pyro_lrp[hub]'")
    monkeypatch.setenv("PYRO_LRP_CACHE", str(tmp_path / "cache"))
    asked = []
    places = {}

    def download(repository, **options):
        asked.append((repository, options))
        if repository not in places:
            raise OSError(f"no {repository}\nand more")
        return str(places[repository])

    monkeypatch.setattr(package, "snapshot_download", download)
    return places, asked


def test_a_run_is_loaded_from_the_hub(shared, hubs, tmp_path, monkeypatch, capsys):
    places, asked = hubs
    places["owner/name"] = snapshot(tmp_path, shared)
    ae = pyro_lrp.load("hf:owner/name")
    torch.manual_seed(0)
    images = ae.sample(3)
    torch.manual_seed(0)
    assert torch.equal(images, pyro_lrp.load(shared).sample(3))
    repository, options = asked[0]
    assert (repository, options["revision"]) == ("owner/name", None)
    assert "config.yaml" in options["allow_patterns"]
    run = pyro_lrp.Run("hf:owner/name@v1.0")
    assert asked[1][1]["revision"] == "v1.0"
    assert run.directory == tmp_path / "cache" / "hub" / "owner--name" / "0123abc"
    files = {path.relative_to(run.directory).as_posix() for path in run.directory.rglob("*") if path.is_file()}
    assert files <= set(hub._FILES)
    assert not any(path.is_symlink() for path in run.directory.rglob("*"))
    (run.directory / "evaluation.json").write_text("{}")  # results of this user's stay
    assert pyro_lrp.Run("hf:owner/name").directory == run.directory
    assert (run.directory / "evaluation.json").read_text() == "{}"
    code, _, err = in_process(
        "sample",
        "run=hf:owner/name",
        "n=3",
        "out=hub.npz",
        "device=cpu",
        capsys=capsys,
        monkeypatch=monkeypatch,
    )
    assert code == 0, err
    places["owner/name"] = snapshot(tmp_path, shared, "4567def")
    assert pyro_lrp.Run("hf:owner/name").directory.name == "4567def"


def test_what_the_hub_lacks_is_one_sentence(hubs, tmp_path, monkeypatch):
    places, _ = hubs
    with pytest.raises(
        UserError, match="^hf:owner/gone cannot be fetched from the Hugging Face hub: no owner/gone$"
    ):
        pyro_lrp.load("hf:owner/gone")
    (tmp_path / "other").mkdir()
    places["owner/other"] = tmp_path / "other"
    with pytest.raises(UserError, match="hf:owner/other holds no run of this library: it has no config.yaml"):
        pyro_lrp.load("hf:owner/other")
    for name in ("hf:", "hf:owner", "hf:../x", "hf:owner/../x", "hf:owner/name@", "hf:/etc/x", "hf:a/b c"):
        with pytest.raises(UserError, match="is no repository: expected hf:OWNER/NAME"):
            pyro_lrp.Run(name)
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"hf:owner/name needs a package: pip install 'pyro_lrp\[hub\]'"):
        pyro_lrp.load("hf:owner/name")
