"""What a run and the cache hold is kept, or said to be damaged, when it is overwritten, saved or copied."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from commands import QUICK, ROOT

import pyro_lrp
from pyro_lrp import data
from pyro_lrp.config import rundir
from pyro_lrp.core import cache, checkpoint
from pyro_lrp.core.errors import UserError
from pyro_lrp.metrics.evaluation import read_evaluation

EARLIER = ROOT / "tests/earlier_runs"


def test_a_checkpoint_of_another_run_of_the_same_shapes_is_refused(train, trained_by):
    run = trained_by(*QUICK)
    shutil.copytree(run, "other")
    assert train(*QUICK, "lr=0.002", "name=b")[0] == 0
    for name in ("last", "previous"):
        shutil.copy(f"runs/b/seed_0/checkpoints/{name}.safetensors", run / "checkpoints")
    with pytest.raises(UserError, match="of a run with another configuration than this one's config.yaml"):
        pyro_lrp.load(run)
    (run / "summary.json").unlink()
    code, _, err = train(*QUICK)
    assert code == 1
    assert "of a run with another configuration" in err
    assert pyro_lrp.load("other")


def test_an_extended_and_a_moved_run_keep_their_checkpoints(train, trained_by):
    run = trained_by(*QUICK)
    assert train(*QUICK, "epochs=2", "extend=true")[0] == 0
    assert pyro_lrp.load(run.rename("moved"))


def test_a_changed_configuration_is_found_and_a_change_by_hand_has_a_way(trained_by):
    run = trained_by(*QUICK)
    path = run / "config.yaml"
    text = path.read_text()
    assert text.startswith("# checksum: ")
    path.write_text(text.replace("batch_size: 100", "batch_size: 101"))
    with pytest.raises(UserError, match=r"config.yaml is damaged: .* delete its first line"):
        pyro_lrp.load(run)
    path.write_text(path.read_text().partition("\n")[2])
    assert pyro_lrp.load(run)


def test_an_empty_summary_is_one_line_with_a_way_out(train, trained_by):
    run = trained_by(*QUICK)
    (run / "summary.json").write_text("{}")
    code, _, err = train(*QUICK)
    assert code == 1
    assert "is not the summary of a run" in err.splitlines()[-1]
    (run / "summary.json").unlink()
    assert train(*QUICK)[0] == 0
    assert json.loads((run / "summary.json").read_text())["final"]["step"] == 4


def test_an_overwrite_that_fails_half_way_leaves_the_run(train, trained_by, monkeypatch):
    run = trained_by(*QUICK)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and "lock" not in path.name}
    rename = os.rename

    def refused(source, target):
        if Path(source).name == "metrics.jsonl" and ".overwritten." in str(target):
            raise PermissionError(13, "Permission denied")
        rename(source, target)

    monkeypatch.setattr(os, "rename", refused)
    code, _, err = train(*QUICK, "overwrite=true")
    assert code == 1
    assert "cannot be written (Permission denied)" in err
    assert {path: path.read_bytes() for path in before} == before
    monkeypatch.undo()


def test_a_checkpoint_is_read_while_another_process_replaces_it(tmp_path, monkeypatch):
    checkpoint.rotate_and_save(tmp_path, {"step": 1})
    load = checkpoint.load
    saves = iter((2, 3))

    def load_late(path):
        step = next(saves, None)
        if step is not None:
            checkpoint.rotate_and_save(tmp_path, {"step": step})
            (tmp_path / "last.safetensors").rename(tmp_path / "previous.safetensors")
        return load(path)

    monkeypatch.setattr(checkpoint, "load", load_late)
    path, state = checkpoint.load_latest(tmp_path)
    assert (path.name, state["step"]) == ("previous.safetensors", 3)  # the first one vanished


def test_advice_about_a_damaged_checkpoint_names_an_intact_one(tmp_path):
    for step in range(2):
        checkpoint.rotate_and_save(tmp_path, {"step": step, "w": torch.ones(3)})
    last = tmp_path / "last.safetensors"
    previous = tmp_path / "previous.safetensors"
    last.write_bytes(last.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"delete it to go on from previous.safetensors, which is intact"):
        checkpoint.load_latest(tmp_path)
    previous.write_bytes(b"")
    for path in (last, previous):
        with pytest.raises(UserError, match="start anew with overwrite=true") as raised:
            checkpoint.load_to_resume(path)
        assert "go on from" not in str(raised.value)


def test_results_go_elsewhere_and_damaged_ones_are_named(train, trained_by):
    run = trained_by(*QUICK)
    options = (f"run={run}", "metrics=[reconstruction_mse]")
    assert train(*options, "out=results.json", command="evaluate")[0] == 0
    assert not (run / "evaluation.json").exists()
    assert "reconstruction_mse" in read_evaluation(Path("results.json"))
    for out, said in (("x.txt", "must be a file that ends in .json"), ("no/x.json", "there is no folder no")):
        code, _, err = train(*options, f"out={out}", command="evaluate")
        assert code == 1
        assert said in err
    stored = json.loads(Path("results.json").read_text())
    stored["reconstruction_mse"]["value"] *= 2
    Path("results.json").write_text(json.dumps(stored))
    code, _, err = train(*options, "out=results.json", command="evaluate")
    assert code == 1
    assert "results.json: reconstruction_mse is damaged" in err


def test_a_damaged_directory_of_a_zip_loses_no_array(trained_by):
    run = trained_by(*QUICK)
    path = run / "trained_on.npz"
    content = bytearray(path.read_bytes())
    entry = content.find(b"PK\x01\x02")
    content[entry + 30] |= 0x40  # the entry is longer by the length of the next one
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"trained_on.npz (is damaged|is not readable)"):
        rundir.read_trained_on(run)


def test_temporaries_of_processes_that_have_ended_are_removed(tmp_path, monkeypatch):
    monkeypatch.setenv("PYRO_LRP_CACHE", str(tmp_path))
    first = cache.cache_file("images", "a.npy")
    with cache.locked(first):
        orphan = first.with_name(".a.json.0123.tmp")
        orphan.write_text("part")
    living = cache.cache_file("images", "b.npy")
    with cache.locked(living):
        own = living.with_name(".b.npy.0123.tmp")
        own.write_text("part")
        with cache.locked(cache.cache_file("images", "c.npy")):
            assert not orphan.exists()
    assert not own.exists() or own.read_text() == "part"


def test_one_flipped_bit_in_the_cache_is_found(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("PYRO_LRP_CACHE", str(tmp_path))
    first = data.posed_figures(2, image_size=32, test=1).train.fingerprint()
    for file in (tmp_path / "images").glob("*.npy"):
        content = bytearray(file.read_bytes())
        content[-100] ^= 1
        file.write_bytes(content)
    assert data.posed_figures(2, image_size=32, test=1).train.fingerprint() == first
    assert "does not match its checksum" in caplog.messages[0]


@pytest.mark.parametrize("run", sorted(path.name for path in EARLIER.iterdir()))
def test_runs_of_earlier_versions_load(run, tmp_path):
    """Each folder was written by the version in its name, and says what its model computed then."""
    directory = tmp_path / run
    shutil.copytree(EARLIER / run, directory)
    expected = json.loads((directory / "computed.json").read_text())
    ae = pyro_lrp.load(directory)
    z = torch.linspace(-1, 1, 8).reshape(2, 4)
    assert torch.allclose(ae.prior().log_prob(z), torch.tensor(expected["log_prob"]), atol=1e-4)
    assert torch.allclose(ae.decode(z).mean((1, 2, 3)), torch.tensor(expected["decoded"]), atol=1e-4)
    opened = pyro_lrp.Run(directory)
    assert opened.summary["final"]["step"] == opened.step == expected["step"]
    assert rundir.read_identity(directory)["latent_dim"] == 4
    assert read_evaluation(directory / "evaluation.json").keys() >= {"reconstruction_mse"}
    assert opened.codes().loc.shape == (120, 4)
