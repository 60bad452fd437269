"""The picture of the README: test images, reconstructions, and prior samples at two betas.

    python tests/benchmarks/readme_picture.py RUN RUN [--out FILE] [--data-root DIR]

Each RUN is a run directory of one data set; rows are labelled with the beta of the run. Samples are the first
of seed 0, not chosen. ``runs/recorded/learned_gamma/README.md`` has the commands of the runs.
"""

import argparse
from pathlib import Path

import torch
from PIL import Image

from pyro_lrp import figures
from pyro_lrp.config import Run
from pyro_lrp.core.randomness import seeded

COLUMNS, SAMPLE_ROWS = 16, 2
WIDE = 1200  # pixels
COLOURS = 32  # greys are enough for digits, and a third of the bytes


@torch.no_grad()
def rows(run: Run, test: torch.Tensor):
    """Reconstructions, rows of prior samples, and the beta of a run."""
    autoencoder = run.autoencoder
    with seeded(0, "readme_picture"):
        samples = autoencoder.draw(COLUMNS * SAMPLE_ROWS).images
        made = autoencoder.reconstruct(test)
    assert len(samples) == COLUMNS * SAMPLE_ROWS, "a sample was not finite"
    return made, samples.reshape(SAMPLE_ROWS, COLUMNS, *samples.shape[1:]), run.identity["beta"]


def picture(runs, data_root=None):
    """The figure."""
    runs = [Run(run, data_root=data_root) for run in runs]
    test = runs[0].data.test.batch(slice(0, COLUMNS)).x
    found = [rows(run, test) for run in runs]
    images, labels = [test[None]], ["test images"]
    for made, _, beta in found:
        images.append(made[None])
        labels.append(f"reconstructions, $\\beta$ = {beta:g}")
    for _, samples, beta in found:
        images.append(samples)
        labels += [f"prior samples, $\\beta$ = {beta:g}", *[""] * (SAMPLE_ROWS - 1)]
    return figures.strips(torch.cat(images), labels)


def save(figure, out: Path) -> None:
    """A small PNG of few colours, whose bytes depend on the figure alone."""
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=WIDE / figure.get_figwidth(), metadata={"Software": None})
    Image.open(out).convert("RGB").quantize(COLOURS).save(out, optimize=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs=2, metavar="RUN")
    parser.add_argument("--out", type=Path, default=Path("runs/recorded/learned_gamma/overview.png"))
    parser.add_argument("--data-root")
    given = parser.parse_args()
    save(picture(given.runs, given.data_root), given.out)
    print(f"{given.out}: {given.out.stat().st_size / 1e3:.0f} kB")
