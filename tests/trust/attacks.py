"""Attacks by processes. Each is a function of its own number: what is wrong, or None, in words."""

import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
from PIL import Image

from pyro_lrp.core import checkpoint
from trust import hostile, kit

METRICS = "metrics=[reconstruction_mse,likelihood]"
SWEEP = (*kit.RUN, "epochs=2", "prior_epochs=1", "beta=0,1")


class Place:
    """A folder with a finished, evaluated run, and the server of commands.

    Attributes:
        whole: The run directory of a training that nothing disturbed.
        renames: How many files such a training renames.
    """

    def __init__(self, folder, server):
        self.server = server
        self.folder = Path(folder)
        base = kit.fresh(self.folder / "base")
        os.chmod(self.folder, 0o755)
        self._must(server.run("train", *kit.SHORT, "name=a", cwd=base, count_renames=str(base / "count")))
        self.whole = base / kit.PLACE
        self.renames = int((base / "count").read_text())
        self._must(server.run("evaluate", f"run={self.whole}", METRICS, "n=16", "k=2", cwd=base))
        self.results = kit.numbers(self.whole)
        self._sweep = None
        self._pictures = None

    def _must(self, end):
        assert end.code == 0, end.output

    def empty(self):
        return kit.fresh(self.folder / "work")

    def copy(self):
        work = self.empty()
        shutil.copytree(self.whole, work / kit.PLACE)
        return work

    @property
    def sweep(self):
        """The runs of a sweep that nothing disturbed."""
        if self._sweep is None:
            place = kit.fresh(self.folder / "sweep")
            self._must(self.server.run("train", "-m", *SWEEP, cwd=place))
            self._sweep = sorted(place.glob("runs/*/seed_0"))
        return self._sweep

    @property
    def pictures(self):
        if self._pictures is None:
            place = kit.fresh(self.folder / "pictures")
            rng = np.random.default_rng(0)
            for number in range(60):
                pixels = rng.integers(0, 255, (300, 300), dtype=np.uint8)
                Image.fromarray(pixels).save(place / f"{number}.png")
            self._pictures = place
        return self._pictures


def resumed(place, work, *arguments):
    """Resume a training: what is wrong with its end, or differs from an undisturbed one."""
    end = place.server.run("train", *kit.SHORT, "name=a", *arguments, cwd=work)
    if end.timed_out:
        return "resuming took too long"
    if end.code:
        return f"did not resume: {end.error or end.output[-200:]}"
    return kit.same_training(place.whole, work / kit.PLACE)


def interrupted(place, work, rng, number):
    """A training that gets a signal at a moment drawn at random; its end, and whether it was hit."""
    started = place.server.start("train", *kit.SHORT, "name=a", cwd=work, slow=0.03)
    directory = work / kit.PLACE
    count = rng.randrange(8)
    pause = rng.random() * 0.04

    def due():
        if count and len(lines(directory)) < count:
            return False
        time.sleep(pause)
        return True

    return place.server.kill_when(started, due, number)


def lines(directory):
    path = directory / "metrics.jsonl"
    return path.read_bytes().splitlines() if path.is_file() else []


# ------------------------------------------------------------------ kills


def kill_training(place, number):
    rng = random.Random(number)
    work = place.empty()
    for _ in range(1 + rng.randrange(2)):
        interrupted(place, work, rng, signal.SIGKILL)
    return resumed(place, work)


def kill_evaluation(place, number):
    rng = random.Random(number)
    work = place.copy()
    directory = work / kit.PLACE
    (directory / "evaluation.json").unlink()
    arguments = ("evaluate", f"run={directory}", METRICS, "n=16", "k=2")
    begun = time.monotonic()
    delay = rng.random() * 0.6
    place.server.kill_when(place.server.start(*arguments, cwd=work), lambda: time.monotonic() - begun > delay)
    before = kit.numbers(directory)
    end = place.server.run(*arguments, cwd=work)
    if end.code:
        return f"did not go on: {end.output[-200:]}"
    after = kit.numbers(directory)
    if any(after.get(name) != value for name, value in before.items()):
        return "lost a result"
    return None if after == place.results else "other results"


def kill_sweep(place, number):
    rng = random.Random(number)
    reference = place.sweep
    work = place.empty()
    begun = time.monotonic()
    delay = rng.random() * 1.5
    started = place.server.start("train", "-m", *SWEEP, cwd=work, slow=0.02)
    place.server.kill_when(started, lambda: time.monotonic() - begun > delay)
    end = place.server.run("train", "-m", *SWEEP, cwd=work)
    if end.code:
        return f"did not go on: {end.output[-300:]}"
    for one, other in zip(reference, sorted(work.glob("runs/*/seed_0")), strict=True):
        fault = kit.same_training(one, other)
        if fault:
            return fault
    return None


