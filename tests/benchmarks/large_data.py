"""Memory of a training on many images that are mapped from a file: anonymous memory beyond that of the model.

    OMP_NUM_THREADS=1 python tests/benchmarks/large_data.py [--images 200000] [--size 64]

A tenth of the images is held out. The same training on a few images is the measure of what the model and torch
need; pages of the file itself do not count, since the system drops them when memory is short. Linux alone.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch


def anonymous():
    """The anonymous memory of this process, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return 1024 * int(line.split()[1])
    raise OSError("/proc/self/status has no RssAnon")


class Peak:
    """The largest anonymous memory so far, asked for after each row of the metrics."""

    bytes = 0

    def __call__(self, row):
        self.bytes = max(self.bytes, anonymous())


def trained(path, count):
    """Train for an epoch on the first images of a file; the peak of the anonymous memory."""
    from pyro_lrp import data, likelihoods, models, networks, objectives, priors
    from pyro_lrp.trainer import Phase, Trainer

    images = torch.from_numpy(np.load(path, mmap_mode="c"))[:count]
    shape = tuple(images.shape[1:])
    encoder, decoder = networks.mlp(shape, latent_dim=8, hidden_dims=(16,))
    autoencoder = models.Autoencoder(encoder, decoder, priors.StandardNormal(8), likelihoods.Gaussian())
    game = objectives.LatentGame(autoencoder, objectives.BilevelELBO(beta=1.0))
    split = data.Split(images)
    peak = Peak()
    trainer = Trainer(
        game, data.ImageData("mapped", split, split[:1000]), phases=[Phase("joint", 1)], batch_size=100,
        validation=0.1, device="cpu", progress=False, report_every=10, evaluations=1, evaluation_images=100,
        on_row=peak,
    )  # fmt: skip
    trainer.fit()
    peak(None)
    return peak.bytes


def measured(*arguments):
    """The peak of a process of its own."""
    command = [sys.executable, __file__, *map(str, arguments)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(done.stdout.split()[-1])


def main(options):
    if options.file:
        print(trained(options.file, options.images))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "images.npy")
        shape = (options.images, 3, options.size, options.size)
        array = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
        array[:, 0, 0] = np.arange(options.images, dtype=np.uint8)[:, None]
        del array
        size = ["--size", options.size, "--file", path]
        few = measured("--images", 2000, *size)
        many = measured("--images", options.images, *size)
    gb = options.images * 3 * options.size**2 / 1e9
    print(f"{options.images:,} images of {options.size}x{options.size}, {gb:.2f} GB in the file")
    print(f"anonymous memory: {many / 1e9:.3f} GB; of 2,000 images {few / 1e9:.3f} GB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=200_000)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--file", help="used by the command itself")
    main(parser.parse_args())
