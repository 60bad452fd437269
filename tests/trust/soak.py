"""Hours of use, watched: ``python -m trust.soak hours=2`` in ``tests/``.

One training runs all the time and is stopped and resumed every half hour; one process trains and evaluates
run after run (:mod:`trust.session`); attacks, with numbers beyond those of :mod:`trust.long`, run beside them.
Each minute appends a line to ``out=FILE`` with what both processes hold. At the end, and by ``summary=true``,
the medians of both halves are printed: a process that leaks holds more in the second.
"""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from statistics import median

from trust import attacks, kit
from trust.long import ALL, rows_of

OUT = kit.ROOT / "runs/recorded/trust/soak.jsonl"
FIRST = 10_000_000  # the number of the first attack
PAUSE = 1  # seconds between attacks, for what else runs on the machine
LONG = (*kit.RUN, "epochs=100000000", "prior_epochs=0", "name=a")


def held(pid):
    """What a process holds: MiB of its own memory, open files, threads."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    descriptors = len(os.listdir(f"/proc/{pid}/fd"))
    mib = int(status["RssAnon"].split()[0]) / 1024
    return {"mib": round(mib, 1), "descriptors": descriptors, "threads": int(status["Threads"])}


class Training:
    """The training that never ends."""

    def __init__(self, server, folder):
        self.server = server
        self.folder = kit.fresh(folder)
        self.directory = self.folder / kit.PLACE
        self.resumed = 0
        self.started = self._start()

    def _start(self):
        return self.server.start("train", *LONG, cwd=self.folder, slow=0.3)

    def look(self):
        """What it holds, and how far it is."""
        if kit.ended(self.started[0]):
            end = self.server.wait(self.started)
            raise SystemExit(f"the training ended: {end.output[-500:]}")
        files = sum(path.is_file() for path in self.directory.rglob("*"))
        steps = [row["step"] for row in kit.rows(self.directory)]
        return {**held(self.started[0]), "files": files, "step": max(steps, default=0), "resumed": self.resumed}

    def stop(self):
        """Stop it as a scheduler does; what is wrong with its end or its rows, or None."""
        os.kill(self.started[0], signal.SIGTERM)
        end = self.server.wait(self.started)
        if end.code != 128 + signal.SIGTERM or "the same command goes on" not in end.output:
            return f"stopped with {end.code}: {end.output[-200:]}"
        steps = [row["step"] for row in kit.rows(self.directory)]
        if steps != sorted(set(steps)):
            return "its rows are not in order"
        return None

    def again(self):
        """Stop and resume it; what is wrong, or None."""
        fault = self.stop()
        self.resumed += 1
        self.started = self._start()
        return fault


class Session:
    """The process of :mod:`trust.session`."""

    def __init__(self, folder):
        self.folder = kit.fresh(folder)
        env = {**os.environ, "OMP_NUM_THREADS": "1", "PYRO_LRP_CACHE": str(self.folder / "cache")}
        command = [sys.executable, "-m", "trust.session", str(self.folder)]
        with open(self.folder / "output", "w") as output:
            self.process = subprocess.Popen(command, env=env, stdout=output, stderr=output)

    def look(self):
        if self.process.poll() is not None:
            raise SystemExit(f"the session ended: {(self.folder / 'output').read_text()[-500:]}")
        rounds = self.folder / "rounds"
        done = 0
        if rounds.is_file():
            done = len(rounds.read_text().splitlines())
        return {**held(self.process.pid), "rounds": done}


def attack(place, number):
    """One attack, drawn by its number: its name and its fault."""
    name = random.Random(number).choice(list(ALL))
    return name, ALL[name][0](place, number)


def soak(out, hours):
    begun = time.monotonic()
    faults = []
    count = 0
    with tempfile.TemporaryDirectory() as folder, kit.commands(Path(folder) / "server") as server:
        os.chmod(folder, 0o755)
        place = attacks.Place(Path(folder) / "place", server)
        training = Training(server, Path(folder) / "training")
        session = Session(Path(folder) / "session")
        try:
            due = begun + 60
            while time.monotonic() < begun + 3600 * hours:
                name, fault = attack(place, FIRST + count)
                count += 1
                time.sleep(PAUSE)
                if fault and fault != attacks.SKIPPED:
                    faults.append(f"{name} {FIRST + count - 1}: {fault}")
                    print(faults[-1], flush=True)
                if time.monotonic() < due:
                    continue
                due += 60
                minutes = (time.monotonic() - begun) / 60
                if minutes // 30 > training.resumed and minutes < 60 * hours - 1:  # else it is stopped soon
                    fault = training.again()
                    if fault:
                        faults.append(fault)
                row = {
                    "minutes": round(minutes, 1),
                    "training": training.look(),
                    "session": session.look(),
                    "attacks": count,
                    "faults": faults,
                }
                with open(out, "a") as file:
                    file.write(json.dumps(row) + "\n")
        finally:
            print(training.stop() or "the training stopped as it should")
            session.process.kill()
            session.process.wait()


def summary(out):
    """The medians of both halves, in Markdown."""
    rows = rows_of(out)
    half = len(rows) // 2
    print("| | first half | second half |\n|---|---|---|")
    for who in ("training", "session"):
        for what in ("mib", "descriptors", "threads", "files"):
            if what not in rows[0][who]:
                continue
            values = [row[who][what] for row in rows]
            print(f"| {who}, {what} | {median(values[:half])} | {median(values[half:])} |")
    last = rows[-1]
    training = last["training"]
    print(f"\n{last['minutes'] / 60:.1f} hours,")
    print(f"{training['step']:,} steps of a training that was resumed {training['resumed']} times,")
    print(f"{last['session']['rounds']:,} runs in one process,")
    print(f"{last['attacks']:,} attacks, {len(last['faults'])} faults.")


def main():
    warnings.simplefilter("ignore")  # those of Pillow, which the commands hide
    options = dict(argument.split("=", 1) for argument in sys.argv[1:])
    out = Path(options.get("out", OUT))
    if options.get("summary") != "true":
        out.unlink(missing_ok=True)
        soak(out, float(options.get("hours", 2)))
    summary(out)


if __name__ == "__main__":
    main()
