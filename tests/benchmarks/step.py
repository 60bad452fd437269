"""Time of one training step: a bare PyTorch loop, Pyro's SVI, ours, and pythae's VAE, at five sizes.

    OMP_NUM_THREADS=1 python tests/benchmarks/step.py [--sizes digits ...] [--rounds 11] [--out FILE.csv]

Joint steps, and steps of the prior alone from cached codes. The contestants of a size are interleaved, round
by round, in one process. For each: the median of the rounds; its ratio to the bare loop of the same kind,
median over the rounds and 95 % interval (bootstrap); the operations of a step, views apart; and the ratio to
its floor, the time that the floating-point operations of the bare loop take in products of 512 x 512 matrices,
timed in the same rounds. ``--compile`` adds our steps under ``compile=full``, which takes minutes to compile.
The VAE of pythae has the same networks and N(0, I) in place of the flow; it is there if pythae is installed.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import csv
import importlib.util
import os
import statistics
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyro
import torch
from pyro.infer import SVI, Trace_ELBO
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from pyro_lrp import data, likelihoods, models, networks, objectives, priors, transforms
from pyro_lrp.core import randomness
from pyro_lrp.models import Codes
from pyro_lrp.schedules import Progress
from pyro_lrp.trainer.capture import StepFactory
from pyro_lrp.trainer.devices import make_fabric
from pyro_lrp.trainer.optimizers import make_optimizers
from pyro_lrp.trainer.scoring import Window

BATCH, SHAPE = 100, (1, 28, 28)
SIDE = 512  # of the matrices that are multiplied for the floor


@dataclass(frozen=True)
class Size:
    """A network and a flow."""

    shape: tuple[int, int, int]
    latent: int
    layers: int
    width: int
    channels: tuple[int, int] = (64, 128)
    hidden: int = 1024
    batch: int = BATCH


SIZES = {
    "digits": Size((1, 8, 8), 6, 8, 128, (32, 64), 256),
    "mnist_small": Size(SHAPE, 16, 8, 256, (16, 32), 256),
    "infogan_8x256": Size(SHAPE, 64, 8, 256),
    "infogan_16x256": Size(SHAPE, 64, 16, 256),
    "infogan_24x1024": Size(SHAPE, 64, 24, 1024),
}
PAPER = SIZES["infogan_24x1024"]


def autoencoder(layers, width, device, size=PAPER):
    with randomness.seeded(0):
        encoder, decoder = networks.infogan(size.shape, size.latent, size.channels, size.hidden)
        prior = priors.paper_flow(size.latent, layers, width)
    return models.Autoencoder(encoder, decoder, prior, likelihoods.Gaussian()).to(device)


class BareLoop:
    """What a careful person writes by hand at beta = 0: no Pyro, fused Adam, the flow's listing unrolled."""

    def __init__(self, ae, images):
        self.encoder, self.decoder, self.images = ae.encoder, ae.decoder, images
        stack = ae.prior.transforms[::-1]  # latent to base
        self.affines = [t for t in stack if isinstance(t, transforms.ElementwiseAffine)]
        self.networks = [t.conditioner for t in stack if isinstance(t, transforms.SigmoidCoupling)]
        self.adam = torch.optim.Adam(ae.parameters(), lr=1e-4, fused=True)

    def flow_nll(self, z):
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
        return (0.5 * z.square().sum(1) + 0.9189385 * z.shape[1] - logdet).mean()

    def rows(self, tensor):
        return tensor[torch.randint(len(tensor), (BATCH,), device=tensor.device)]

    def step(self):
        x = self.rows(self.images).float() / 255
        loc, scale = self.encoder(x)
        z = loc + scale * torch.randn_like(loc)
        reconstruction = (0.5 * (x - self.decoder(z)).square() + 0.9189385).flatten(1).sum(1).mean()
        self.adam.zero_grad()
        (reconstruction + self.flow_nll(z.detach())).backward()
        self.adam.step()


class BarePrior(BareLoop):
    """The same for the flow alone, on codes that are there."""

    def __init__(self, ae, codes):
        super().__init__(ae, codes.loc)
        self.codes = codes
        self.adam = torch.optim.Adam(ae.prior.parameters(), lr=1e-4, fused=True)

    def step(self):
        index = torch.randint(len(self.codes.loc), (BATCH,), device=self.codes.loc.device)
        loc, scale = self.codes.loc[index], self.codes.scale[index]
        self.adam.zero_grad()
        self.flow_nll(loc + scale * torch.randn_like(scale)).backward()
        self.adam.step()


