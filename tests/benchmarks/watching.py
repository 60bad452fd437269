"""What watching a training costs: the progress line, a picture per report, TensorBoard.

    python tests/benchmarks/watching.py [--rounds 3] [--data mnist] [KEY=VALUE ...]

Two ways of training the same run take turns, so that a busy machine slows both:

- bare: no progress line, no pictures, no logger; 1,000 prior samples are drawn at each report and counted;
- watched: the progress line on a pseudo-terminal, a picture of samples at each report, TensorBoard.

Printed is the CPU time of a step for each, the median over rounds, with the median ratio within a round; then
what each part of watching took of the CPU time of the watched training. This is measured directly, and so is
exact where the machine is too busy for the ratio.
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
from pyro_lrp.figures import training
from pyro_lrp.figures.training import SamplePictures
from pyro_lrp.trainer.bar import ProgressLine
from pyro_lrp.trainer.loggers import TensorBoard, make_logger

WAYS = ("bare", "watched")
PARTS = {
    "progress line, each step": (ProgressLine, "update"),
    "progress line, each report": (ProgressLine, "show"),
    "pictures made": (SamplePictures, "_picture"),
    "pictures written": (training, "save_picture"),
    "TensorBoard, rows": (TensorBoard, "row"),
    "TensorBoard, pictures": (TensorBoard, "picture"),
}


@contextmanager
def timed(spent):
    """Within the block, calls of the parts add their CPU time to ``spent``."""
    before = {name: getattr(owner, method) for name, (owner, method) in PARTS.items()}

    def wrapped(name):
        def call(*args, **options):
            begun = time.thread_time()
            try:
                return before[name](*args, **options)
            finally:
                spent[name] += time.thread_time() - begun

        return call

    for name, (owner, method) in PARTS.items():
        setattr(owner, method, wrapped(name))
    try:
        yield
    finally:
        for name, (owner, method) in PARTS.items():
            setattr(owner, method, before[name])


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
    """CPU seconds of a training, of each part of watching, the number of steps, and that of scored reports."""
    spent = dict.fromkeys(PARTS, 0.0)
    with tempfile.TemporaryDirectory() as folder, timed(spent):
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
        trainer = run.trainer(circumstances, callbacks=[pictures], on_row=logger.row)
        logger.begin(run.identity)
        begun = time.process_time()
        with closing(logger), on_a_terminal():
            rows = trainer.fit()
        whole = time.process_time() - begun
    reports = sum("test/log_likelihood" in row for row in rows)
    return whole, spent, rows[-1]["step"], reports


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--data", default="digits")
    given, more = parser.parse_known_args()
    arguments = [f"data={given.data}", "device=cpu", "trainer.save_minutes=60", *more]
    torch.set_num_threads(1)
    found = {way: [] for way in WAYS}
    trained("watched", [*arguments, "epochs=1", "prior_epochs=1"])  # imports
    for number in range(given.rounds):
        for way in WAYS[:: 1 if number % 2 else -1]:
            found[way].append(trained(way, arguments))

    print(" ".join(arguments))
    for way in WAYS:
        steps = [1000 * whole / steps for whole, _, steps, _ in found[way]]
        print(f"{way:10}{median(steps):10.3f} ms of CPU time per step")
    pairs = zip(found["watched"], found["bare"], strict=True)
    print(f"{'ratio':10}{median(one[0] / bare[0] for one, bare in pairs):10.3f}")
    _, _, steps, reports = found["watched"][0]
    print(f"of the watched training ({steps} steps, {reports} reports with pictures):")
    for name in PARTS:
        shares = [spent[name] / whole for whole, spent, _, _ in found["watched"]]
        times = [spent[name] for _, spent, _, _ in found["watched"]]
        print(f"  {name:28}{1000 * median(times):10.1f} ms{median(shares):10.3%}")
    total = [sum(spent.values()) / whole for whole, spent, _, _ in found["watched"]]
    print(f"  {'all':28}{'':13}{median(total):10.3%}")


if __name__ == "__main__":
    main()
