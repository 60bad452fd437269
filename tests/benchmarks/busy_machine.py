"""The README's first command on a machine whose cores are all taken by other processes.

    python tests/benchmarks/busy_machine.py [--busy 2] [--limit 300]

Starts ``--busy`` processes that never rest, then trains by ``python -m pyro_lrp.train`` with ``threads=auto``,
and with as many threads as there are cores. Prints the wall time of each, or how far it came within ``--limit``
seconds.
"""

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def never_rest():
    while True:
        pass


def train(threads, limit, folder):
    """Train in a folder of its own, and print how it went."""
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    command = [sys.executable, "-m", "pyro_lrp.train", f"threads={threads}", f"name=threads_{threads}"]
    begun = time.monotonic()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=output)
        try:
            process.wait(limit)
        except subprocess.TimeoutExpired:
            process.terminate()
            process.wait(60)
    seconds = time.monotonic() - begun
    rows = (Path(folder) / f"runs/threads_{threads}/seed_0/metrics.jsonl").read_text().splitlines()
    last = json.loads(rows[-1])
    outcome = {0: "finished", 143: "stopped"}.get(process.returncode, f"exit code {process.returncode}")
    rate = last["step"] / last["seconds"]
    print(f"threads={threads:<6} {outcome} after {seconds:6.1f} s, {last['step']} steps, {rate:.1f} steps/s")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--busy", type=int, default=2)
    parser.add_argument("--limit", type=float, default=300.0)
    arguments = parser.parse_args()
    others = [multiprocessing.Process(target=never_rest, daemon=True) for _ in range(arguments.busy)]
    for other in others:
        other.start()
    try:
        with tempfile.TemporaryDirectory() as folder:
            for threads in ("auto", os.cpu_count()):
                train(threads, arguments.limit, folder)
    finally:
        for other in others:
            other.kill()


if __name__ == "__main__":
    main()