class PyroSVI:
    """Pyro as its tutorials show it: SVI, Trace_ELBO, pyro.optim.Adam (so beta = 1; validation off)."""

    def __init__(self, ae, images, name):
        self.images = images
        self.svi = SVI(*ae.as_pyro(name), pyro.optim.Adam({"lr": 1e-4}), Trace_ELBO())

    def step(self):
        index = torch.randint(len(self.images), (BATCH,), device=self.images.device)
        with pyro.validation_enabled(False):
            self.svi.step(self.images[index].float() / 255)


class Pythae:
    """pythae's VAE, its trainer's step by hand: the same encoder and decoder, N(0, I), fused Adam."""

    def __init__(self, ae, images):
        from pythae.models import VAE, VAEConfig
        from pythae.models.base.base_utils import ModelOutput
        from pythae.models.nn import BaseDecoder, BaseEncoder

        class Encoder(BaseEncoder):
            def __init__(self):
                super().__init__()
                self.network = ae.encoder

            def forward(self, x):
                loc, scale = self.network(x)
                return ModelOutput(embedding=loc, log_covariance=2 * scale.log())

        class Decoder(BaseDecoder):
            def __init__(self):
                super().__init__()
                self.network = ae.decoder

            def forward(self, z):
                return ModelOutput(reconstruction=self.network(z))

        self.images = images
        shape = tuple(images.shape[1:])
        latent = ae.prior.event_shape[0]
        config = VAEConfig(input_dim=shape, latent_dim=latent)
        self.model = VAE(config, Encoder(), Decoder()).to(images.device)
        self.adam = torch.optim.Adam(self.model.parameters(), lr=1e-4, fused=True)

    def step(self):
        index = torch.randint(len(self.images), (BATCH,), device=self.images.device)
        output = self.model({"data": self.images[index].float() / 255})
        self.adam.zero_grad()
        output.loss.backward()
        self.adam.step()
        output.loss.item()  # as its trainer does


class Ours:
    """The trainer's own step, seeding and collecting of terms included."""

    def __init__(self, ae, dataset, beta, codes=None, compile="off"):
        self.game = objectives.LatentGame(ae, objectives.BilevelELBO(beta))
        fabric = make_fabric(next(ae.parameters()).device.type, "32")
        phase, rows, fetch = "joint", dataset.train.to(fabric.device), data.Split.batch
        if codes is not None:
            phase, rows, fetch = "prior_only", codes, Codes.rows
        length = len(dataset.train)
        self.batches = data.Batches(rows, BATCH, fetch=fetch, length=length, device=fabric.device)
        optimizers = make_optimizers(self.game, self.game.players(), lr=1e-4)
        factory = StepFactory(compile, lambda line: None, None)
        self.one_step = factory(phase, self.game, self.game.turns(phase), optimizers, fabric)
        self.window = Window()
        self.number = 0

    def step(self):
        with pyro.validation_enabled(False):
            self.one_step.prepare(self.number, Progress(0, 0.0))
            batch = self.batches.at(self.number)
            self.window.add(self.one_step([batch]))
        self.number += 1


class Products:
    """A large matrix product, whose rate is the floor's."""

    def __init__(self, device):
        self.a = torch.randn(SIDE, SIDE, device=device)
        self.b = torch.randn(SIDE, SIDE, device=device)

    def step(self):
        torch.mm(self.a, self.b)


