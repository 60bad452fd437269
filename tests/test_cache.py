"""The user's cache: made once, by one process at a time; damaged files are made again; no place, no loss."""

import errno
import json
import logging
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import SERVER
from PIL import Image

from pyro_lrp import data
from pyro_lrp.core import cache
from pyro_lrp.core.errors import UserError
from pyro_lrp.data import decoded
from pyro_lrp.features import weights
from pyro_lrp.metrics.classifiers import classifier_for


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYRO_LRP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def number(path):
    return int(path.read_text())


def write_number(path, value):
    path.write_text(str(value))


def kept(make, name="x"):
    return cache.kept("numbers", name, number, make, write_number)


def test_a_result_is_made_once_and_again_when_it_is_damaged(root, caplog):
    made = iter(range(9))
    assert [kept(lambda: next(made)) for _ in range(3)] == [0, 0, 0]
    assert caplog.messages == []
    file = root / "numbers" / "x"
    file.write_text("no number")
    assert [kept(lambda: next(made)) for _ in range(2)] == [1, 1]
    (said,) = caplog.messages
    assert str(file) in said
    assert "is damaged and is made again" in said
    assert "PYRO_LRP_CACHE" in said


def test_a_cache_that_cannot_be_written_costs_a_warning(root, caplog, monkeypatch):
    root.write_text("a file")
    assert kept(lambda: 3) == 3
    root.unlink()

    def full(path, value):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    assert cache.kept("numbers", "x", number, lambda: 4, full) == 4
    for said, place in zip(caplog.messages, (root, root / "numbers" / "x"), strict=True):
        assert str(place) in said
        assert "set the environment variable PYRO_LRP_CACHE to a folder" in said


@pytest.mark.parametrize("name", ["a/b\\c: é.npy", "x" * 400, "..hidden"])
def test_any_name_becomes_a_file_of_the_cache(root, name):
    path = cache.cache_file("numbers", name)
    assert path.parent == root / "numbers"
    assert not path.name.startswith(".")
    path.write_text("1")
    others = {cache.cache_file("numbers", f"{letter}{'x' * 400}") for letter in "abc"}
    assert len(others) == 3


def test_what_threads_need_at_once_is_made_once():
    made = []

    def make():
        made.append(1)
        time.sleep(0.05)
        return len(made)

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda _: kept(make), range(8))) == [1] * 8


HOLDER = """
import sys, time
from pyro_lrp.core.cache import cache_file, locked
path = cache_file("numbers", "x")
with locked(path):
    print("locked", flush=True)
    time.sleep(float(sys.argv[1]))
    path.write_text("7")
"""


def holder(seconds):
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(seconds)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "locked\n"
    return process


def never():
    raise AssertionError("another process makes it")


def test_a_process_waits_for_another_one_and_names_it(capsys):
    process = holder(1)
    assert kept(never) == 7
    assert f"is being written by process {process.pid}" in capsys.readouterr().err
    process.communicate()


def test_a_killed_process_holds_no_lock(root):
    process = holder(60)
    process.kill()
    process.communicate()
    left = root / "numbers" / ".x.0123.tmp"
    left.write_text("part")
    start = time.monotonic()
    assert kept(lambda: 5) == 5
    assert time.monotonic() - start < 5
    assert not left.exists()


# --------------------------------------------------------------------- images


def pictures(count=6):
    os.makedirs("d", exist_ok=True)
    for value in range(count):
        Image.new("L", (8, 8), value).save(f"d/{value}.png")


def values(images):
    return sorted(value for split in images.splits for value in split.images[:, 0, 0, 0].tolist())


def truncate(file):
    os.truncate(file, 100)


def other_array(file):
    np.save(file, np.zeros((2, 3)))


def other_text(file):
    file.with_suffix(".json").write_text(json.dumps({"rows": [1, 2]}))


@pytest.mark.parametrize("damage", [truncate, other_array, other_text, lambda file: file.write_bytes(b"")])
def test_damaged_images_are_decoded_again_and_the_file_is_named(root, caplog, damage):
    pictures()
    data.folder("d", image_size=8)
    (file,) = (root / "images").glob("*.npy")
    damage(file)
    assert values(data.folder("d", image_size=8)) == list(range(6))
    assert str(file) in caplog.messages[0]
    caplog.clear()
    assert values(data.folder("d", image_size=8)) == list(range(6))
    assert caplog.messages == []


