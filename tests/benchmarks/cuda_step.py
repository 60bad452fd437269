"""Captured steps on a CUDA device: equal to eager ones, and how fast.

    PYTHONPATH=tests python tests/benchmarks/cuda_step.py equality [--out FILE]
    PYTHONPATH=tests python tests/benchmarks/cuda_step.py speed [--out FILE] [--minutes 3]

``equality`` trains every small game of the tests for 32 steps three times, twice eagerly and once captured, in
float32 and bf16: the largest relative difference of a metric, and how many tensors of the game end with equal
bits. ``speed`` times a step of the paper's MNIST model (InfoGAN network, latent 64, batch 100, flow 24 x 1024,
then 8 x 256) in each mode, interleaved, in medians of 7 rounds; it counts kernels, and gives their share of the
time, and the peak of memory. With TF32 only the captured modes and the bare loop run.
"""

import argparse
import copy
import json
import os
import statistics
import time

import pyro
import step as eager
import torch
from builders import GAMES
from torch.profiler import ProfilerActivity, profile

from pyro_lrp import data, objectives
from pyro_lrp.core.randomness import seeded
from pyro_lrp.trainer import Phase, Trainer
from pyro_lrp.trainer.scoring import Window

CLOCK = ("seconds", "images_per_second")


class TrainerSteps:
    """The steps of a trainer, one by one."""

    def __init__(self, compile, autoencoder, dataset, beta=0.0, precision="32", prior_only=False):
        phases = [Phase("joint", 10**6)]
        if prior_only:
            phases = [Phase("joint", 1), Phase("prior_only", 10**6)]
        game = objectives.LatentGame(autoencoder, objectives.BilevelELBO(beta))
        self.trainer = Trainer(
            game, dataset, phases=phases, device="cuda", precision=precision, compile=compile, progress=False
        )
        self.trainer.prepare({})
        self.span = self.trainer.spans[-1]
        self.batches = self.trainer.begin(self.span)
        self.one_step = self.trainer.step_of(self.span)
        self.window = Window()
        self.number = 0

    def step(self):
        with pyro.validation_enabled(False):
            self.one_step.prepare(self.number, self.span.progress(self.span.start + self.number))
            batches = [self.batches.at(self.number, stream) for stream in range(self.one_step.streams)]
            self.window.add(self.one_step(batches))
        self.number += 1
        if self.number % 50 == 0:
            self.window = Window()


class CapturedBareLoop(eager.BareLoop):
    """The bare loop, recorded by a CUDA graph."""

    def __init__(self, autoencoder, images):
        super().__init__(autoencoder, images)
        self.adam = torch.optim.Adam(autoencoder.parameters(), lr=1e-4, fused=True, capturable=True)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                super().step()
        torch.cuda.current_stream().wait_stream(stream)
        self.adam.zero_grad()
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            super().step()

    def step(self):
        self.graph.replay()


def trained(compile, make, precision):
    with seeded(0, "game"):
        game = make()
    phases = [Phase("joint", 4), Phase("prior_only", 4)]
    run = Trainer(
        game, data.fake(64, (1, 8, 8)), phases=phases, batch_size=16, device="cuda", precision=precision,
        compile=compile, report_every=1, progress=False,
    )  # fmt: skip
    return game, run.fit()


def difference(rows, others):
    """The largest relative difference of two histories."""
    largest = 0.0
    for row, other in zip(rows, others, strict=True):
        for name, value in row.items():
            if isinstance(value, float) and name not in CLOCK:
                largest = max(largest, abs(value - other[name]) / (1 + abs(value)))
    return largest


def equality(write, options):
    for precision in ("32", "bf16-mixed"):
        for name, make in GAMES.items():
            first, rows = trained("off", make, precision)
            _, again = trained("off", make, precision)
            captured, others = trained("graph", make, precision)
            pairs = [*zip(first.state_dict().values(), captured.state_dict().values(), strict=True)]
            write(
                game=name, precision=precision, eager_twice=difference(rows, again),
                captured=difference(rows, others), equal_tensors=sum(torch.equal(*pair) for pair in pairs),
                tensors=len(pairs),
            )  # fmt: skip


