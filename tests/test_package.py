"""The shape of the house: imports point down, files stay readable, what is shipped is what is meant to be."""

import ast
import importlib
import re
import subprocess
import sys

import pytest
from commands import ROOT

import pyro_lrp

PACKAGE = ROOT / "pyro_lrp"
FLOORS = [
    {"core", "schedules"},
    {"people", "features"},
    {"networks", "data"},
    {"transforms", "likelihoods"},
    {"priors"},
    {"models", "testing"},
    {"objectives", "latents"},
    {"trainer", "metrics"},
    {"config"},
    {"fitting"},
    {"adapters"},
    {"figures"},
    {"reports"},
    {"sharing"},
    {"train", "sample", "evaluate", "check", "figure", "report", "fit", "export", "explore"},
    {"reproduce"},
]
FLOOR = {name: level for level, names in enumerate(FLOORS) for name in names}


def imports(path):
    """The modules of this package that a file imports, by the name of the file or folder they are in."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path} imports relatively"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "pyro_lrp" and len(parts) > 1:
                yield parts[1]


def owner(path):
    relative = path.relative_to(PACKAGE)
    return relative.parts[0].removesuffix(".py")


def violations(files):
    for path in files:
        above = owner(path)
        for below in set(imports(path)) - {above}:
            assert below in FLOOR, f"{path.name} imports {below}, which stands on no floor"
            lower = FLOOR[below] < FLOOR[above]
            if not lower:
                yield f"{path.relative_to(ROOT)} imports {below}"


def sources():
    return [p for p in PACKAGE.rglob("*.py") if p != PACKAGE / "__init__.py"]


def test_imports_point_down():
    assert list(violations(sources())) == []


def test_an_upward_and_a_sideways_import_would_be_found(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "PACKAGE", tmp_path)
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    (tmp_path / "priors.py").write_text("from pyro_lrp import models")
    (tmp_path / "trainer.py").write_text("from pyro_lrp.metrics.functional import frechet_distance")
    found = list(violations(sorted(tmp_path.glob("*.py"))))
    assert found == ["priors.py imports models", "trainer.py imports metrics"]


def test_every_module_stands_on_a_floor():
    assert {owner(path) for path in sources()} == set(FLOOR)


def test_only_config_and_the_commands_know_hydra():
    for path in sources():
        text = path.read_text(encoding="utf-8")
        if any(word in text for word in ("import hydra", "from hydra", "omegaconf")):
            assert owner(path) in {"config", "train", "sample", "evaluate", "check", "figure", "explore"}, path


def test_files_stay_below_400_lines():
    for path in sources():
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 400, path


@pytest.mark.parametrize("earlier", pyro_lrp._ALIASES)
def test_earlier_names_of_modules_are_the_modules(earlier):
    present = importlib.import_module(f"pyro_lrp.{pyro_lrp._ALIASES[earlier]}")
    assert importlib.import_module(f"pyro_lrp.{earlier}") is present
    assert getattr(pyro_lrp, earlier) is present


def test_the_root_is_small():
    """A command is no room: ``python -m pyro_lrp.NAME`` finds it at the root alone."""
    entries = [entry for entry in PACKAGE.iterdir() if entry.name != "__pycache__"]
    commands = FLOORS[-1] | FLOORS[-2]
    rooms = [entry for entry in entries if entry.stem not in commands]
    assert len(rooms) <= 23


def test_poses_stay_behind_their_door():
    """Elsewhere a pose is a condition like any other; the option of ``sample`` has a rule of its name."""
    doors = ("people/", "networks/vunet/", "figures/", "data/pose", "metrics/conditional")
    for path in sources():
        place = path.relative_to(PACKAGE).as_posix()
        text = path.read_text(encoding="utf-8").replace('"pose"', "").replace("data.pose import", "")
        assert place.startswith(doors) or not re.search(r"\bposes?\b", text), place


def test_no_context_is_an_empty_one():
    """Few places ask whether there is a context: those where users may leave it out."""
    pattern = re.compile(r"\bcontexts? is (not )?None|context_dim is (not )?None")
    lines = [line for path in sources() for line in path.read_text(encoding="utf-8").splitlines()]
    assert len([line for line in lines if pattern.search(line)]) <= 15
    assert len([line for line in lines if 'identity["' in line]) <= 10


def test_the_readme_is_one_tour():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_nothing_is_unpickled():
    for path in sources():
        text = path.read_text(encoding="utf-8")
        if path.parent.name == "features":  # official files, after their hash was checked, and tensors only
            text = re.sub(r'torch\.load\([^,]+, map_location="cpu", weights_only=True\)', "", text)
        assert "torch.load" not in text
        assert "pickle.load" not in text
        assert "allow_pickle=True" not in text


def test_the_wheel_holds_conf_and_the_sdist_no_runs():
    tomllib = pytest.importorskip("tomllib", reason="tomllib came with Python 3.11")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    targets = project["tool"]["hatch"]["build"]["targets"]
    assert targets["wheel"]["force-include"] == {"conf": "pyro_lrp/conf"}
    assert "runs" not in targets["sdist"]["only-include"]


def test_importing_changes_no_global_state():
    program = """
import pyro, torch
before = (torch.get_default_dtype(), torch.get_num_threads(), torch.get_rng_state().clone())
validation = torch.distributions.Distribution._validate_args
import pyro_lrp
from pyro_lrp import config, data, evaluate, models, networks, objectives
from pyro_lrp import priors, sample, testing, train, trainer
assert torch.get_default_dtype() == before[0] and torch.get_num_threads() == before[1]
assert torch.equal(torch.get_rng_state(), before[2])
assert torch.distributions.Distribution._validate_args == validation
assert not list(pyro.get_param_store().keys())
assert "tensorboard" not in __import__("sys").modules
assert "matplotlib" not in __import__("sys").modules
"""
    subprocess.run([sys.executable, "-W", "error:::pyro_lrp", "-c", program], check=True, cwd=ROOT)


SLOW = ("torchvision", "lpips", "pytorch_fid", "matplotlib", "sklearn", "scipy")


def test_importing_leaves_slow_packages_alone():
    """They are imported where they are used: each takes a second or more. torch and pyro need none of them."""
    program = f"""
import importlib, sys
sys.modules["zuko"] = None  # it may be missing
for room in ("priors", "likelihoods", "features", "latents", "metrics"):
    importlib.import_module(f"pyro_lrp.{{room}}")
    assert [name for name in {SLOW} if name in sys.modules] == [], room
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)


def test_submodules_are_reached_through_the_package():
    import pyro_lrp

    assert pyro_lrp.priors.Flow.__name__ == "Flow"
    assert "load" in dir(pyro_lrp)
    with pytest.raises(AttributeError, match="no attribute 'prior'"):
        _ = pyro_lrp.prior


def test_no_file_of_the_checkout_is_large():
    listing = subprocess.run(["git", "ls-files"], capture_output=True, text=True, cwd=ROOT, check=False)
    if listing.returncode:
        pytest.skip("not a git checkout")
    files = [name for name in listing.stdout.splitlines() if (ROOT / name).is_file()]
    sizes = {name: (ROOT / name).stat().st_size for name in files}
    assert [name for name, size in sizes.items() if size > 1_000_000] == []
