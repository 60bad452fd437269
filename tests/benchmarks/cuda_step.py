"""Captured and compiled steps on a CUDA device: how near they are to eager ones, and how fast.

    PYTHONPATH=tests python tests/benchmarks/cuda_step.py [all|equality|speed] [--out FILE] [--minutes 7]

``equality`` trains every small game of the tests for 32 steps three times, twice eagerly and once captured, in
float32 and bf16: the largest relative difference of a metric, and how many tensors of the game end with equal
bits. Two games are compiled, and a small convolutional model is trained for 16 joint steps in each precision,
in channels-last layout and compiled, and compared with float32. ``speed`` times a step of the paper's MNIST
model (InfoGAN network, latent 64, batch 100, flow 24 x 1024, then 8 x 256) in each mode, interleaved, in
medians of 7 rounds; it counts kernels, and gives their share of the time, the peak of memory, and the seconds
until six steps were taken, compiling included. ``all`` gives ``equality`` two fifths of the minutes. What the
time does not suffice for is skipped, and its row says so. ``--device cpu`` tries all of it at toy sizes, with
a recorder in place of a CUDA graph.
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
from recorded_graph import RecordedGraph
from torch.profiler import ProfilerActivity, profile

from pyro_lrp import data, objectives
from pyro_lrp.core.randomness import seeded
from pyro_lrp.trainer import Phase, Trainer
from pyro_lrp.trainer.capture import StepFactory
from pyro_lrp.trainer.scoring import Window

CLOCK = ("seconds", "images_per_second")
COMPILED = ("bilevel", "adversarial")  # games whose compiled steps are compared
TOY = eager.Size((1, 8, 8), 4, 2, 16, (4, 8), 16)
SECONDS = {"full": 100, "graph": 12, "off": 6}  # that a contestant may take to be built and timed


class Device:
    """Where it runs, and until when."""

    def __init__(self, name, minutes):
        self.name = name
        self.cuda = name == "cuda"
        self.target = torch.device(name)
        self.begun = time.perf_counter()
        self.minutes = minutes
        self.stop = self.begun + 60 * minutes

    def until(self, share):
        """Let that share of the minutes be the end."""
        self.stop = self.begun + 60 * self.minutes * share

    def lacks(self, seconds):
        return self.stop - time.perf_counter() < seconds

    def wait(self):
        if self.cuda:
            torch.cuda.synchronize()

    def trainer(self, game, dataset, compile="off", **options):
        """On a CPU a recorder stands in for the CUDA graph of ``compile="graph"``."""
        recorded = compile == "graph" and not self.cuda
        run = Trainer(
            game, dataset, device=self.name, compile="off" if recorded else compile, progress=False, **options
        )
        if recorded:
            run.step_factory = StepFactory("graph", run.log, RecordedGraph)
        return run


class TrainerSteps:
    """The steps of a trainer, one by one."""

    def __init__(self, device, autoencoder, dataset, compile="off", beta=0.0, prior_only=False, **options):
        phases = [Phase("joint", 10**6)]
        if prior_only:
            phases = [Phase("joint", 1), Phase("prior_only", 10**6)]
        game = objectives.LatentGame(autoencoder, objectives.BilevelELBO(beta))
        self.trainer = device.trainer(game, dataset, compile, phases=phases, **options)
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

    def used(self):
        return self.trainer.step_factory.used()


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


# equality


def trained(device, make, compile="off", prior_epochs=4, shape=(1, 8, 8), **options):
    """A game after 16 joint and 16 prior-only steps; its rows, and how they were taken."""
    with seeded(0, "game"):
        game = make()
    phases = [Phase("joint", 4), Phase("prior_only", prior_epochs)]
    dataset = data.fake(64, shape)
    run = device.trainer(game, dataset, compile, phases=phases, batch_size=16, report_every=1, **options)
    rows = run.fit()
    return game, rows, run.step_factory.used()


def difference(rows, others):
    """The largest relative difference of two histories."""
    largest = 0.0
    for row, other in zip(rows, others, strict=True):
        for name, value in row.items():
            if isinstance(value, float) and name not in CLOCK:
                largest = max(largest, abs(value - other[name]) / (1 + abs(value)))
    return largest


def equality(write, device):
    for precision in ("32", "bf16-mixed"):
        for name, make in GAMES.items():
            if device.lacks(10):
                write(game=name, precision=precision, skipped="no time left")
                continue
            first, rows, _ = trained(device, make, precision=precision)
            _, again, _ = trained(device, make, precision=precision)
            captured, others, used = trained(device, make, "graph", precision=precision)
            pairs = [*zip(first.state_dict().values(), captured.state_dict().values(), strict=True)]
            write(
                game=name, precision=precision, eager_twice=difference(rows, again),
                captured=difference(rows, others), equal_tensors=sum(torch.equal(*pair) for pair in pairs),
                tensors=len(pairs), used=used,
            )  # fmt: skip
    modes_of_a_network(write, device)
    for name in COMPILED:
        if device.lacks(40):
            write(game=name, precision="32", mode="compiled", skipped="no time left")
            continue
        _, rows, _ = trained(device, GAMES[name], prior_epochs=0)
        _, others, used = trained(device, GAMES[name], "full", prior_epochs=0)
        write(game=name, precision="32", compiled=difference(rows, others), used=used)


def modes_of_a_network(write, device):
    """What precision, layout and compiling change in a convolutional model, beside float32."""
    size = TOY

    def make():
        ae = eager.autoencoder(size.layers, size.width, torch.device("cpu"), size)
        return objectives.LatentGame(ae, objectives.BilevelELBO(0.5))

    modes = {
        "captured": {"compile": "graph"},
        "channels last": {"memory_format": "channels_last"},
        "tf32": {"precision": "tf32"},
        "bf16": {"precision": "bf16-mixed"},
        "compiled": {"compile": "full"},
        "compiled, channels last": {"compile": "full", "memory_format": "channels_last"},
        "compiled, bf16": {"compile": "full", "precision": "bf16-mixed"},
    }
    _, rows, _ = trained(device, make, prior_epochs=0, shape=size.shape)
    for name, mode in modes.items():
        if name == "tf32" and not device.cuda:
            write(network="convolutional", mode=name, skipped="TF32 is CUDA's")
            continue
        if device.lacks(40 if mode.get("compile") == "full" else 5):
            write(network="convolutional", mode=name, skipped="no time left")
            continue
        _, others, used = trained(device, make, prior_epochs=0, shape=size.shape, **mode)
        last = {key: others[-1][key] for key in ("loss", "log_likelihood", "log_prior")}
        write(network="convolutional", mode=name, apart=difference(rows, others), last=last, used=used)


# speed


def contestants(device, autoencoder, dataset, images, tf32):
    """Makers of what is timed, by name, and the kind of their steps; the most telling ones first."""

    def new():
        return copy.deepcopy(autoencoder)

    def ours(compile, **mode):
        return lambda: TrainerSteps(device, new(), dataset, compile, **mode)

    half = {"precision": "bf16-mixed"}
    pixels = {"memory_format": "channels_last"}
    makers = {"bare loop, fused Adam": ("off", lambda: eager.BareLoop(new(), images))}
    if device.cuda:
        makers["bare loop, captured"] = ("graph", lambda: CapturedBareLoop(new(), images))
    if not tf32:
        makers["Pyro SVI, Trace_ELBO"] = ("off", lambda: eager.PyroSVI(new(), images, "svi"))
        makers["ours, eager, beta 0"] = ("off", ours("off"))
        makers["ours, eager, prior only"] = ("off", ours("off", prior_only=True))
    makers |= {
        "ours, captured, beta 0": ("graph", ours("graph")),
        "ours, compiled, beta 0": ("full", ours("full")),
        "ours, captured, beta 0.5": ("graph", ours("graph", beta=0.5)),
        "ours, captured, prior only": ("graph", ours("graph", prior_only=True)),
        "ours, captured, channels last": ("graph", ours("graph", **pixels)),
        "ours, captured, bf16": ("graph", ours("graph", **half)),
        "ours, compiled, prior only": ("full", ours("full", prior_only=True)),
        "ours, compiled, bf16": ("full", ours("full", **half)),
    }
    return makers


def kernels(device, contestant, steps=4):
    """Kernels of a step, and the milliseconds that they take."""
    if not device.cuda:
        return None, None
    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        for _ in range(steps):
            contestant.step()
        torch.cuda.synchronize()
    events = [event for event in profiled.events() if event.device_type == torch.autograd.DeviceType.CUDA]
    return len(events) / steps, sum(event.time_range.elapsed_us() for event in events) / 1e3 / steps


def speed(write, device):
    size, flows, length = eager.PAPER, ((24, 1024), (8, 256)), 60_000
    if not device.cuda:
        size, flows, length = TOY, ((TOY.layers, TOY.width),), 300
    dataset = data.fake(length, size.shape)
    images = dataset.train.images.to(device.target)
    for layers, width in flows:
        autoencoder = eager.autoencoder(layers, width, device.target, size)
        for tf32 in (True, False) if device.cuda else (False,):
            with_tf32(tf32)
            makers = contestants(device, autoencoder, dataset, images, tf32)
            measure(write, device, makers, flow=f"{layers}x{width}", tf32=tf32)


def with_tf32(on):
    torch.backends.cudnn.allow_tf32 = on
    torch.backends.cuda.matmul.allow_tf32 = on


def measure(write, device, makers, **what):
    made, peaks, built = {}, {}, {}
    for name, (kind, make) in makers.items():
        if device.lacks(SECONDS[kind]):
            write(**what, mode=name, skipped="no time left")
            continue
        before = memory(device, "memory_allocated")
        begun = time.perf_counter()
        made[name] = make()
        for _ in range(6):
            made[name].step()
        device.wait()
        built[name] = time.perf_counter() - begun
        peaks[name] = memory(device, "max_memory_allocated") - before
    times = {name: [] for name in made}
    for _ in range(7):
        for name, contestant in made.items():
            steps = 15 if makers[name][0] == "off" else 60
            times[name].append(eager.time_round(contestant, steps if device.cuda else 4, device.target))
    bare = times.get("bare loop, fused Adam", [])
    for name, values in times.items():
        count, busy = kernels(device, made[name])
        milliseconds = statistics.median(values)
        ratio = statistics.median(value / other for value, other in zip(values, bare, strict=True))
        write(
            **what, mode=name, ms=round(milliseconds, 3), min=round(min(values), 3), max=round(max(values), 3),
            over_bare=round(ratio, 3), kernels=count, kernel_ms=busy and round(busy, 3),
            busy=busy and round(busy / milliseconds, 3), peak_mib=round(peaks[name] / 2**20),
            built_s=round(built[name], 1), used=made[name].used() if hasattr(made[name], "used") else None,
        )  # fmt: skip


def memory(device, what):
    """Bytes on the card; asking for what is allocated begins a new peak."""
    if not device.cuda:
        return 0
    value = getattr(torch.cuda, what)()
    if what == "memory_allocated":
        torch.cuda.reset_peak_memory_stats()
    return value


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("section", choices=["all", "equality", "speed"], nargs="?", default="all")
    parser.add_argument("--out", default="cuda_step.jsonl")
    parser.add_argument("--minutes", type=float, default=7.0)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    options = parser.parse_args()
    device = Device(options.device, options.minutes)
    sections = {"equality": equality, "speed": speed}
    if options.section != "all":
        sections = {options.section: sections[options.section]}

    def write(**row):
        line = json.dumps(row)
        print(line, flush=True)
        with open(options.out, "a") as file:
            file.write(line + "\n")

    card = torch.cuda.get_device_name() if device.cuda else "cpu"
    write(device=card, torch=torch.__version__, pyro=pyro.__version__, cpus=os.cpu_count())
    for name, section in sections.items():
        device.until(0.4 if len(sections) == 2 and name == "equality" else 1.0)
        try:
            section(lambda name=name, **row: write(section=name, **row), device)
        except (
            Exception
        ) as error:  # a failed recording leaves the generators unusable: nothing goes on after it
            write(section=name, failed=f"{type(error).__name__}: {' '.join(str(error).split())[:400]}")
            raise


if __name__ == "__main__":
    main()
