"""Memory of a Frechet distance: 50,000 samples beside 5,000, each in a process of its own.

    python tests/benchmarks/memory_of_fid.py [--counts 5000 50000]

Prints the peak resident memory of each. Features are streamed, so that the two differ by little. They are 2,048
random projections of the pixels: as many as Inception's, at none of its cost.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile

import torch
from torch import nn

from pyro_lrp import data, likelihoods, models, networks, priors
from pyro_lrp.metrics import Subject
from pyro_lrp.metrics.subject import Extractor


def measure(count):
    """Statistics of ``count`` prior samples in 2,048 features, against those of the test images."""
    torch.manual_seed(0)  # the same networks in both processes
    images = data.fake(20_000, (3, 32, 32))
    encoder, decoder = networks.infogan((3, 32, 32), 64, channels=(16, 32), hidden=64)
    ae = models.Autoencoder(encoder, decoder, priors.StandardNormal(64), likelihoods.Gaussian()).eval()
    projection = nn.Linear(3 * 32 * 32, 2048)
    extractor = Extractor("projection", "projection", lambda x: projection(x.flatten(1)), 2048, {})
    subject = Subject(ae, images, n=count)
    with torch.no_grad():
        samples = subject.statistics(extractor, "samples", count)
        value = samples.distance(subject.statistics(extractor, "training", 2500))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{count:>8} samples: {peak:8.0f} MiB at most, distance {value:.3f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", type=int, nargs="+", default=[5_000, 50_000])
    parser.add_argument("--one", type=int)
    options = parser.parse_args()
    if options.one:
        measure(options.one)
    else:
        with tempfile.TemporaryDirectory() as cache:
            for number in options.counts:
                command = [sys.executable, __file__, "--one", str(number)]
                subprocess.run(command, check=True, env={**os.environ, "PYRO_LRP_CACHE": cache})
