"""Do edits along an attribute's direction show it? As the data set's own attribute classifier sees it.

    python tests/benchmarks/edits.py RUN [--attributes Smiling Eyeglasses Male Blond_Hair] [--data-root DIR]

For 500 test images without an attribute: the share whose logit rises from the decoded code to the edited one,
and that under ten random directions of equal length; the share of edited codes that are less likely than 99 %
of real ones, for edits of one, of two and of five lengths.
"""

import argparse
from pathlib import Path

import torch

from pyro_lrp.config import Run
from pyro_lrp.core.randomness import seeded
from pyro_lrp.figures.requests import Request, real_densities
from pyro_lrp.latents import typicality
from pyro_lrp.latents.views import decode, means
from pyro_lrp.metrics import Subject
from pyro_lrp.metrics.classifiers import attribute_classifier, attribute_names
from pyro_lrp.metrics.subject import as_files

LENGTHS = (1.0, 2.0, 5.0)


@torch.no_grad()
def judge(request, name, codes, reference, network, column):
    """One row of the table."""
    direction = request.direction(name, codes)
    x, context = request.without(name, 500)
    z = means(request.autoencoder, x)
    with seeded(0, "edits", name):
        others = torch.randn(10, len(direction))
    controls = others * direction.norm() / others.norm(dim=1, keepdim=True)

    def logits(shift):
        images = decode(request.autoencoder, z + shift)
        return torch.cat([network(as_files(part))[:, column] for part in images.split(100)])

    before = logits(torch.zeros_like(direction))
    rose = [(logits(shift) > before).double().mean().item() for shift in (direction, *controls)]
    rises = [rose[0], sum(rose[1:]) / len(controls)]
    prior = request.autoencoder.prior
    left = [
        (typicality(prior(context).log_prob(z + length * direction), reference) < 0.01).double().mean().item()
        for length in LENGTHS
    ]
    return f"{name:<16}{len(x):>6}" + "".join(f"{share:>9.1%}" for share in rises + left)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--attributes", nargs="+", default=["Smiling", "Eyeglasses", "Male", "Blond_Hair"])
    parser.add_argument("--data-root")
    given = parser.parse_args()
    request = Request(Run(given.run, data_root=given.data_root), {"strength": 1.0})
    network = attribute_classifier(Subject(request.autoencoder, request.data))
    names = attribute_names(request.data)
    codes, reference = request.training_codes(), real_densities(request)
    lengths = "".join(f"{f'left x{length:g}':>9}" for length in LENGTHS)
    print(f"{'attribute':<16}{'n':>6}{'rises':>9}{'random':>9}{lengths}")
    for name in given.attributes:
        print(judge(request, name, codes, reference, network, names.index(name)))
