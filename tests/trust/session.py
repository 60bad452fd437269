"""A process that trains, evaluates, loads and samples small runs until it is ended, as a long notebook does.

``python -m trust.session FOLDER`` appends a line to ``FOLDER/rounds`` after each round. :mod:`trust.soak`
watches its memory and its open files.
"""

import itertools
import os
import sys
import time

import pyro_lrp
from pyro_lrp import metrics
from trust import kit

PAUSE = 2  # seconds, for what else runs on the machine


def one_round(number):
    """A run from its first step to samples of the reloaded model, and its metrics."""
    run = pyro_lrp.train(*kit.SHORT, f"seed={number % 5}", "name=session", "overwrite=true")
    pyro_lrp.load(run.directory).sample(8)
    metrics.evaluate(run.autoencoder, run.data, ["reconstruction_mse", "likelihood"], n=16)


def main(folder):
    os.chdir(folder)
    for number in itertools.count():
        one_round(number)
        with open("rounds", "a") as file:
            file.write(f"{number}\n")
        time.sleep(PAUSE)


if __name__ == "__main__":
    main(sys.argv[1])
