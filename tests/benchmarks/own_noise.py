"""The noise that encoders give their codes, relative to the spread of the codes: python own_noise.py RUN ...

For each run one line: the deviation of q(z|x) over the deviation of its mean over 2,000 training images, by
dimension: the smallest, the geometric mean, the largest. What a run with ``network.noise=fixed`` would need as
``network.noise_floor`` to have as much.
"""

import argparse

import torch

from pyro_lrp import config
from pyro_lrp.latents.codes import encode_split

IMAGES = 2000


def relative_noise(run):
    """The root mean square of the noise over the spread of the means, ``(d,)``."""
    with torch.no_grad():
        codes = encode_split(run.autoencoder.eval(), run.seen[torch.arange(IMAGES)])
    noise = codes.scale.square().mean(0).sqrt()
    return noise / codes.loc.std(0)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+")
    parser.add_argument("--data-root")
    options = parser.parse_args()
    print("| run | dimensions | smallest | geometric mean | largest |\n|---|---|---|---|---|")
    for directory in options.runs:
        noise = relative_noise(config.Run(directory, data_root=options.data_root))
        mean = noise.log().mean().exp()
        print(
            f"| {directory} | {len(noise)} | {noise.min():.3f} | {mean:.3f} | {noise.max():.3f} |", flush=True
        )


if __name__ == "__main__":
    main()