def contestants(autoencoder, dataset, images, tf32):
    """Makers of what is timed, by name."""

    def new():
        return copy.deepcopy(autoencoder)

    modes = {
        "beta 0": {},
        "beta 0.5": {"beta": 0.5},
        "prior only": {"prior_only": True},
        "bf16": {"precision": "bf16-mixed"},
    }
    makers = {"bare loop, fused Adam": lambda: eager.BareLoop(new(), images)}
    if not tf32:
        makers["Pyro SVI, Trace_ELBO"] = lambda: eager.PyroSVI(new(), images, "svi")
        for name, mode in modes.items():
            makers[f"ours, eager, {name}"] = lambda mode=mode: TrainerSteps("off", new(), dataset, **mode)
    makers["bare loop, captured"] = lambda: CapturedBareLoop(new(), images)
    for name, mode in modes.items():
        makers[f"ours, captured, {name}"] = lambda mode=mode: TrainerSteps("graph", new(), dataset, **mode)
    return makers


def kernels(contestant, steps=4):
    """Kernels of a step, and the milliseconds that they take."""
    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        for _ in range(steps):
            contestant.step()
        torch.cuda.synchronize()
    events = [event for event in profiled.events() if event.device_type == torch.autograd.DeviceType.CUDA]
    return len(events) / steps, sum(event.time_range.elapsed_us() for event in events) / 1e3 / steps


def speed(write, options):
    device = torch.device("cuda")
    dataset = data.fake(60_000, eager.SHAPE)
    images = dataset.train.images.to(device)
    stop = time.perf_counter() + 60 * options.minutes
    for layers, width in ((24, 1024), (8, 256)):
        autoencoder = eager.autoencoder(layers, width, device)
        for tf32 in (False, True):
            if time.perf_counter() < stop:
                with_tf32(tf32)
                measure(
                    write, contestants(autoencoder, dataset, images, tf32), flow=f"{layers}x{width}", tf32=tf32
                )


def with_tf32(on):
    torch.backends.cudnn.allow_tf32 = on
    torch.set_float32_matmul_precision("high" if on else "highest")


def measure(write, makers, **what):
    made = {}
    peaks = {}
    for name, make in makers.items():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        made[name] = make()
        for _ in range(6):
            made[name].step()
        torch.cuda.synchronize()
        peaks[name] = (torch.cuda.max_memory_allocated() - before) / 2**20
    times = {name: [] for name in made}
    for _ in range(7):
        for name, contestant in made.items():
            steps = 60 if "captured" in name else 15
            times[name].append(eager.time_round(contestant, steps, torch.device("cuda")))
    bare = times["bare loop, fused Adam"]
    for name, values in times.items():
        count, busy = kernels(made[name])
        milliseconds = statistics.median(values)
        ratio = statistics.median(value / other for value, other in zip(values, bare, strict=True))
        write(
            **what, mode=name, ms=round(milliseconds, 3), min=round(min(values), 3), max=round(max(values), 3),
            over_bare=round(ratio, 3), kernels=count, kernel_ms=round(busy, 3),
            busy=round(busy / milliseconds, 3), peak_mib=round(peaks[name]),
        )  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("section", choices=["equality", "speed"])
    parser.add_argument("--out", default="cuda_step.jsonl")
    parser.add_argument("--minutes", type=float, default=3.0)
    options = parser.parse_args()

    def write(**row):
        line = json.dumps({"section": options.section, **row})
        print(line, flush=True)
        with open(options.out, "a") as file:
            file.write(line + "\n")

    write(
        device=torch.cuda.get_device_name(), torch=torch.__version__, pyro=pyro.__version__, cpus=os.cpu_count()
    )
    try:
        {"equality": equality, "speed": speed}[options.section](write, options)
    except Exception as error:  # a failed recording leaves the generators unusable, so nothing goes on after it
        write(failed=f"{type(error).__name__}: {' '.join(str(error).split())[:400]}")
        raise


if __name__ == "__main__":
    main()
