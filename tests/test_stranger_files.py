"""A run may come from a stranger: its sizes, its YAML, its links and the files that it names."""

import functools
import json
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from commands import QUICK, ROOT, only_run
from torch import nn

import pyro_lrp
from pyro_lrp import config
from pyro_lrp.config import bounds, rundir
from pyro_lrp.core import checkpoint, files
from pyro_lrp.core.errors import UserError

FLOW = {"_target_": "pyro_lrp.priors.paper_flow", "dim": 8, "layers": 2, "width": 32}


STACK = {"_target_": "pyro_lrp.priors.Flow", "dim": 8}


MIXTURE = {"_target_": "pyro_lrp.priors.Mixture", "dim": 8, "components": 10}


PERMUTE = {"_target_": "pyro.distributions.transforms.permute", "_partial_": True, "input_dim": 8}


MLP = {"_target_": "pyro_lrp.networks.mlp", "_partial_": True, "hidden_dims": [8]}


TOO_LARGE = {
    "width": ({"prior": {**FLOW, "width": 10**9}}, r"prior.width must be at most 10,000,000, got 1000000000"),
    "layers": ({"prior": {**FLOW, "layers": 10**9}}, r"prior.layers must be at most 10,000, got"),
    "layers, less": ({"prior": {**FLOW, "layers": 10**6}}, r"prior.layers must be at most 10,000, got"),
    "components": ({"prior": {**MIXTURE, "components": 10**9}}, r"prior.components must be at most 10,000"),
    "product": ({"prior": {**FLOW, "width": 10**6, "layers": 24}}, "the model of this configuration asks for"),
    "hidden": ({"network": {**MLP, "hidden_dims": [10**9]}}, r"network.hidden_dims must be at most"),
    "hidden product": ({"network": {**MLP, "hidden_dims": [10**5, 10**5]}}, "asks for 10,0"),
    "tensors": (
        {
            "prior": {
                "_target_": "pyro_lrp.priors.Flow",
                "dim": 8,
                "layers": 10_000,
                "transforms": 50 * [PERMUTE],
            }
        },
        "asks for more than 10,000 tensors",
    ),
    "image": ({"image_shape": [1, 10**9, 28]}, "image_shape must be at most"),
    "image product": ({"image_shape": [3, 10**5, 10**5]}, "numbers"),
    "latent": ({"latent_dim": 10**9}, "latent_dim must be at most"),
    "negative": ({"prior": {**FLOW, "width": -(10**9)}}, r"prior.width must be at most"),
}


@pytest.mark.parametrize("name", TOO_LARGE)
def test_a_run_that_asks_for_too_much_is_refused_before_it_is_built(strangers_run, name):
    changes, message = TOO_LARGE[name]
    run = strangers_run(**changes)
    with pytest.raises(UserError, match=message):
        pyro_lrp.load(run)


def test_numbers_that_are_too_large_are_refused_at_once(strangers_run):
    run = strangers_run(prior={**FLOW, "width": 10**9})
    start = time.process_time()
    with pytest.raises(UserError):
        pyro_lrp.load(run)
    assert time.process_time() - start < 1


@pytest.mark.parametrize("make", [
    functools.partial(torch.zeros, 2**16, 2**16), functools.partial(torch.eye, 2**16),
    functools.partial(torch.empty, (2**31,)), lambda: torch.zeros(2**12).repeat(2**12, 2**10),
    lambda: torch.zeros(1).new_zeros(2**16, 2**16), functools.partial(torch.arange, 2**31),
    functools.partial(nn.Linear, 2**16, 2**16), lambda: [torch.empty(2**26) for _ in range(20)],
])  # fmt: skip
def test_a_budget_sees_tensors_before_they_are_made(make):
    with pytest.raises(UserError, match="asks for"), bounds.Budget("it"):
        make()


def test_data_that_are_made_are_bounded(strangers_run):
    data = {"_target_": "pyro_lrp.data.fake", "n": 10**6, "image_shape": [3, 10**4, 10**4]}
    identity = rundir.read_identity(strangers_run(data=data))
    with pytest.raises(UserError, match="data: n and image_shape ask for"):
        config.build_data(identity, {})
    people = {"_target_": "pyro_lrp.data.posed_figures", "n": 10**6, "image_size": 256}
    with pytest.raises(UserError, match="data.n and data.test ask for"):
        config.build_data({**identity, "data": people}, {})


LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join(9 * [f'*{old}'])}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


MERGES = "a: &a {x: 1}\n" + "".join(
    f"{new}: &{new} {{<<: [{', '.join(9 * [f'*{old}'])}]}}\n"
    for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


CHAIN = "a0: &a0 [x]\n" + "".join(f"a{i + 1}: &a{i + 1} [*a{i}]\n" for i in range(60))


STRANGE = {
    "laughs": (LAUGHS, "holds more than 20,000 values"),
    "merges": (MERGES, "holds more than 20,000 values"),
    "a cycle": ("a: &a [*a]\n", "nested more than 40 levels deep"),
    "a chain": (CHAIN, "nested more than 40 levels deep"),
    "depth": ("[" * 20_000, "is not readable YAML|nested"),
    "size": ("a: " + 2**20 * "x", "larger than a configuration can be"),
    "a date": ("a: 2020-01-01\n", "holds a date"),
    "bytes": ("a: !!binary aGk=\n", "holds a bytes"),
    "a tag": ("a: !!python/object/apply:os.system [id]\n", "is not readable YAML"),
    "a digit too many": (f"a: {5000 * '9'}\n", "is not readable YAML|configuration of a run"),
}


@pytest.mark.parametrize("name", STRANGE)
def test_yaml_that_explodes_is_refused(tmp_path, name):
    text, message = STRANGE[name]
    (tmp_path / "config.yaml").write_text(text)
    start = time.process_time()
    with pytest.raises(UserError, match=message):
        rundir.read_identity(tmp_path)
    assert time.process_time() - start < 5


def test_aliases_as_yaml_writes_them_are_read(tmp_path):
    shared = [1, 2]
    (tmp_path / "a.yaml").write_text(yaml.safe_dump({"a": shared, "b": shared}))
    assert bounds.read_yaml(tmp_path / "a.yaml") == {"a": [1, 2], "b": [1, 2]}


FIELDS = {
    "a preset that is a path": (
        {"presets": {"data": "../../x"}},
        "presets must be names of presets, not paths",
    ),
    "an absolute preset": ({"presets": {"data": "/etc/x"}}, "presets must be names of presets, not paths"),
    "a hidden preset": ({"presets": {"data": ".x"}}, "presets must be names of presets, not paths"),
    "a preset that is no name": ({"presets": {"data": ["x"]}}, "presets must be names of presets, not paths"),
    "a shape": ({"image_shape": [1, "28", 28]}, "image_shape must be three whole numbers"),
    "a length": ({"latent_dim": "8"}, "latent_dim must be a whole number"),
    "a node": ({"prior": "os.system"}, "prior must be a node"),
    "a context": ({"context": ["label"]}, "context must have a kind and a list of names"),
}


@pytest.mark.parametrize("name", FIELDS)
def test_fields_of_a_run_are_what_they_must_be(strangers_run, name):
    changes, message = FIELDS[name]
    with pytest.raises(UserError, match=message):
        pyro_lrp.load(strangers_run(**changes))


def test_a_preset_cannot_read_the_environment(tmp_path):
    """A file beside the package's presets is found by its name alone."""
    (tmp_path / "x.yaml").write_text("data: {root: '${oc.env:HOME}'}")
    up = os.path.relpath(tmp_path / "x", ROOT / "conf" / "data")
    assert config.default_data_root({"presets": {"data": up}}) is None


def test_a_file_that_a_run_names_is_not_opened_unless_it_is_typed(train, tmp_path):
    images = np.random.default_rng(0).integers(0, 255, (60, 1, 8, 8), dtype=np.uint8)
    np.savez("mine it's.npz", train_images=images[:40], test_images=images[40:])
    few = ("epochs=1", "prior_epochs=1", "batch_size=10", "device=cpu", "progress=false", "prior.width=8")
    code, out, err = train("data=npz", "data.path=mine it's.npz", *few)
    assert code == 0, err
    run = only_run()
    assert "evaluate run=" in out
    shutil.rmtree("cache/runs")  # as if it were a stranger's: the user's own are remembered
    wanted = (f"run={run}", "metrics=[reconstruction_mse]", "device=cpu", "progress=false")
    code, _, err = train(*wanted, command="evaluate")
    assert code == 1
    assert "data.path: this run was trained on mine it's.npz; say data.path=..." in err
    code, _, err = train(*wanted, "data.path=mine it's.npz", command="evaluate")
    assert code == 0, err
    assert train(f"run={run}", "n=2", command="sample")[0] == 0  # which needs no data
    assert len(pyro_lrp.load(run).sample(2)) == 2


LINKS = (".evaluation.json.tmp", "evaluation.json", "train.log", "metrics.jsonl", "summary.json", "samples",
         "figures", "checkpoints/.last.safetensors.tmp", "figures/prior.png", "tensorboard")  # fmt: skip


@pytest.mark.parametrize("name", LINKS)
def test_links_out_of_a_run_are_refused_before_anything_is_written(train, trained_by, name):
    run = trained_by(*QUICK)
    Path("precious").mkdir()
    Path("precious/file").write_text("my own")
    target = Path("precious") if "." not in name.lstrip(".") else Path("precious/file")
    place = run / name
    shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)
    place.symlink_to(target.resolve())
    for command, arguments in {
        "evaluate": (f"run={run}", "metrics=[reconstruction_mse]"),
        "sample": (f"run={run}", "n=2"),
        "train": QUICK,
    }.items():
        code, _, err = train(*arguments, command=command)
        assert code == 1
        assert f"{place} is a link that leads out of the run" in err
    with pytest.raises(UserError, match="leads out of the run"):
        pyro_lrp.load(run)
    assert [path.name for path in Path("precious").iterdir()] == ["file"]
    assert Path("precious/file").read_text() == "my own"


