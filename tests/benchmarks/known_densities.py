"""Every prior of the zoo on two densities whose entropy is known: how close does it come, in the same seconds?

    OMP_NUM_THREADS=1 python tests/benchmarks/known_densities.py [--seconds 20] [--only PRIOR ...]

Targets, in two dimensions: eight Gaussians on a circle, and two moons (arcs with normal noise), whose density
is integrated along the arcs. Each prior is what conf/prior/NAME.yaml builds at latent_dim=2 with the sizes of
data=digits. It estimates itself from 20,000 samples if it can (EM, whitening), then descends -log p(z), or
its own loss, on fresh batches of 256 by Adam at 2e-3, constant for half of the time, then linear to 2 %; all of
that in --seconds of CPU time. The figure is the mean of log p - log q over 20,000 further samples: the held-out
NLL less the entropy, in nats, with the NLL itself beside it.
"""

import argparse
import math
import time

import torch
from pyro import distributions as dist
from torch import Tensor

from pyro_lrp import config, data
from pyro_lrp.core.randomness import seeded
from pyro_lrp.schedules import ConstantThenLinear, Progress

PRIORS = {  # what a prior needs beside its name
    "standard_normal": [],
    "flow": [],
    "flow_on_mixture": [],
    "realnvp": [],
    "glow": [],
    "spline": [],
    "maf": [],
    "iaf": [],
    "zuko": [],
    "mixture": [],
    "flow_matching": ["prior.width=128"],
}


def eight_gaussians():
    angles = torch.arange(8) * math.pi / 4
    centres = 4.0 * torch.stack([angles.cos(), angles.sin()], 1)
    parts = dist.Normal(centres, 0.5).to_event(1)
    return dist.MixtureSameFamily(dist.Categorical(torch.ones(8)), parts)


class TwoMoons:
    """Two half circles with N(0, 0.1^2) noise; the density is the mean over 400 places of each."""

    def __init__(self) -> None:
        t = (torch.arange(400) + 0.5) * math.pi / 400
        self.places = torch.cat([self._arc(t, upper) for upper in (True, False)])

    @staticmethod
    def _arc(t: Tensor, upper: bool) -> Tensor:
        x, y = t.cos(), t.sin()
        return torch.stack([x, y] if upper else [1.0 - x, 0.5 - y], 1)

    def sample(self, shape: tuple[int]) -> Tensor:
        t, upper = math.pi * torch.rand(shape), torch.rand(shape)[:, None] < 0.5
        where = torch.where(upper, self._arc(t, True), self._arc(t, False))
        return where + 0.1 * torch.randn(*shape, 2)

    def log_prob(self, z: Tensor) -> Tensor:
        squares = torch.cdist(z.double(), self.places.double()).square() / 0.01
        constant = math.log(len(self.places)) + math.log(2 * math.pi * 0.01)
        return torch.logsumexp(-0.5 * squares, 1) - constant


def entropy(target, extent=8.0, cells=1600):
    """By quadrature, with the mass as a check."""
    edge = torch.linspace(-extent, extent, cells + 1, dtype=torch.float64)
    middle, volume = (edge[1:] + edge[:-1]) / 2, (edge[1] - edge[0]).item() ** 2
    total = mass = 0.0
    for row in middle:
        log_p = target.log_prob(torch.stack([row.expand(cells), middle], 1).float()).double()
        total -= (log_p.exp() * log_p).sum().item() * volume
        mass += log_p.exp().sum().item() * volume
    assert abs(mass - 1) < 1e-3, mass
    return total


def built(name):
    from priors_on_codes import composed

    identity = composed([f"prior={name}", "data=digits", "latent_dim=2", *PRIORS[name]])
    identity, _ = config.settle(identity, data.digits())
    return config.build_autoencoder(identity, (1, 8, 8)).prior


def fitted(prior, target, seconds):
    """Train for so many CPU seconds; returns those and the steps."""
    start = time.process_time()
    prior.fit(target.sample((20_000,)))
    if not any(p.requires_grad for p in prior.parameters()):
        return 0.0, 0
    adam = torch.optim.Adam(prior.parameters(), lr=2e-3, fused=True)
    schedule, step, done = ConstantThenLinear(), 0, (time.process_time() - start) / seconds
    while done < 1.0:  # of the budget: a fraction of time, since steps differ in cost
        for group in adam.param_groups:
            group["lr"] = 2e-3 * schedule(Progress(0, min(done, 1.0)))
        distribution, z = prior(), target.sample((256,))
        loss = distribution.fit_loss(z) if hasattr(distribution, "fit_loss") else -distribution.log_prob(z)
        adam.zero_grad()
        loss.mean().backward()
        adam.step()
        step, done = step + 1, (time.process_time() - start) / seconds
    return time.process_time() - start, step


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--only", nargs="*", choices=PRIORS, default=list(PRIORS))
    options = parser.parse_args()
    for label, target in (("eight Gaussians", eight_gaussians()), ("two moons", TwoMoons())):
        known = entropy(target)
        print(f"\n{label}: entropy {known:.3f} nats\n")
        print("| prior | NLL - entropy | NLL | CPU s | steps | parameters |\n|---|---|---|---|---|---|")
        for name in options.only:
            with seeded(0, "known densities", name):
                prior = built(name)
                seconds, steps = fitted(prior, target, options.seconds)
                test = target.sample((20_000,))
                with torch.no_grad():
                    log_q = torch.cat([prior.eval()().log_prob(part) for part in test.split(5000)])
            gap = (target.log_prob(test) - log_q).mean().item()
            count = sum(p.numel() for p in prior.parameters())
            print(
                f"| {name} | {gap:.3f} | {-log_q.mean().item():.3f} | {seconds:.0f} | {steps} | {count:,} |",
                flush=True,
            )
