"""What all tests share: few threads, a clean parameter store, the folder of real data if there is one."""

import copy
import os
import shutil
from pathlib import Path

import pyro
import pytest
import torch
import yaml
from builders import jiggle, small_autoencoder
from commands import QUICK, Unread, in_process
from hydra._internal.config_repository import CachingConfigRepository
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.plugins import Plugins

from pyro_lrp.data import conditions
from pyro_lrp.trainer.history import History

# Two workers of one thread take half the time of one worker of two; alone (pytest -n 0) it may have both.
_most = 1 if "PYTEST_XDIST_WORKER" in os.environ else int(os.environ.get("OMP_NUM_THREADS", "2"))
torch.set_num_threads(min(_most, os.cpu_count() or 1))
SHARED = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session", autouse=True)
def _files_are_parsed_once():
    """Hydra parses each configuration file once, not in each of a thousand commands, unless it has changed."""
    Plugins.instance()  # finds the kinds of sources
    with pytest.MonkeyPatch.context() as patch:
        for scheme in ("file", "pkg"):
            kind = SourcesRegistry.instance().resolve(scheme)
            patch.setattr(kind, "load_config", _once(kind.load_config))
        patch.setattr(CachingConfigRepository, "__init__", _sources_of)
        yield


def _sources_of(repository, delegate):
    """In the place of its constructor, which copies all structured configurations that Hydra knows as well."""
    repository.delegate = copy.copy(delegate)
    repository.cache = {}


def _once(load):
    """``load_config`` of a kind of sources, which copies what it knows."""
    loaded = {}

    def load_once(source, config_path):
        path = Path(source.path, source._normalize_file_name(config_path))
        key = [source.path, source.provider, config_path]
        if path.is_file():
            status = path.stat()
            key += [status.st_ino, status.st_mtime_ns, status.st_size]
        if tuple(key) not in loaded:
            loaded[tuple(key)] = load(source, config_path)
        return copy.deepcopy(loaded[tuple(key)])

    return load_once


@pytest.fixture(autouse=True)
def _fresh_state():
    pyro.clear_param_store()
    torch.manual_seed(0)
    kinds = dict(conditions._KINDS)
    yield
    conditions._KINDS.clear()
    conditions._KINDS.update(kinds)  # without those that a test defined


@pytest.fixture(scope="module", autouse=True)
def _no_curves(request):
    """Trainings in this process draw neither curves nor an animation, which take longer than a small one."""
    with pytest.MonkeyPatch.context() as patch:
        if "watching" not in request.path.name:
            patch.setattr("pyro_lrp.figures.training.training_curves", lambda rows, unit: None)
            patch.setattr("pyro_lrp.figures.training.save_progress", lambda directory, rows: None)
        yield


@pytest.fixture
def ae():
    """An autoencoder of 8x8 images in float64, away from its initial values: for comparisons of gradients."""
    return jiggle(small_autoencoder(learn_gamma=True)).double()


@pytest.fixture
def x():
    """Six images for :func:`ae`."""
    return torch.rand(6, 1, 8, 8, dtype=torch.float64)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Where MNIST and the rest lie: beside the checkout, or in $PYRO_LRP_DATA."""
    root = SHARED if SHARED.is_dir() else Path(os.environ.get("PYRO_LRP_DATA", "/nonexistent"))
    if not (root / "MNIST" / "raw").is_dir():
        pytest.skip("needs MNIST in ../shared/data or in $PYRO_LRP_DATA")
    return root


@pytest.fixture(scope="session")
def lend_cache(tmp_path_factory):
    """Fills an empty folder of a cache with the decoded images and the trained classifiers of other tests.

    Their names are fingerprints of what they were made from, so that none is taken for another.
    """
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # that of all workers

    def lend(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for room in ("images", "classifiers", "locks"):
            shared = base / "lent" / room
            shared.mkdir(parents=True, exist_ok=True)
            (folder / room).symlink_to(shared)
        return folder

    return lend


@pytest.fixture
def train(tmp_path, monkeypatch, capsys, lend_cache):
    """Runs a command, ``train`` unless another is named, in an empty folder: ``(code, stdout, stderr)``."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYRO_LRP_CACHE", str(lend_cache(tmp_path / "cache")))

    def run(*arguments, command="train"):
        return in_process(command, *arguments, capsys=capsys, monkeypatch=monkeypatch)

    return run


@pytest.fixture(scope="session")
def _trained_once(tmp_path_factory, lend_cache):
    """The folder where a training has run, which runs once for its arguments."""
    folders = {}

    def folder(arguments):
        if arguments not in folders:
            place = tmp_path_factory.mktemp("trained")
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(place)
                patch.setenv("PYRO_LRP_CACHE", str(lend_cache(place / "cache")))
                code, _, _ = in_process("train", *arguments, capsys=Unread(), monkeypatch=patch)
            assert code == 0
            folders[arguments] = place
        return folders[arguments]

    return folder


@pytest.fixture
def trained_by(train, _trained_once, capsys):
    """Puts into the current folder what a training writes, for tests of what comes after it.

    ``run = trained_by(*QUICK)`` is ``train(*QUICK)``, but for the time it takes.
    """

    def copied(*arguments):
        place = _trained_once(arguments)
        capsys.readouterr()  # nobody asked for what the first training printed
        shutil.copytree(place / "runs", "runs", dirs_exist_ok=True)
        shutil.copytree(place / "cache" / "runs", "cache/runs", dirs_exist_ok=True)  # what the user ran
        (run,) = (path.relative_to(place) for path in place.glob("runs/*/seed_*"))
        return run

    return copied


@pytest.fixture
def strangers_run(trained_by):
    """A trained run, and a function that rewrites its configuration by a change of a dict."""
    run = trained_by(*QUICK)
    original = yaml.safe_load((run / "config.yaml").read_text())

    def rewrite(**changes):
        (run / "config.yaml").write_text(yaml.safe_dump({**original, **changes}, sort_keys=False))
        return run

    return rewrite


@pytest.fixture
def interrupt_at(monkeypatch):
    """Interrupts a training as a user would, at the first report from each of some steps on; each once.

    ``stops = interrupt_at(7, 15)`` returns the steps that are still to come.
    """

    def install(*steps):
        append = History.append
        stops = sorted(steps)

        def interrupted(history, row):
            append(history, row)
            if stops and row["step"] >= stops[0]:
                stops.pop(0)
                raise KeyboardInterrupt

        monkeypatch.setattr(History, "append", interrupted)
        return stops

    return install
