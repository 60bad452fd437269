"""Seconds and memory of training steps of the U-Net, each model in a process of its own.

python tests/benchmarks/unet_step.py [--size 256] [--batch 8] [--steps 2]
"""

import argparse
import multiprocessing
import resource
import statistics
import time

import torch

from pyro_lrp import likelihoods, models, networks, objectives, priors
from pyro_lrp.data import Batch

MODELS = {
    "vunet": (priors.unet_autoregressive, {"beta": 1.0, "single_level": True, "kl": "auto"}),
    "vunet_flow": (priors.unet_flow, {"beta": 0.0}),
}


def measure(name: str, size: int, batch: int, steps: int) -> None:
    """Print the median step and the most memory the process ever held."""
    prior, options = MODELS[name]
    encoder, decoder = networks.vunet((3, size, size), 10_240)
    ae = models.HierarchicalAutoencoder(encoder, decoder, prior(), likelihoods.Gaussian(0.01))
    game = objectives.LatentGame(ae, objectives.BilevelELBO(**options))
    people = Batch(torch.rand(batch, 3, size, size), None, torch.rand(batch, 30))
    game.initialize(people)
    optimizer = torch.optim.Adam(game.parameters(), 1e-3, fused=True)
    seconds = []
    for _ in range(1 + steps):
        start = time.perf_counter()
        optimizer.zero_grad()
        game("joint", [people], {}).loss.backward()
        optimizer.step()
        seconds.append(time.perf_counter() - start)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    parameters = sum(p.numel() for p in game.parameters())
    step = statistics.median(seconds[1:])
    what = f"{name}, {parameters:,} parameters, {size}x{size}, batch {batch}"
    print(f"{what}: {step:.1f} s a step, {memory:.1f} GB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=2)
    asked = parser.parse_args()
    for name in MODELS:
        process = multiprocessing.get_context("spawn").Process(
            target=measure, args=(name, asked.size, asked.batch, asked.steps)
        )
        process.start()
        process.join()


if __name__ == "__main__":
    main()
