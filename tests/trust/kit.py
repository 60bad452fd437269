"""What all attacks share: small runs, commands in forked processes, and what is asked of each of their ends."""

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
RUN = (
    *("data=fake", "data.image_shape=[1,8,8]", "data.n=120", "latent_dim=4", "network.hidden_dims=[16]"),
    *("prior.layers=2", "prior.width=16", "batch_size=20", "device=cpu", "progress=false"),
    *("trainer.report_every=5", "trainer.evaluations=2", "trainer.save_minutes=0"),
)
"""A training of a second."""
SHORT = (*RUN, "epochs=4", "prior_epochs=3")
PLACE = Path("runs/a/seed_0")
LAST = "checkpoints/last.safetensors"


class End(NamedTuple):
    """How a process ended: its exit code, or minus the signal; what it printed; its memory and seconds."""

    code: int
    output: str
    mib: int
    cpu: float
    timed_out: bool

    @property
    def lines(self):
        return self.output.strip().splitlines()

    @property
    def error(self):
        """The line of the error, or an empty text."""
        found = [line for line in self.lines if line.startswith("error: ")]
        return found[-1] if found else ""

    def fault(self):
        """What is wrong with an end, which is to be a success or one plain line; None if nothing is."""
        if self.timed_out:
            return "ran too long"
        if self.code not in (0, 1):
            return f"ended with {self.code}"
        if "Traceback" in self.output:
            return "a traceback"
        if "Warning" in self.output:
            return "a warning"
        if "PYRO_LRP_TRACEBACK" in self.output:
            return f"an error that nobody anticipated: {self.error}"
        if any(not (letter.isprintable() or letter in "\n\t\r") for letter in self.output):
            return "control characters"
        if self.code and (not self.error or self.lines[-1] != self.error):
            return f"no line of error at the end: {self.lines[-1:]}"
        if len(self.error) > 1000:
            return "a line of error that nobody reads"
        return None


class Commands:
    """Starts commands of the library in processes that are forked from one server."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}
        env["PYRO_LRP_CACHE"] = str(self.folder / "cache")
        env.pop("PYRO_LRP_TRACEBACK", None)
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("server.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=env,
        )
        assert self._answer() == {"ready": True}
        self.count = 0
        self.cpu = 0.0

    def _answer(self):
        return json.loads(self.process.stdout.readline())

    def _ask(self, **request):
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def start(self, command, *arguments, cwd, environment=None, **faults):
        """Start a command, with faults of ``server.FAULTS``; returns what :meth:`wait` takes."""
        self.count += 1
        output = self.folder / f"output_{self.count}.txt"
        answer = self._ask(
            command=command,
            arguments=[str(argument) for argument in arguments],
            cwd=str(cwd),
            output=str(output),
            environment=environment or {},
            faults=faults,
        )
        return answer["pid"], output

    def wait(self, started, seconds=600):
        """Its end; it is killed after some seconds, which are many, since the machine may be busy."""
        pid, output = started
        answer = self._ask(pid=pid, seconds=seconds)
        self.cpu += answer["cpu"]
        text = ""
        if output.exists():
            text = output.read_text(errors="replace")
            output.unlink()
        return End(answer["code"], text, answer["mib"], answer["cpu"], answer["timed_out"])

    def run(self, command, *arguments, cwd, seconds=600, environment=None, **faults):
        return self.wait(self.start(command, *arguments, cwd=cwd, environment=environment, **faults), seconds)

    def kill_when(self, started, due, number=signal.SIGKILL, seconds=60):
        """Send a signal as soon as ``due()`` holds, and wait; False if the process ended before."""
        pid, output = started
        deadline = time.monotonic() + seconds
        hit = False
        while time.monotonic() < deadline and not ended(pid):
            if due():
                os.kill(pid, number)
                hit = True
                break
            time.sleep(0.002)
        end = self.wait(started, seconds)
        return end, hit

    def close(self):
        self.process.stdin.close()
        self.process.wait(timeout=30)


def ended(pid):
    """Whether a process is a zombie, or gone."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return True
    return status.rpartition(")")[2].split()[0] == "Z"


@contextlib.contextmanager
def commands(folder):
    server = Commands(folder)
    try:
        yield server
    finally:
        server.close()


def rows(directory):
    """The rows of a run that is perhaps being written."""
    path = Path(directory) / "metrics.jsonl"
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1] if line]


def digest(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def same_training(one, other):
    """What differs between two runs that should be one: None if nothing does."""
    if not (other / LAST).is_file():
        return "no last checkpoint"
    if digest(one / LAST) != digest(other / LAST):
        return "another checkpoint"
    ignored = ("seconds", "images_per_second", "checksum")
    pairs = []
    for directory in (one, other):
        kept = [{key: value for key, value in row.items() if key not in ignored} for row in rows(directory)]
        pairs.append(kept)
    if pairs[0] != pairs[1]:
        return "other rows"
    if not (one / "summary.json").is_file():
        return "no summary"
    return None


@contextlib.contextmanager
def inside(folder):
    """Within it, a folder is the current one."""
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def fresh(folder):
    """An empty folder."""
    shutil.rmtree(folder, ignore_errors=True)
    Path(folder).mkdir(parents=True)
    return Path(folder)


def numbers(directory):
    """The values of the results of a run by name."""
    path = Path(directory) / "evaluation.json"
    if not path.is_file():
        return {}
    return {name: result["value"] for name, result in json.loads(path.read_text()).items()}


def contents(directory):
    """Digests of all files of a folder by name."""
    paths = [path for path in Path(directory).rglob("*") if path.is_file()]
    return {str(path): digest(path) for path in paths}