class Operations(TorchDispatchMode):
    """Counts the operations of a block that compute something."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += not func.is_view and not func.name().startswith("profiler::")
        return func(*args, **(kwargs or {}))


def operations(contestant):
    """The operations of a step."""
    with Operations() as counted:
        contestant.step()
    return counted.count


def work(contestant):
    """The floating-point operations of the products and convolutions of a step."""
    with FlopCounterMode(display=False) as counter:
        contestant.step()
    return counter.get_total_flops()


def time_round(contestant, steps, device):
    """Milliseconds of a step; on one thread of a CPU, of its time, which other processes disturb less."""
    clock = time.perf_counter
    if device.type == "cpu" and torch.get_num_threads() == 1:
        clock = time.process_time
    start = clock()
    for _ in range(steps):
        contestant.step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return 1e3 * (clock() - start) / steps


def interval(values):
    """Median and 95 % interval of the median, by bootstrap."""
    values = np.asarray(values)
    generator = np.random.default_rng(0)
    resampled = generator.choice(values, (2000, len(values)))
    low, high = np.quantile(np.median(resampled, axis=1), [0.025, 0.975])
    return float(np.median(values)), float(low), float(high)


def contestants(size, name, dataset, images, device, *, compiled):
    """Those of joint steps and those of the prior alone, the bare loop first."""
    ae = autoencoder(size.layers, size.width, device, size)
    with torch.no_grad():
        loc, scale = ae.encoder(images.float() / 255)
    codes = Codes(loc, scale, torch.zeros(len(loc), 0, device=device))

    def new():
        return copy.deepcopy(ae)

    joint: dict[str, Any] = {
        "bare loop": BareLoop(new(), images),
        "ours, beta = 0": Ours(new(), dataset, 0.0),
        "ours, beta = 0.5": Ours(new(), dataset, 0.5),
        "Pyro SVI": PyroSVI(new(), images, f"svi_{name}"),
    }
    alone: dict[str, Any] = {"bare loop": BarePrior(new(), codes), "ours": Ours(new(), dataset, 0.0, codes)}
    if importlib.util.find_spec("pythae"):
        joint["pythae VAE, without a flow"] = Pythae(new(), images)
    if compiled:
        joint["ours, beta = 0, compile=full"] = Ours(new(), dataset, 0.0, compile="full")
        alone["ours, compile=full"] = Ours(new(), dataset, 0.0, codes, compile="full")
    return {"joint": joint, "prior alone": alone}


def measure(of_size, products, device, seconds, rounds):
    """The rows of a size."""
    for group in of_size.values():
        for contestant in group.values():
            time_round(contestant, 2, device)  # warm-up
    counted = {
        (phase, name): operations(contestant)
        for phase, group in of_size.items()
        for name, contestant in group.items()
        if not name.endswith("full")  # a compiler's kernels are not counted
    }
    flops = {phase: work(group["bare loop"]) for phase, group in of_size.items()}
    times: dict[tuple[str, str], list[float]] = {}
    floors: list[float] = []
    for _ in range(rounds):
        floors.append(2 * SIDE**3 / time_round(products, 50, device))  # operations in a millisecond
        for phase, group in of_size.items():
            for name, contestant in group.items():
                own = times.setdefault((phase, name), [])
                steps = 2
                if own:
                    steps = max(2, round(1e3 * seconds / len(group) / own[0]))
                own.append(time_round(contestant, steps, device))
    for (phase, name), values in times.items():
        bare = times[phase, "bare loop"]
        ratio, low, high = interval([value / other for value, other in zip(values, bare, strict=True)])
        floor = flops[phase] / statistics.median(floors)
        milliseconds = statistics.median(values)
        yield {
            "phase": phase, "step": name, "ms": round(milliseconds, 3), "over_bare": round(ratio, 3),
            "low": round(low, 3), "high": round(high, 3), "operations": counted.get((phase, name), ""),
            "floor_ms": round(floor, 3), "over_floor": round(milliseconds / floor, 2),
        }  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=[*SIZES], default=[*SIZES])
    parser.add_argument("--seconds", type=float, default=1.0, help="of a round, for each phase")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--out", help="a CSV file; rows of other sizes stay in it")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    load = os.getloadavg()[0]
    print(f"torch {torch.__version__}, threads: {options.threads}, {device}, load {load:.1f}")
    rows = []
    for name in options.sizes:
        size = SIZES[name]
        dataset = data.fake(1000, size.shape)
        images = dataset.train.images.to(device)
        of_size = contestants(size, name, dataset, images, device, compiled=options.compile)
        print(f"\n{name}: images {size.shape}, latent {size.latent}, flow {size.layers} x {size.width}")
        print(f"  {'':12}{'':30}{'ms':>9}  {'x bare [95 %]':>20}{'operations':>12}{'x floor':>9}")
        for row in measure(of_size, Products(device), device, options.seconds, options.rounds):
            ratio = f"{row['over_bare']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"
            print(
                f"  {row['phase']:12}{row['step']:30}{row['ms']:9.2f}  {ratio:>20}{row['operations']:>12}"
                f"{row['over_floor']:9.2f}",
                flush=True,
            )
            rows.append({"size": name, **row, "threads": options.threads, "load": round(load, 1)})
        if options.out:
            save(options.out, rows)


def save(path, rows):
    """Write the rows, after those of other sizes that are there."""
    mine = {row["size"] for row in rows}
    kept = []
    with contextlib.suppress(FileNotFoundError), open(path, newline="", encoding="utf-8") as file:
        kept = [row for row in csv.DictReader(file) if row["size"] not in mine]
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*rows[0]])
        writer.writeheader()
        writer.writerows([*kept, *rows])


if __name__ == "__main__":
    main()
