"""Members of a sweep as one computation, beside one after another: time of a step, per member.

    python tests/benchmarks/many_runs.py [--members 4,16] [--rounds 7] [--device cpu] [--out FILE]

Members differ in their seeds. The two ways take the same steps of the same models, interleaved round by round
in one process with one thread; printed are medians of the milliseconds per step and member, and the ratio with
a 95 % interval from resampled rounds. On a CPU it is the process's own time, which other work changes little.
With ``--device cuda`` both ways replay captured steps, and ``--members 64`` is the goal's number.
"""

import argparse
import json
import os
import platform
import random
import statistics
import time

import pyro
import torch

from pyro_lrp import config
from pyro_lrp.trainer.together import Apart, AsOne

SMALL = ("network=mlp", "latent_dim=16", "prior.layers=8", "prior.width=64")
SIZES = {
    "flow 8x64 alone, latent 16": ("prior_only", *SMALL),
    "digits, the prior alone": ("prior_only", "data=digits"),
    "digits, joint": ("joint", "data=digits"),
    "mlp and flow 8x64, joint": ("joint", *SMALL),
    "mnist_small on made-up images, joint": (
        "joint", "experiment=mnist_small", "data=fake", "data.image_shape=[1,28,28]", "data.n=2000",
    ),
}  # fmt: skip


def trainers(overrides, members, device):
    """Trainers of all members, once each began its phase."""
    phase, *typed = overrides
    if not any(argument.startswith("data=") for argument in typed):
        typed = ["data=digits", *typed]
    made = []
    for seed in range(members):
        common = (f"device={device}", "threads=1", "progress=false", f"seed={seed}")
        plan = config.compose_train(*typed, *common)
        run = config.Run.planned(plan)
        run.directory = None
        trainer = run.trainer(plan.circumstances)
        trainer.threads = 1
        trainer.prepare({})
        made.append(trainer)
    (span,) = (span for span in made[0].spans if span.name == phase)
    for trainer in made:
        trainer.step = span.start
    return made, span


def clock(device):
    """Seconds: of this process on a CPU, by the wall once a GPU has finished."""
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def measured(overrides, members, rounds, device, steps=4):
    """Milliseconds per step and member of each round, one after another and as one."""
    made, span = trainers(overrides, members, device)
    batches = [trainer.begin(span) for trainer in made]
    apart = Apart(made, [trainer.step_of(span) for trainer in made], batches, span)
    ways = {"apart": apart, "as one": AsOne(apart)}
    times = {name: [] for name in ways}
    for number in range(rounds + 2):  # the first two rounds record graphs and fill caches
        for name, way in ways.items():
            begun = clock(device)
            for _ in range(steps):
                way.take()
            if number >= 2:
                times[name].append(1e3 * (clock(device) - begun) / (steps * members))
    return times


def interval(times, draws=2000):
    """The 95 % interval of the ratio of medians, from resampled rounds."""
    generator = random.Random(0)
    pairs = list(zip(times["apart"], times["as one"], strict=True))
    ratios = []
    for _ in range(draws):
        chosen = generator.choices(pairs, k=len(pairs))
        ratios.append(statistics.median(a for a, _ in chosen) / statistics.median(b for _, b in chosen))
    ratios.sort()
    return ratios[int(0.025 * draws)], ratios[int(0.975 * draws)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", default="4,16")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--sizes", default=None, help="a part of their names")
    parser.add_argument("--out", default=None)
    options = parser.parse_args()
    torch.set_num_threads(1)
    where = f"torch {torch.__version__}, {platform.machine()}, load {os.getloadavg()[0]:.1f}"
    if options.device != "cpu":
        where = f"torch {torch.__version__}, {torch.cuda.get_device_name()}"
    print(f"{where}\n{'':<40}{'members':>8}{'apart':>10}{'as one':>10}{'times as fast':>24}")
    with pyro.validation_enabled(False):
        for name, overrides in SIZES.items():
            if options.sizes and options.sizes not in name:
                continue
            for members in map(int, options.members.split(",")):
                report(
                    name, members, measured(overrides, members, options.rounds, options.device), where, options
                )


def report(name, members, times, where, options):
    medians = {way: statistics.median(values) for way, values in times.items()}
    low, high = interval(times)
    ratio = medians["apart"] / medians["as one"]
    print(
        f"{name:<40}{members:>8}{medians['apart']:>8.2f} ms{medians['as one']:>7.2f} ms"
        f"{ratio:>10.2f} [{low:.2f}, {high:.2f}]",
        flush=True,
    )
    if options.out:
        row = {
            "size": name, "members": members, **{f"{way} (ms)": round(ms, 3) for way, ms in medians.items()},
            "times as fast": round(ratio, 3), "interval": [round(low, 3), round(high, 3)], "where": where,
        }  # fmt: skip
        with open(options.out, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