def kill_decoding(place, number):
    rng = random.Random(number)
    work = place.empty()
    images = place.pictures
    cache = {"PYRO_LRP_CACHE": str(work / "cache")}
    arguments = (
        *("train", "data=folder", f"data.path={images}", "data.image_size=8", "epochs=1", "prior_epochs=0"),
        *(
            "model=vae",
            "name=a",
            "latent_dim=4",
            "network=mlp",
            "network.hidden_dims=[16]",
            "device=cpu",
            "progress=false",
        ),
    )
    begun = time.monotonic()
    delay = rng.random() * 0.5
    started = place.server.start(*arguments, cwd=work, environment=cache)
    place.server.kill_when(started, lambda: time.monotonic() - begun > delay)
    end = place.server.run(*arguments, cwd=work, environment=cache)
    if end.code:
        return f"did not go on: {end.output[-300:]}"
    left = [path.name for path in (work / "cache" / "images").iterdir()]
    if len(left) != 2 or any(name.endswith(".tmp") for name in left):
        return f"left {left}"
    return None


def die_at_rename(place, number):
    work = place.empty()
    end = place.server.run(
        *("train", *kit.SHORT, "name=a"),
        cwd=work,
        die_at_rename=[1 + number // 2 % place.renames, bool(number % 2)],
    )
    if end.code != -9:
        return f"did not die: {end.code} {end.output[-200:]}"
    return resumed(place, work)


def signals(place, number):
    """Ctrl-C and SIGTERM: saved at once, said in one line, resumed without a difference."""
    rng = random.Random(number)
    kind = (signal.SIGINT, signal.SIGTERM)[number % 2]
    work = place.empty()
    end, hit = interrupted(place, work, rng, kind)
    if "Traceback" in end.output:
        return "a traceback"
    if hit and end.code not in (0, 128 + kind, -kind):
        return f"ended with {end.code}"
    if hit and end.code == 128 + kind and "the same command goes on" not in end.output:
        return "did not say how to go on"
    return resumed(place, work)


# ------------------------------------------------------------------ disks and users


def full_disk(place, number):
    """A file may not grow beyond some bytes; with room again, the same command goes on."""
    rng = random.Random(number)
    work = place.empty()
    size = rng.choice([0, 10, 100, 1000, 1500, 2000, 5000, 20_000, 40_000])
    end = place.server.run("train", *kit.SHORT, "name=a", cwd=work, largest_file=size)
    fault = end.fault() if end.code != 70 else None  # of the smallest sizes, not even the output is written
    if size < 5000 and fault and ("no line of error" in fault or "ended with" in fault):
        fault = None  # the file that takes the output is as small
    return fault or resumed(place, work)


def full_tmpfs(place, number):
    """A file system of some kilobytes; None too where none can be mounted, which is said by ``SKIPPED``."""
    size = random.Random(number).choice([16, 32, 64, 96, 128, 160, 200])
    work = place.empty()
    disk = work / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", disk], capture_output=True, check=False
    )
    if mounted.returncode:
        return SKIPPED
    try:
        end = place.server.run("train", *kit.SHORT, "name=a", cwd=disk)
        if end.code == 0:
            return "was not full"
        fault = end.fault()
        if fault:
            return fault
        subprocess.run(["mount", "-o", "remount,size=20m", disk], check=True)
        return resumed(place, disk)
    finally:
        subprocess.run(["umount", "-l", disk], check=False)


SKIPPED = "skipped"


