"""A prior for the codes of a plain VAE that was trained elsewhere, against the N(0, I) it was trained with.

    OMP_NUM_THREADS=1 python tests/benchmarks/fit_codes.py DIR [--kl 1] [--seconds 60] [--out FOLDER]

The VAE and its loop are PyTorch's own example (binary cross-entropy, two layers of 400, here 16 dimensions) on
MNIST, which lies in DIR. ``pyro_lrp.fit`` sees the codes of the training images alone. Printed: the table of
the contest, and the Frechet distance of 10,000 decoded samples of N(0, I) and of the fitted prior to the test
images (``fd_classifier``, a surrogate). FOLDER gets samples of both.
"""

import argparse
from pathlib import Path

import torch
import torchvision
from torch import nn
from torch.nn import functional as F

import pyro_lrp
from pyro_lrp import data, metrics, models, priors

DIM = 16


class PlainVAE(nn.Module):
    """PyTorch's example of a VAE."""

    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(784, 400)
        self.fc21 = nn.Linear(400, DIM)
        self.fc22 = nn.Linear(400, DIM)
        self.fc3 = nn.Linear(DIM, 400)
        self.fc4 = nn.Linear(400, 784)

    def encode(self, x):
        h = F.relu(self.fc1(x))
        return self.fc21(h), self.fc22(h)

    def decode(self, z):
        return torch.sigmoid(self.fc4(F.relu(self.fc3(z))))


def trained(images, epochs, kl_weight):
    """The example's loop: Adam at 1e-3, batches of 128."""
    vae = PlainVAE()
    adam = torch.optim.Adam(vae.parameters(), lr=1e-3)
    for epoch in range(epochs):
        total = 0.0
        for batch in torch.randperm(len(images)).split(128):
            x = images[batch].float().flatten(1) / 255
            mu, logvar = vae.encode(x)
            z = mu + torch.exp(0.5 * logvar) * torch.randn_like(mu)
            bce = F.binary_cross_entropy(vae.decode(z), x, reduction="sum")
            kl = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())
            loss = bce + kl_weight * kl
            adam.zero_grad()
            loss.backward()
            adam.step()
            total += loss.item()
        print(f"epoch {epoch + 1}: loss {total / len(images):.1f}", flush=True)
    return vae.eval()


@torch.no_grad()
def codes_of(vae, images):
    """A draw of q(z|x) for each image."""
    parts = []
    for part in images.split(1000):
        mu, logvar = vae.encode(part.float().flatten(1) / 255)
        parts.append(mu + torch.exp(0.5 * logvar) * torch.randn_like(mu))
    return torch.cat(parts)


def main(options):
    torch.manual_seed(options.seed)
    mnist = data.mnist(options.data_root)
    vae = trained(mnist.train.images, options.epochs, options.kl)
    fitted = pyro_lrp.fit(codes_of(vae, mnist.train.images), seconds=options.seconds, seed=options.seed)
    print(fitted)
    candidates = {"standard_normal": priors.StandardNormal(DIM), "fitted": fitted.prior}
    for name, prior in candidates.items():
        autoencoder = models.from_parts(
            vae.encode,
            vae.decode,
            prior,
            images=mnist.test.images[:8] / 255,
            log_variance=True,
            flat_images=True,
        )
        results = metrics.evaluate(autoencoder, mnist, ["fd_classifier"], n=10_000)
        values = {key: round(result["value"], 2) for key, result in results.items()}
        print(name, values, flush=True)
        if options.out:
            torch.manual_seed(0)
            path = Path(options.out, f"{name}.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            images = autoencoder.sample(64)
            torchvision.utils.save_image(getattr(images, "images", images), path, nrow=8, padding=0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_root")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--kl", type=float, default=1.0)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out")
    main(parser.parse_args())
