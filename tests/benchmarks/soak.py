"""An hour of training and fifty evaluations in one process: does its memory grow?

    python tests/benchmarks/soak.py [--minutes 60] [--evaluations 50]

Trains models on the digits anew, one after another, in a run directory of their own, and evaluates each. Prints
the resident memory after each evaluation (Linux only), and the growth per hour over the second half.
"""

import argparse
import gc
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from pyro_lrp import data, likelihoods, models, networks, objectives, priors, transforms
from pyro_lrp.metrics import METRICS, Subject
from pyro_lrp.trainer import Phase, Trainer

NAMES = ("prior_gap", "fd_classifier", "likelihood", "reconstruction_mse", "precision_recall_classifier")


def resident():
    """MiB of memory that the process holds."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def train(directory, seed, until):
    """Train models of one kind after another until a moment of time, at least one; returns the last."""
    digits = data.digits()
    while True:
        torch.manual_seed(seed)
        encoder, decoder = networks.mlp(digits.image_shape, 8, (64,))
        prior = priors.Flow(8, transforms.paper_flow(8, layers=4, width=32))
        autoencoder = models.Autoencoder(encoder, decoder, prior, likelihoods.Gaussian())
        game = objectives.LatentGame(autoencoder, objectives.BilevelELBO(beta=0.0))
        phases = [Phase("joint", 20), Phase("prior_only", 10)]
        folder = directory / f"{seed}_{time.monotonic_ns()}"
        Trainer(game, digits, phases=phases, directory=folder, lr=1e-3, save_minutes=0, progress=False).fit()
        if time.monotonic() > until:
            return autoencoder.eval(), digits


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--evaluations", type=int, default=50)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    begun = time.monotonic()
    hours = []
    memory = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(arguments.evaluations):
            until = begun + 60 * arguments.minutes * (number + 1) / arguments.evaluations
            autoencoder, digits = train(Path(folder), number, until)
            subject = Subject(autoencoder, digits, n=300, k=10, seed=number, quick=True)
            for name in NAMES:
                METRICS[name].compute(subject)
            del autoencoder, digits, subject
            gc.collect()
            hours.append((time.monotonic() - begun) / 3600)
            memory.append(resident())
            print(
                f"evaluation {number + 1:3}: {60 * hours[-1]:6.1f} minutes, {memory[-1]:8.1f} MiB", flush=True
            )
    half = len(hours) // 2
    slope = np.polyfit(hours[half:], memory[half:], 1)[0]
    spread = np.std(np.diff(memory[half:]))
    print(f"second half: {slope:+.1f} MiB an hour (standard deviation of a step: {spread:.1f} MiB)")


if __name__ == "__main__":
    main()