def test_images_in_a_cache_that_cannot_be_written_are_refused_by_name(root, monkeypatch):
    pictures()
    root.write_text("a file")
    with pytest.raises(UserError, match=r"the cache cannot be written: .*cache/images .*PYRO_LRP_CACHE"):
        data.folder("d", image_size=8)
    root.unlink()

    def full(file, start, size):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(decoded.os, "posix_fallocate", full, raising=False)
    with pytest.raises(UserError, match=r"the cache cannot be written: .*npy \(No space left on device\); set"):
        data.folder("d", image_size=8)
    assert list((root / "images").iterdir()) == []


def decode(root, together, results):
    """In a process of its own: decode images as soon as the other one is ready to."""
    os.chdir(root.parent)
    os.environ["PYRO_LRP_CACHE"] = str(root)
    together.wait()
    results.put(data.folder("d", image_size=8).train.fingerprint())


def test_processes_that_decode_at_once_are_all_right(root):
    pictures(60)
    shared = (root, SERVER.Barrier(2), SERVER.Queue())
    processes = [SERVER.Process(target=decode, args=shared) for _ in range(2)]
    for process in processes:
        process.start()
    results = {shared[-1].get(timeout=120) for _ in processes}
    for process in processes:
        process.join()
    assert results == {data.folder("d", image_size=8).train.fingerprint()}
    assert len(list((root / "images").iterdir())) == 2


def test_threads_that_decode_at_once_decode_once(monkeypatch):
    pictures(30)
    decodes = []
    real = decoded._decode_all
    lock = threading.Lock()

    def counted(*arguments, **options):
        with lock:
            decodes.append(1)
        real(*arguments, **options)

    monkeypatch.setattr(decoded, "_decode_all", counted)
    with ThreadPoolExecutor(3) as pool:
        results = list(pool.map(lambda _: data.folder("d", image_size=8).train.fingerprint(), range(3)))
    assert len(set(results)) == 1
    assert len(decodes) == 1


def test_drawn_figures_survive_a_damaged_and_an_unwritable_cache(root, caplog):
    first = data.posed_figures(4, image_size=32, test=2)
    for file in (root / "images").glob("*.npy"):
        truncate(file)
    again = data.posed_figures(4, image_size=32, test=2)
    assert len(caplog.messages) == 2
    assert again.train.fingerprint() == first.train.fingerprint()
    for file in (root / "images").iterdir():
        file.unlink()
    (root / "images").rmdir()
    (root / "images").write_text("a file")
    assert data.posed_figures(4, image_size=32, test=2).train.fingerprint() == first.train.fingerprint()


def test_a_classifier_survives_a_damaged_and_an_unwritable_cache(root, caplog):
    images = data.fake(40, (1, 8, 8), classes=2)
    first = classifier_for(images)
    (file,) = (root / "classifiers").iterdir()
    truncate(file)
    caplog.set_level(logging.WARNING)
    again = classifier_for(images)
    assert str(file) in caplog.messages[0]
    file.unlink()
    file.parent.rmdir()
    file.parent.write_text("a file")
    third = classifier_for(images)
    assert "PYRO_LRP_CACHE" in caplog.messages[-1]
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])
        assert torch.equal(tensor, third.state_dict()[name])


def test_a_damaged_official_file_is_named_and_downloaded_again(tmp_path, monkeypatch):
    monkeypatch.setattr(weights.torch.hub, "get_dir", lambda: str(tmp_path))
    place = weights._OFFICIAL["squeezenet"].place
    place.parent.mkdir()
    place.write_bytes(b"half of it")
    monkeypatch.setattr(weights, "online", lambda url: False)
    with pytest.raises(
        UserError, match=rf"{place} is damaged .* and there is no network: set weights.squeezenet="
    ):
        weights.read("squeezenet")
    downloads = []

    def download(url, path, hash_prefix):
        downloads.append(Path(path))
        raise OSError("read-only")

    monkeypatch.setattr(weights, "online", lambda url: True)
    monkeypatch.setattr(weights.torch.hub, "download_url_to_file", download)
    with pytest.raises(UserError, match="read-only.*TORCH_HOME"):
        weights.read("squeezenet")
    assert downloads == [place]