def read_only(place, number):
    """A run that may be read, and not written: one line at once, and nothing is changed."""
    work = place.copy()
    directory = work / kit.PLACE
    before = kit.contents(directory)
    unreadable = number % 2
    commands = (  # and what they say
        (("train", *kit.SHORT, "name=a"), "cannot be written (Permission denied)"),
        (
            ("evaluate", f"run={directory}", METRICS, "overwrite=true"),
            "out=FILE.json keeps the results elsewhere",
        ),
        (("sample", f"run={directory}", "n=4"), "Permission denied"),
        (("report", str(directory)), "Permission denied"),
        (("train", *kit.SHORT, "name=a", "overwrite=true"), "cannot be written (Permission denied)"),
    )
    command, said = commands[number // 2 % len(commands)]
    if unreadable and command[0] in ("evaluate", "sample"):
        os.chmod(directory / kit.LAST, 0)
        command = (*command, "out=x.npz") if command[0] == "sample" else command
        said = "last.safetensors cannot be read (Permission denied)"
    folders = [directory, *(path for path in directory.rglob("*") if path.is_dir())]
    for folder in folders:
        os.chmod(folder, 0o555)
    end = place.server.run(*command, cwd=work, ordinary_user=True)
    for folder in folders:
        os.chmod(folder, 0o755)
    if kit.contents(directory) != before:
        return "changed something"
    if end.code != 1:
        return f"{command[0]} ended with {end.code}"
    if said not in end.error:
        return f"{command[0]} says {end.error}"
    return end.fault()


# ------------------------------------------------------------------ two at once


def two_writers(place, number):
    kind = number % 3
    server = place.server
    if kind == 0:
        work = place.empty()
        both = [server.start("train", *kit.SHORT, "name=a", cwd=work, slow=0.01) for _ in range(2)]
        ends = [server.wait(started) for started in both]
        faults = [end.fault() for end in ends if end.fault()]
        if faults:
            return faults[0]
        if all(end.code for end in ends):
            return "neither trained"
        return kit.same_training(place.whole, work / kit.PLACE)
    if kind == 1:
        work = place.copy()
        directory = work / kit.PLACE
        (directory / "evaluation.json").unlink()
        wanted = ("reconstruction_mse", "likelihood")
        both = [
            server.start("evaluate", f"run={directory}", f"metrics=[{name}]", "n=16", "k=2", cwd=work)
            for name in wanted
        ]
        ends = [server.wait(started) for started in both]
        if any(end.code for end in ends):
            return ends[0].output[-200:] + ends[1].output[-200:]
        return None if kit.numbers(directory) == place.results else "a result is lost"
    work = place.empty()
    directory = work / kit.PLACE
    started = server.start("train", *kit.SHORT, "name=a", cwd=work, slow=0.01)
    steps = [0]
    while not kit.ended(started[0]):
        newest = checkpoint.load_latest(directory / "checkpoints")
        if newest is not None:
            steps.append(newest[1]["step"])
    server.wait(started)
    if len(steps) < 2:
        return "nothing was read"
    return None if steps == sorted(steps) else "an older step after a newer one"


# ------------------------------------------------------------------ clocks and numbers


def clock(place, number):
    """A clock that goes backwards changes nothing."""
    work = place.empty()
    end = place.server.run("train", *kit.SHORT, "name=a", cwd=work, clock=10.0 ** (number % 6))
    if end.code:
        return end.output[-200:]
    return kit.same_training(place.whole, work / kit.PLACE)


def not_a_number(place, number):
    """NaN in data, loss, gradients and parameters: one line, and the last checkpoint is finite."""
    work = place.empty()
    step = 1 + number // 4 * 3 % 30
    arguments = ["train", *kit.SHORT, "name=a"]
    faults = {}
    kind = number % 4
    if kind == 0:
        images = np.random.default_rng(number).random((40, 8, 8))
        images.flat[number * 37 % images.size] = (np.nan, np.inf, -np.inf)[number % 3]
        np.savez(work / "x.npz", images=images)
        arguments += ["data=npz", f"data.path={work}/x.npz"]
        arguments = [one for one in arguments if not one.startswith(("data.n", "data.image", "data=fake"))]
    elif kind == 1:
        arguments.append("lr=1e30")
    elif kind == 2:
        faults = {"nan_gradient": step}
    else:
        faults = {"nan_parameter": step}
    end = place.server.run(*arguments, cwd=work, **faults)
    if end.code != 1:
        return f"ended with {end.code}"
    if end.fault():
        return end.fault()
    newest = checkpoint.latest(work / kit.PLACE / "checkpoints")
    if newest is None:
        return None
    game = checkpoint.load(newest)["game"]
    return (
        None if all(bool(tensor.isfinite().all()) for tensor in game.values()) else "saved what is not finite"
    )


def hostile_files(place, number):
    names = hostile.names()
    work = place.copy()
    fault, end = hostile.attack(place.server, work, names[number % len(names)])
    return fault and f"{names[number % len(names)]}: {fault}: {end.lines[-1:]}"


ATTACKS = {  # and how many trials the long form makes
    "SIGKILL while training": (kill_training, 60),
    "SIGKILL while evaluating": (kill_evaluation, 20),
    "SIGKILL while a sweep runs": (kill_sweep, 10),
    "SIGKILL while decoding": (kill_decoding, 10),
    "death before and after each rename": (die_at_rename, 80),
    "SIGTERM and Ctrl-C": (signals, 40),
    "files that cannot grow": (full_disk, 18),
    "full file system": (full_tmpfs, 14),
    "a run that may not be written, or not read": (read_only, 10),
    "two writers, and a reader": (two_writers, 18),
    "clock backwards": (clock, 6),
    "NaN in data, loss, gradient, parameters": (not_a_number, 24),
    "hostile files": (hostile_files, len(hostile.HOSTILE)),
}
