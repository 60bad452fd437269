"""CPU seconds and peak memory of each metric of ``evaluate metrics=auto``.

    python tests/benchmarks/evaluate_profile.py RUN [--data-root DIR] [--metrics NAME ...] [--results FILE]

RUN is a trained run. Metrics are computed in the order of the command, with an empty cache: the first that
needs the classifier of the data set trains it. Nothing is added to the run but ``scores.csv``. FILE receives
the results, so that those of two versions can be compared.
"""

import argparse
import json
import os
import resource
import tempfile
import time

import torch

from pyro_lrp import config
from pyro_lrp.core.allocator import keep_freed_memory
from pyro_lrp.metrics import METRICS
from pyro_lrp.metrics.evaluation import choose


def main():
    """Compute the metrics one after another, with a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--data-root")
    parser.add_argument("--metrics", nargs="*", help="all that can be computed, if none is named")
    parser.add_argument("--results", help="a JSON file")
    arguments = parser.parse_args()
    keep_freed_memory()  # as the command does
    torch.set_num_threads(1)
    run = config.Run(arguments.run, data_root=arguments.data_root)
    subject = run.subject(weights={}, quick=True)
    names = arguments.metrics or choose(subject, "auto")[0]
    results = {}
    begun = time.process_time()
    with tempfile.TemporaryDirectory() as cache:
        os.environ["PYRO_LRP_CACHE"] = cache
        for name in names:
            before = time.process_time()
            results |= METRICS[name].compute(subject)
            seconds = time.process_time() - before
            print(f"{name:<28}{seconds:8.1f} s{_peak():8.0f} MiB", flush=True)
    print(f"{'together':<28}{time.process_time() - begun:8.1f} s")
    if arguments.results:
        with open(arguments.results, "w", encoding="utf-8") as file:
            json.dump(results, file, indent=1)


def _peak():
    """The largest resident memory so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
