"""Four members of a sweep by joblib in two processes, beside the same four one after another.

    python tests/benchmarks/sweep.py [--rounds 2] [--epochs 120]

Each round trains the members both ways, in empty folders, and prints the wall times and their ratio, with the
load of the machine before it. Half is the least that two cores could reach; starting processes and what else
the machine does come on top.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time

JOBLIB = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")


def seconds(epochs, *launcher):
    """The wall time of the sweep."""
    options = (f"epochs={epochs}", f"prior_epochs={epochs}", "seed=0,1,2,3", "device=cpu", "progress=false")
    command = [sys.executable, "-m", "pyro_lrp.train", "-m", *options, *launcher]
    with tempfile.TemporaryDirectory() as folder:
        begun = time.monotonic()
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return time.monotonic() - begun


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=120)
    arguments = parser.parse_args()
    ratios = []
    for _ in range(arguments.rounds):
        load = os.getloadavg()[0]
        serial = seconds(arguments.epochs)
        parallel = seconds(arguments.epochs, *JOBLIB)
        ratios.append(parallel / serial)
        print(f"load {load:4.1f}: {serial:6.1f} s one by one, {parallel:6.1f} s in two, ratio {ratios[-1]:.2f}")
    print(f"median ratio {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
