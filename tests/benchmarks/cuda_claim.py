"""The paper's MNIST model at 64 dimensions with a learned variance: do samples of beta = 0 or of 1 come nearer?

    python tests/benchmarks/cuda_claim.py DIR --beta 0 --epochs 32 --prior-epochs 16 --out FOLDER
    python tests/benchmarks/cuda_claim.py DIR --beta 1 --epochs 32 --prior-epochs 16 --out FOLDER

Network, flow (24 x 1024), batch and rates are the paper's, and gamma has its own rate of 1e-2. After the joint
phase the prior alone is trained from that point twice: as the paper does, and on codes with noise of 0.3
deviations. FOLDER gets the Frechet distance of 10,000 samples to the test images (``fd_classifier``, a
surrogate) after the joint phase and during the others, and grids of samples. On a CUDA device the steps are
captured, as they are by default, and matrix products use TF32.
"""

import argparse
import copy
import json
import time
from pathlib import Path

import torch
import torchvision

import pyro_lrp
from pyro_lrp import metrics
from pyro_lrp.core.randomness import seeded
from pyro_lrp.objectives import BilevelELBO, LatentGame
from pyro_lrp.trainer import Phase, PriorPhase, Trainer
from pyro_lrp.trainer.devices import choose_device

ARMS = {"paper": 0.0, "code_noise_0.3": 0.3}


class Record:
    """The rows and pictures of one run."""

    def __init__(self, folder, beta, seed):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.beta = beta
        self.seed = seed
        self.start = time.perf_counter()

    def write(self, **row):
        seconds = round(time.perf_counter() - self.start, 1)
        row = {"data": "mnist", "beta": self.beta, "seed": self.seed, **row, "at": seconds}
        print(row, flush=True)
        with open(self.folder / f"beta_{self.beta:g}_seed_{self.seed}.jsonl", "a") as file:
            file.write(json.dumps(row) + "\n")

    @torch.no_grad()
    def draw(self, autoencoder, name):
        with seeded(0, "grid"):
            images = autoencoder.eval().decode(autoencoder.prior().sample((100,)))
        path = self.folder / f"beta_{self.beta:g}_seed_{self.seed}_{name}.png"
        torchvision.utils.save_image(images.clamp(0, 1).cpu(), path, nrow=10, padding=0)


def distance(autoencoder, run):
    results = metrics.evaluate(autoencoder, run.data, ["fd_classifier"], seen=run.seen, n=10_000)
    return results["fd_classifier"]["value"]


def prior_alone(autoencoder, run, epochs, noise, record, arm):
    """The prior-only phase from here, with the distance at four points of it."""

    def watch(report):
        row = {name: value for name, value in report.row.items() if isinstance(value, int | float)}
        record.write(**{**row, "arm": arm, "fd": distance(report.game.autoencoder, run)})

    Trainer(
        LatentGame(autoencoder, BilevelELBO(0.0)), run.data, phases=[Phase("prior_only", epochs)],
        prior_phase=PriorPhase(code_noise=noise), lr=1e-4, seed=record.seed, evaluations=4, report_every=100,
        callbacks=[watch], progress=False,
    ).fit()  # fmt: skip
    z = autoencoder.prior().sample((10_000,))
    record.write(arm=arm, epochs=epochs, fd=distance(autoencoder, run), largest_z=z.abs().max().item())
    record.draw(autoencoder, arm)


def main(options):
    if torch.cuda.is_available():
        torch.set_float32_matmul_precision("high")
    record = Record(options.out, options.beta, options.seed)
    run = pyro_lrp.train(
        "data=mnist", "model=vae_flow_learned_gamma", "likelihood.lr=1e-2", f"beta={options.beta:g}",
        f"seed={options.seed}", f"epochs={options.epochs}", "prior_epochs=0", "progress=false",
        f"data.root={options.data_root}", "trainer.evaluations=2", f"name=cuda_claim/beta_{options.beta:g}",
    )  # fmt: skip
    autoencoder = run.autoencoder.to(choose_device("auto"))
    gamma = autoencoder.likelihood.gamma.item()
    record.write(arm="joint", epochs=options.epochs, fd=distance(autoencoder, run), gamma=gamma)
    record.draw(autoencoder, "joint")
    for arm, noise in ARMS.items():
        prior_alone(copy.deepcopy(autoencoder), run, options.prior_epochs, noise, record, arm)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_root")
    parser.add_argument("--beta", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--prior-epochs", type=int, default=100)
    parser.add_argument("--out", default="cuda_claim")
    main(parser.parse_args())
