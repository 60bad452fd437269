"""A run may come from a stranger: whatever its files say, opening it builds a model and does nothing else."""

import importlib
import inspect
import pkgutil

import pytest
from torch import nn
from torch.distributions import Distribution, Transform

import pyro_lrp
from pyro_lrp.config import allowed
from pyro_lrp.core.errors import UserError, printable

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


def test_what_calls_its_arguments_is_for_python_alone():
    with pytest.raises(UserError, match="is not allowed"):
        allowed.find("pyro_lrp.models.from_parts", "autoencoder")
    assert allowed.find("pyro_lrp.models.Autoencoder", "autoencoder")


def test_data_sets_are_built_as_data_alone():
    assert allowed.find("pyro_lrp.data.digits", "data")
    for name in ("prior", "network", "data.labels"):
        with pytest.raises(UserError, match="is not allowed"):
            allowed.find("pyro_lrp.data.folder", name)
    for reader in ("pictures", "with_context", "chunks", "ImageData"):
        with pytest.raises(UserError, match="is not allowed"):
            allowed.find(f"pyro_lrp.data.{reader}", "data")


def test_what_is_trusted_is_trusted_without_what_it_imports(tmp_path, monkeypatch):
    (tmp_path / "my_parts.py").write_text("import os\nfrom os import system\ndef mine(): ...\nSIZE = 3\n")
    (tmp_path / "my_parts_evil.py").write_text("def mine(): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    for trusted in ("my_parts", "my_parts.", "my_parts.mine"):
        assert allowed.find("my_parts.mine", "prior", [trusted]).__name__ == "mine"
    imported = "its module imports it from (posix|nt), which allow_targets does not name"
    for target, reason in {
        "my_parts.os.system": imported,
        "my_parts.system": imported,
        "my_parts_evil.mine": r"if you trust that code, say allow_targets=\[my_parts_evil.\]",
        "my_parts._private": "names that begin with _ are private",
        "my_parts.SIZE": "it is no class and no function",
    }.items():
        with pytest.raises(UserError, match=rf"{target} is not allowed(: |; ){reason}$"):
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


# --------------------------------------------------------------------- files


# --------------------------------------------------------------------- links
