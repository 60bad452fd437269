"""What watching a training costs: the progress line, a picture per report, TensorBoard.

    python tests/benchmarks/watching.py [--epochs 40] [--rounds 5] [--data mnist]

Three ways of training the same run take turns, so that a busy machine slows all of them:

- bare: no progress line, no callbacks;
- drawn: 1,000 prior samples are drawn at each report and counted, no picture is made;
- watched: the progress line on a pseudo-terminal, a picture of samples at each report, TensorBoard.

Printed are, in milliseconds per step, the time of the steps between reports, and the time and the CPU time of
the whole training, reports included; each is the median over rounds, with the ratio to the bare training, the
median over rounds of ratios within a round. Last, the CPU time that a report costs more than a bare one.
"""

import argparse
import os
import pty
import sys
import tempfile
import threading
import time
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from statistics import median

import torch

from pyro_lrp import config
from pyro_lrp.figures.training import SamplePictures
from pyro_lrp.trainer.loggers import make_logger

WAYS = ("bare", "drawn", "watched")


@contextmanager
def on_a_terminal():
    """The standard error stream is a terminal of 80 columns that nobody reads."""
    master, slave = pty.openpty()
    reader = threading.Thread(target=drain, args=(master,), daemon=True)
    reader.start()
    before = sys.stderr
    sys.stderr = os.fdopen(slave, "w")
    try:
        yield
    finally:
        sys.stderr.close()
        sys.stderr = before


def drain(master):
    """Read what the terminal is sent."""
    while True:
        try:
            if not os.read(master, 65536):
                return
        except OSError:
            return


class Unpictured(SamplePictures):
    """Draws and counts as its base does, and makes no picture."""

    def __call__(self, report):
        autoencoder = report.game.in_force()
        context = self._contexts(autoencoder)
        draw = autoencoder.draw(len(context), context=context)
        return {"samples/non_finite": draw.non_finite, "largest": draw.latents.abs().max().item()}


def trained(way, arguments):
    """Three times in milliseconds per step, the number of steps, and that of scored reports."""
    with tempfile.TemporaryDirectory() as folder:
        plan = config.compose_train(*arguments)
        run = config.Run.planned(plan)
        run.directory = Path(folder, "run")
        for name in ("samples", "figures"):
            (run.directory / name).mkdir(parents=True)
        logger = make_logger("tensorboard" if way == "watched" else "none", run.directory)
        kind = SamplePictures if way == "watched" else Unpictured
        pictures = kind(
            run.directory,
            0,
            run.data.train.context,
            run.condition,
            on_picture=partial(logger.picture, "samples"),
        )
        circumstances = {**plan.circumstances, "progress": way == "watched"}
        callbacks = [] if way == "bare" else [pictures]
        trainer = run.trainer(circumstances, callbacks=callbacks, on_row=logger.row)
        logger.begin(run.identity)
        begun = time.perf_counter()
        cpu = time.process_time()
        with closing(logger), on_a_terminal():
            rows = trainer.fit()
        times = (rows[-1]["seconds"], time.perf_counter() - begun, time.process_time() - cpu)
    steps = rows[-1]["step"]
    reports = sum("test/log_likelihood" in row for row in rows)
    return [1000 * seconds / steps for seconds in times], steps, reports


def measure(arguments, rounds):
    """What :func:`trained` returns by way, a list over rounds."""
    times = {way: [] for way in WAYS}
    for number in range(rounds):
        for shift in range(len(WAYS)):
            way = WAYS[(number + shift) % len(WAYS)]
            times[way].append(trained(way, arguments))
    return times


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--data", default="digits")
    given, more = parser.parse_known_args()
    arguments = [
        f"data={given.data}",
        f"epochs={given.epochs}",
        f"prior_epochs={given.epochs // 2}",
        "device=cpu",
        "trainer.save_minutes=60",
        *more,
    ]
    torch.set_num_threads(1)
    times = measure(arguments, given.rounds)
    print(" ".join(arguments))
    print(f"{'':10}" + "".join(f"{name:>14}{'ratio':>8}" for name in ("steps", "whole", "whole, CPU")))
    for way in WAYS:
        cells = []
        for which in range(3):
            values = [one[which] for one, _, _ in times[way]]
            bare = [one[which] for one, _, _ in times["bare"]]
            ratios = [value / base for value, base in zip(values, bare, strict=True)]
            cells.append(f"{median(values):14.3f}{median(ratios):8.3f}")
        print(f"{way:10}{''.join(cells)}")
    for way in WAYS[1:]:
        more = []
        for (own, steps, reports), (base, _, _) in zip(times[way], times["bare"], strict=True):
            more.append((own[2] - base[2]) * steps / reports)
        print(f"{way}: {median(more):.0f} ms of CPU time per report, {reports} reports in {steps} steps")


if __name__ == "__main__":
    main()