def test_links_within_a_run_and_to_a_run_are_followed(train, trained_by):
    run = trained_by(*QUICK)
    (run / "latest.safetensors").symlink_to("checkpoints/last.safetensors")
    Path("alias").symlink_to(run)
    assert len(pyro_lrp.load("alias").sample(2)) == 2
    assert train("run=alias", "n=2", command="sample")[0] == 0


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_a_checkpoint_may_be_read_by_whom_the_user_lets_read_files(tmp_path, mask):
    path = tmp_path / "last.safetensors"
    before = os.umask(mask)
    try:
        checkpoint.save(path, {"step": 1, "x": torch.zeros(3)})
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask


def test_a_write_follows_no_link_and_leaves_no_temporary(tmp_path):
    mine = tmp_path / "mine"
    mine.write_text("my own")
    path = tmp_path / "a.json"
    path.symlink_to(mine)
    (tmp_path / ".a.json.tmp").symlink_to(mine)
    files.write_atomically(path, lambda target: target.write_text("new"))
    assert (path.read_text(), mine.read_text(), path.is_symlink()) == ("new", "my own", False)
    umask = os.umask(0)
    os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask

    def fail(target):
        target.write_text("half")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        files.write_atomically(path, fail)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".a.json.tmp", "a.json", "mine"]


def test_temporaries_of_a_killed_run_are_swept(train, trained_by):
    run = trained_by(*QUICK)
    left = run / "checkpoints" / ".fresh.safetensors.0123456789abcdef.tmp"
    left.write_bytes(b"half a checkpoint")
    assert train(*QUICK)[0] == 0
    assert not left.exists()


def test_deep_json_is_one_line(train, trained_by):
    run = trained_by(*QUICK)
    (run / "evaluation.json").write_text("[" * 100_000)
    code, _, err = train(f"run={run}", "metrics=[reconstruction_mse]", command="evaluate")
    assert code == 1
    assert "evaluation.json is not readable JSON" in err


RECORDED = sorted((ROOT / "runs" / "recorded").rglob("config.yaml"))


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.parent.name)
def test_runs_recorded_before_are_still_built(path):
    identity = rundir.read_identity(path.parent)
    autoencoder = config.build_autoencoder(identity, identity["image_shape"])
    assert autoencoder.prior.event_shape == (identity["latent_dim"],)
    assert json.dumps(identity["presets"])
