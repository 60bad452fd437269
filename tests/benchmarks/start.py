"""CPU seconds until ``train --help`` has printed, and until the default command has taken its first step.

    python tests/benchmarks/start.py [--rounds 5] [--out FILE.csv]

Medians, with the smallest and the largest. CPU time, since wall time says more about what else a machine
does; a start waits for nothing but its files, so that on an idle machine both are the same. The first step is
seen by its row of the metrics; then the training is stopped. Linux alone. FILE.csv receives a row for each,
among the rows of other figures, see speed_report.py.
"""

import argparse
import os
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from speed_report import keep

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
TICK = os.sysconf("SC_CLK_TCK")


def help_printed():
    """CPU seconds of ``train --help``."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, "-m", "pyro_lrp.train", "--help"], check=True, capture_output=True, env=ENVIRONMENT
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def first_step():
    """CPU seconds of the default command up to the row of its first step."""
    command = [sys.executable, "-m", "pyro_lrp.train", "trainer.report_every=1", "name=start", "progress=false"]
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder, "runs", "start", "seed_0", "metrics.jsonl")
        process = subprocess.Popen(
            command, cwd=folder, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            while not (rows.is_file() and rows.stat().st_size):
                if process.poll() is not None:
                    raise RuntimeError(f"the training ended with exit code {process.returncode}")
                time.sleep(0.005)
            fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
            return (int(fields[11]) + int(fields[12])) / TICK
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", help="a CSV file")
    options = parser.parse_args()
    measured = {
        "train --help": (help_printed, 2.0),
        "first step of the default command": (first_step, 6.0),
    }
    for name, (measure, goal) in measured.items():
        values = [measure() for _ in range(options.rounds)]
        value = statistics.median(values)
        print(f"{name:36}{value:6.2f} s of CPU time ({min(values):.2f} to {max(values):.2f}), goal {goal:g} s")
        if options.out:
            keep(
                options.out, figure=name, value=round(value, 2), unit="CPU s", goal=f"at most {goal:g}",
                reached="yes" if value <= goal else "no", command="python tests/benchmarks/start.py", note="",
            )  # fmt: skip


if __name__ == "__main__":
    main()
