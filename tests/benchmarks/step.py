"""Time of one training step: a bare PyTorch loop, Pyro's SVI, and ours.

    python tests/benchmarks/step.py [--steps 8] [--rounds 9] [--threads 2] [--device cpu]

The network is the paper's InfoGAN one at 28x28 with latent 64, batch 100. The three are interleaved, round by
round, in one process; medians are printed, ratios to the bare loop (below 1.10 is the aim for ours), and how
many operations a step has, views apart.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from typing import Any

import pyro
import torch
from pyro.infer import SVI, Trace_ELBO
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from pyro_lrp import data, likelihoods, models, networks, objectives, priors, transforms
from pyro_lrp.core import randomness
from pyro_lrp.schedules import Progress
from pyro_lrp.trainer import Step
from pyro_lrp.trainer.devices import make_fabric
from pyro_lrp.trainer.optimizers import make_optimizers
from pyro_lrp.trainer.scoring import Window

BATCH, LATENT, SHAPE = 100, 64, (1, 28, 28)


def autoencoder(layers: int, width: int, device: torch.device) -> models.Autoencoder:
    with randomness.seeded(0):
        encoder, decoder = networks.infogan(SHAPE, LATENT)
        prior = priors.paper_flow(LATENT, layers, width)
    return models.Autoencoder(encoder, decoder, prior, likelihoods.Gaussian()).to(device)


class BareLoop:
    """What a careful person writes by hand at beta = 0: no Pyro, fused Adam, the flow's listing unrolled."""

    def __init__(self, ae: models.Autoencoder, images: torch.Tensor) -> None:
        self.encoder, self.decoder, self.images = ae.encoder, ae.decoder, images
        stack = ae.prior.transforms[::-1]  # latent to base
        self.affines = [t for t in stack if isinstance(t, transforms.ElementwiseAffine)]
        self.networks = [t.conditioner for t in stack if isinstance(t, transforms.SigmoidCoupling)]
        self.adam = torch.optim.Adam(ae.parameters(), lr=1e-4, fused=True)

    def flow_nll(self, z: torch.Tensor) -> torch.Tensor:
        logdet = torch.zeros(len(z), device=z.device)
        for layer, network in enumerate(self.networks):
            if layer % 2 == 0:
                affine = self.affines[layer // 2]
                z = z * affine.log_scale.exp() + affine.shift
                logdet = logdet + affine.log_scale.sum()
            a, b = z.chunk(2, dim=1)
            shift, raw = network(a).chunk(2, dim=1)
            z = torch.cat([torch.sigmoid(raw + 2) * (b + shift), a], dim=1)
            logdet = logdet + F.logsigmoid(raw + 2).sum(1)
        return (0.5 * z.square().sum(1) + 0.9189385 * LATENT - logdet).mean()

    def step(self) -> None:
        x = self.images[torch.randint(len(self.images), (BATCH,), device=self.images.device)].float() / 255
        loc, scale = self.encoder(x)
        z = loc + scale * torch.randn_like(loc)
        reconstruction = (0.5 * (x - self.decoder(z)).square() + 0.9189385).flatten(1).sum(1).mean()
        self.adam.zero_grad()
        (reconstruction + self.flow_nll(z.detach())).backward()
        self.adam.step()


class PyroSVI:
    """Pyro as its tutorials show it: SVI, Trace_ELBO, pyro.optim.Adam (so beta = 1; validation off)."""

    def __init__(self, ae: models.Autoencoder, images: torch.Tensor, name: str) -> None:
        self.images = images
        self.svi = SVI(*ae.as_pyro(name), pyro.optim.Adam({"lr": 1e-4}), Trace_ELBO())

    def step(self) -> None:
        index = torch.randint(len(self.images), (BATCH,), device=self.images.device)
        with pyro.validation_enabled(False):
            self.svi.step(self.images[index].float() / 255)


class Ours:
    """The trainer's own step, seeding and collecting of terms included."""

    def __init__(self, ae: models.Autoencoder, dataset: data.ImageData, beta: float) -> None:
        self.game = objectives.LatentGame(ae, objectives.BilevelELBO(beta))
        fabric = make_fabric(next(ae.parameters()).device.type, "32")
        images = dataset.train.to(fabric.device)
        self.batches = data.Batches(images, BATCH, fetch=data.Split.batch, device=fabric.device)
        optimizers = make_optimizers(self.game, self.game.players(), lr=1e-4)
        self.one_step = Step(self.game, self.game.turns("joint"), optimizers, fabric)
        self.window = Window()
        self.number = 0

    def step(self) -> None:
        with pyro.validation_enabled(False):
            self.one_step.prepare(self.number, Progress(0, 0.0))
            batch = self.batches.at(self.number)
            self.window.add(self.one_step([batch]))
        self.number += 1


class Operations(TorchDispatchMode):
    """Counts the operations of a block that compute something."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not func.is_view and not func.name().startswith("profiler::")
        return func(*args, **(kwargs or {}))


def operations(contestant: BareLoop | PyroSVI | Ours) -> int:
    """The operations of a step."""
    with Operations() as counted:
        contestant.step()
    return counted.count


def time_round(contestant: BareLoop | PyroSVI | Ours, steps: int, device: torch.device) -> float:
    start = time.perf_counter()
    for _ in range(steps):
        contestant.step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return 1e3 * (time.perf_counter() - start) / steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    dataset = data.fake(2000, SHAPE)
    images = dataset.train.images.to(device)
    print(f"torch {torch.__version__}, {options.threads} threads, {device}; medians of {options.rounds} rounds")
    for layers, width in ((8, 256), (24, 1024)):
        ae = autoencoder(layers, width, device)
        contestants = {
            "bare loop, fused Adam": BareLoop(copy.deepcopy(ae), images),
            "Pyro SVI, Trace_ELBO": PyroSVI(copy.deepcopy(ae), images, f"svi_{layers}"),
            "ours, beta = 0": Ours(copy.deepcopy(ae), dataset, 0.0),
            "ours, beta = 1": Ours(copy.deepcopy(ae), dataset, 1.0),
        }
        times: dict[str, list[float]] = {name: [] for name in contestants}
        for contestant in contestants.values():
            time_round(contestant, 2, device)  # warm-up
        for _ in range(options.rounds):
            for name, contestant in contestants.items():
                times[name].append(time_round(contestant, options.steps, device))
        bare = times["bare loop, fused Adam"]
        print(f"\nInfoGAN network 28x28, latent {LATENT}, flow {layers} x {width}, batch {BATCH}")
        for name, values in times.items():
            ratio = statistics.median(v / b for v, b in zip(values, bare, strict=True))
            count = operations(contestants[name])
            print(
                f"  {name:<24}{statistics.median(values):9.1f} ms   {ratio:5.2f} x bare   {count:6d} operations"
            )


if __name__ == "__main__":
    main()
