"""Four members of a sweep by joblib in two processes, beside the same four one after another.

    python tests/benchmarks/sweep.py [--rounds 2] [--epochs 120]

Each round trains the members both ways, in empty folders, and prints the wall times and their ratio, with the
load of the machine before it. Half is the least that two cores could reach; starting processes and what else
the machine does come on top. The ratio of CPU times, at best 1, tells the two apart: it leaves out the latter.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time

JOBLIB = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")


def cpu():
    """The CPU time of all processes that ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def seconds(epochs, *launcher):
    """The wall time of the sweep, and its CPU time."""
    options = (f"epochs={epochs}", f"prior_epochs={epochs}", "seed=0,1,2,3", "device=cpu", "progress=false")
    command = [sys.executable, "-m", "pyro_lrp.train", "-m", *options, *launcher]
    with tempfile.TemporaryDirectory() as folder:
        before = cpu()
        begun = time.monotonic()
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return time.monotonic() - begun, cpu() - before


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=120)
    arguments = parser.parse_args()
    ratios = []
    for _ in range(arguments.rounds):
        load = os.getloadavg()[0]
        serial, serial_cpu = seconds(arguments.epochs)
        parallel, parallel_cpu = seconds(arguments.epochs, *JOBLIB)
        ratios.append(parallel / serial)
        walls = f"{serial:.1f} s one by one, {parallel:.1f} s in two, ratio {ratios[-1]:.2f}"
        print(f"load {load:.1f}: {walls}; of CPU times {parallel_cpu / serial_cpu:.2f}", flush=True)
    print(f"median ratio {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
