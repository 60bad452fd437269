"""How typical a code is: its log density beside those of real codes and of samples of the prior."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_lrp.core.modules import eval_mode
from pyro_lrp.core.randomness import seeded
from pyro_lrp.latents import typicality
from pyro_lrp.models import Autoencoder

__all__ = ["Gauge", "Reading", "in_chunks", "log_densities"]

Compute = Callable[[Tensor, Tensor], Tensor]


class Reading(NamedTuple):
    """The log density of a code, and its rank.

    Attributes:
        log_density: log p(z) in nats.
        codes: The share of real codes that are less likely, 0 to 1.
        samples: The share of samples of the prior that are less likely, 0 to 1.
    """

    log_density: float
    codes: float
    samples: float

    @property
    def verdict(self) -> str:
        """The rank among real codes, in words.

        >>> Reading(-99.0, 0.0, 0.0).verdict
        'less likely than 99 % of test codes: outside the data'
        """
        if self.codes < 0.01:
            return "less likely than 99 % of test codes: outside the data"
        if self.codes > 0.99:
            return "likelier than 99 % of test codes: nearer to the mode than the data are"
        return f"likelier than {100 * self.codes:.0f} % of test codes"


class Gauge:
    """Ranks codes by log p(z).

    Args:
        codes: log p(z) of codes of real images, shape ``(N,)``; values that are not finite are left out.
        samples: log p(z) of samples of the prior, shape ``(M,)``, likewise.

    >>> gauge = Gauge(torch.tensor([-1.0, -2.0, -3.0, -4.0]), torch.tensor([-2.0, -5.0]))
    >>> gauge.read(torch.tensor([-2.5]))
    [Reading(log_density=-2.5, codes=0.5, samples=0.5)]
    """

    def __init__(self, codes: Tensor, samples: Tensor) -> None:
        self.codes = codes[codes.isfinite()].cpu()
        self.samples = samples[samples.isfinite()].cpu()

    def read(self, log_density: Tensor) -> list[Reading]:
        """The readings of codes.

        Args:
            log_density: log p(z), shape ``(B,)``.
        """
        log_density = log_density.cpu()
        columns = (log_density, typicality(log_density, self.codes), typicality(log_density, self.samples))
        return [Reading(*row) for row in torch.stack(columns, 1).tolist()]

    @property
    def limits(self) -> tuple[float, float]:
        """The range of log densities, in nats, that holds 99 % of codes and of samples."""
        both = (self.codes, self.samples)
        low = min(values.quantile(0.005).item() for values in both)
        high = max(values.quantile(0.995).item() for values in both)
        return low, max(high, low + 1e-3)


@torch.no_grad()
def log_densities(autoencoder: Autoencoder, z: Tensor, context: Tensor) -> Tensor:
    """Log p(z) in nats; where the prior estimates it, always with the same noise.

    Args:
        autoencoder: The model.
        z: Codes, shape ``(B, d)``.
        context: Their contexts, shape ``(B, context_dim)``.
    """
    prior = autoencoder.prior

    def compute(codes: Tensor, contexts: Tensor) -> Tensor:
        return prior(contexts).log_prob(codes.reshape(-1, *prior.event_shape))

    with seeded(0, "explore", "density"):
        return in_chunks(autoencoder, compute, z, context)


def in_chunks(autoencoder: Autoencoder, compute: Compute, z: Tensor, context: Tensor) -> Tensor:
    """A function of codes and contexts, for as many rows at once as the autoencoder decodes.

    Args:
        autoencoder: The model; it is in eval mode meanwhile.
        compute: The function.
        z: Codes, shape ``(B, d)``.
        context: Their contexts, shape ``(B, context_dim)``.
    """
    size = autoencoder.at_once
    parts = []
    with torch.no_grad(), eval_mode(autoencoder):
        for codes, contexts in zip(z.split(size), context.split(size), strict=True):
            parts.append(compute(codes, contexts))
    return torch.cat(parts)
