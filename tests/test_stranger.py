"""A run may come from a stranger: whatever its files say, opening it builds a model and does nothing else."""

import functools
import importlib
import inspect
import json
import os
import pkgutil
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from commands import ROOT, only_run
from torch import nn
from torch.distributions import Distribution, Transform

import pyro_lrp
from pyro_lrp import config
from pyro_lrp.config import allowed, bounds, rundir
from pyro_lrp.core import files
from pyro_lrp.core.errors import UserError, printable

QUICK = ("data=fake", "epochs=1", "prior_epochs=1", "device=cpu", "progress=false", "trainer.evaluations=1")
PREFIXES = (  # everything below these was allowed once
    "pyro_lrp.data", "pyro_lrp.likelihoods", "pyro_lrp.models", "pyro_lrp.networks", "pyro_lrp.objectives",
    "pyro_lrp.priors", "pyro_lrp.schedules", "pyro_lrp.transforms", "pyro.distributions", "pyro.nn", "torch.nn",
    "torch.distributions", "zuko.flows",
)  # fmt: skip
KINDS = (*(Distribution, Transform, nn.Module), *allowed._KINDS)


def modules():
    for prefix in PREFIXES:
        root = importlib.import_module(prefix)
        yield root
        for info in pkgutil.walk_packages(getattr(root, "__path__", []), f"{prefix}."):
            try:
                yield importlib.import_module(info.name)
            except Exception:
                continue  # not importable here, so not callable either


def reachable():
    """Dotted names of all callables that the old prefixes let through, methods included."""
    for module in modules():
        for name, value in vars(module).items():
            if name.startswith("_") or not callable(value):
                continue
            yield f"{module.__name__}.{name}"
            if inspect.isclass(value):
                methods = (method for method in dir(value) if not method.startswith("_"))
                yield from (f"{module.__name__}.{name}.{method}" for method in methods)


def test_all_that_was_reachable_is_refused_but_the_list():
    targets = set(reachable())
    assert len(targets) > 2000
    listed = allowed.allowed_targets()
    assert listed <= targets
    for target in targets - listed:
        with pytest.raises(
            UserError, match=r"prior: _target_ .* is not allowed; if you trust that code, say allow"
        ):
            allowed.find(target, "prior")


def test_all_that_is_listed_is_harmless_by_kind():
    for target in allowed.allowed_targets():
        home, _, name = target.rpartition(".")
        found = getattr(importlib.import_module(home), name)
        if home == "pyro_lrp.data":
            assert name in allowed.DATA_SETS
        elif home.startswith("pyro_lrp."):
            assert found.__module__.startswith("pyro_lrp.")  # ours, not something it imported
        elif inspect.isclass(found):
            assert issubclass(found, KINDS)
        else:
            assert home == "pyro.distributions.transforms"
            assert name in allowed._FACTORIES
            assert found.__module__.startswith("pyro.distributions.transforms")


HELPERS = (
    "torch.nn.cpp", "torch.nn.utils", "torch.nn.parallel", "torch.nn.functional", "torch.nn.init",
    "torch.distributions.utils", "pyro.distributions.torch_patch", "pyro.distributions.util",
    "pyro.distributions.testing",
)  # fmt: skip


@pytest.mark.parametrize("module", HELPERS)
def test_no_listed_name_is_of_a_module_of_helpers(module):
    assert not [target for target in allowed.allowed_targets() if target.startswith(f"{module}.")]


def test_data_sets_are_built_as_data_alone():
    assert allowed.find("pyro_lrp.data.digits", "data")
    for name in ("prior", "network", "data.labels"):
        with pytest.raises(UserError, match="is not allowed"):
            allowed.find("pyro_lrp.data.folder", name)
    for reader in ("pictures", "with_context", "chunks", "ImageData"):
        with pytest.raises(UserError, match="is not allowed"):
            allowed.find(f"pyro_lrp.data.{reader}", "data")


