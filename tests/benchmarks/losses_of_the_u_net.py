"""Which pixel variance gives a squared error the weight of the U-Net's published loss, on drawn people.

Both are of pairs of images of one pose and of two appearances; the KL in nats stands beside either.

    python tests/benchmarks/losses_of_the_u_net.py --weights FILE        # VGG19's, or its lower layers
"""

import argparse

import torch

from pyro_lrp import likelihoods
from pyro_lrp.data import posed_figures

LAYERS = ("relu_1_2", "relu_2_2", "relu_3_2", "relu_4_2", "relu_5_2")


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", required=True)
    asked = parser.parse_args()
    data = posed_figures(1, 64, 64)
    assert data.truth is not None
    assert data.test.joints is not None
    x, y = (data.truth.draw(data.test.joints, seed).float() / 255 for seed in (1, 2))
    published = likelihoods.Perceptual(layers=LAYERS, weight=5.0, power=1, pixels=255.0, caffe=True)
    layers = published.prepare({"vgg19": asked.weights})["layers"]
    loss = -published(y).log_prob(x).mean().item()
    square = (x - y).square().flatten(1).sum(1).mean().item()
    print(f"published loss, of pixels and {', '.join(layers)}: {loss:.0f}; sum of squares: {square:.0f}")
    print(f"the same weight at gamma = {square / (2 * loss):.2f}")


if __name__ == "__main__":
    main()