def test_what_is_trusted_is_trusted_without_what_it_imports(tmp_path, monkeypatch):
    (tmp_path / "my_parts.py").write_text("import os\nfrom os import system\ndef mine(): ...\n")
    (tmp_path / "my_parts_evil.py").write_text("def mine(): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    for trusted in ("my_parts", "my_parts.", "my_parts.mine"):
        assert allowed.find("my_parts.mine", "prior", [trusted]).__name__ == "mine"
    for target in ("my_parts.os.system", "my_parts.system", "my_parts_evil.mine", "my_parts._private"):
        with pytest.raises(UserError, match=rf"{target} is not allowed.*allow_targets=\[my_parts"):
            allowed.find(target, "prior", ["my_parts"])
    with pytest.raises(UserError, match=r"my_parts.none cannot be imported"):
        allowed.find("my_parts.none", "prior", ["my_parts"])


NORMAL = {"_target_": "pyro_lrp.priors.StandardNormal"}
DIRECTIVES = {
    "self": ({**NORMAL, "self": 1}, "must not give self"),
    "positions": ({**NORMAL, "_args_": [8]}, "_args_ is not allowed for pyro_lrp.priors.StandardNormal"),
    "positions of a dict": ({"_target_": "torch.nn.Sequential", "_args_": {"a": 1}}, "_args_ is not allowed"),
    "convert": ({**NORMAL, "_convert_": "none"}, "_convert_ is not allowed"),
    "recursive": ({**NORMAL, "_recursive_": False}, "_recursive_ is not allowed"),
    "partial": ({**NORMAL, "_partial_": "yes"}, "_partial_ must be true or false"),
    "target": ({"_target_": ["os.system"]}, "_target_ must be a dotted name"),
    "inside a list": (
        {**NORMAL, "x": [{"y": {"_target_": "os.system"}}]},
        r"prior.x.0.y: _target_ os.system is",
    ),
    "key": ({**NORMAL, "${oc.env:HOME}": 1}, "is an interpolation"),
    "value": ({**NORMAL, "dim": ["${oc.env:HOME}"]}, "is an interpolation"),
}


@pytest.mark.parametrize("name", DIRECTIVES)
def test_directives_that_steer_hydra_are_refused(name):
    node, message = DIRECTIVES[name]
    with pytest.raises(UserError, match=message):
        allowed.check_node(node, "prior")
    allowed.check_node({"_target_": "torch.nn.Sequential", "_args_": [{"_target_": "torch.nn.Tanh"}]}, "prior")


@pytest.fixture
def strangers_run(train):
    """A trained run, and a function that rewrites its configuration by a change of a dict."""
    train(*QUICK)
    run = only_run()
    original = yaml.safe_load((run / "config.yaml").read_text())

    def rewrite(**changes):
        (run / "config.yaml").write_text(yaml.safe_dump({**original, **changes}, sort_keys=False))
        return run

    return rewrite


def test_chains_of_innocent_names_are_refused(strangers_run):
    """A decorator applied by a method, attributes by a wrapper, a compiler as an option: each once ran code."""
    softplus = {"_target_": "torch.nn.Softplus"}
    chains = [
        {"_target_": "torch.nn.Module.apply", "self": softplus,
         "fn": {"_target_": "pyro.distributions.torch_patch.patch_dependency", "target": "torch.os"}},
        {"_target_": "torch.nn.cpp.OrderedDictWrapper", "cpp_module": softplus, "attr": "__globals__"},
        {"_target_": "torch.nn.Module.apply", "self": softplus,
         "fn": {"_target_": "torch.nn.Module.compile", "_partial_": True, "options": {"cpp.cxx": ["evil"]}}},
        {"_target_": "torch.nn.utils.stateless.functional_call", "module": softplus, "args": "id"},
        {"_target_": "torch.nn.ParameterDict", "parameters": {"forward": softplus}},
    ]  # fmt: skip
    network = {"_target_": "pyro_lrp.networks.mlp", "_partial_": True, "hidden_dims": [8]}
    for chain in chains:
        run = strangers_run(network={**network, "hidden_dims": [chain]})
        with pytest.raises(UserError, match=r"network.hidden_dims.0: _target_ .* is not allowed"):
            pyro_lrp.load(run)


def test_a_run_cannot_allow_its_own_targets(strangers_run):
    for target in ("os.system", "builtins.eval", "torch.hub.load", "pyro_lrp.data.mnist._download"):
        run = strangers_run(
            prior={"_target_": target}, allow_targets=["os.", "builtins.", "torch.", "pyro_lrp."]
        )
        with pytest.raises(UserError, match="is not allowed"):
            pyro_lrp.load(run)


def test_what_a_run_prints_cannot_steer_the_terminal(train, strangers_run):
    run = strangers_run(prior={"_target_": "os.\x1b[2Jsystem"})
    code, _, err = train(f"run={run}", command="sample")
    assert code == 1
    assert "\x1b" not in err
    assert "os.?[2Jsystem is not allowed" in err
    assert printable("ä\n\tπ") == "ä\n\tπ"


# --------------------------------------------------------------------- sizes

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
        "asks for more than 200,000 tensors",
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
    functools.partial(nn.Linear, 2**16, 2**16), lambda: [nn.Linear(2**13, 2**13) for _ in range(20)],
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


# --------------------------------------------------------------------- files

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
    assert """'data.path=mine it'"'"'s.npz'""" in out  # pasted, it works
    wanted = (f"run={run}", "metrics=[reconstruction_mse]", "device=cpu", "progress=false")
    code, _, err = train(*wanted, command="evaluate")
    assert code == 1
    assert "data.path: this run was trained on mine it's.npz; say data.path=..." in err
    code, _, err = train(*wanted, "data.path=mine it's.npz", command="evaluate")
    assert code == 0, err
    assert train(f"run={run}", "n=2", command="sample")[0] == 0  # which needs no data
    assert len(pyro_lrp.load(run).sample(2)) == 2


# --------------------------------------------------------------------- links


LINKS = (".evaluation.json.tmp", "evaluation.json", "train.log", "metrics.jsonl", "summary.json", "samples",
         "figures", "checkpoints/.last.safetensors.tmp", "figures/prior.png", "tensorboard")  # fmt: skip


@pytest.mark.parametrize("name", LINKS)
def test_links_out_of_a_run_are_refused_before_anything_is_written(train, name):
    train(*QUICK)
    run = only_run()
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


def test_links_within_a_run_and_to_a_run_are_followed(train):
    train(*QUICK)
    run = only_run()
    (run / "latest.safetensors").symlink_to("checkpoints/last.safetensors")
    Path("alias").symlink_to(run)
    assert len(pyro_lrp.load("alias").sample(2)) == 2
    assert train("run=alias", "n=2", command="sample")[0] == 0


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


def test_temporaries_of_a_killed_run_are_swept(train):
    train(*QUICK)
    run = only_run()
    left = run / "checkpoints" / ".fresh.safetensors.0123456789abcdef.tmp"
    left.write_bytes(b"half a checkpoint")
    assert train(*QUICK)[0] == 0
    assert not left.exists()


def test_deep_json_is_one_line(train):
    train(*QUICK)
    run = only_run()
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
