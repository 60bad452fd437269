"""The judge of priors that compete for codes."""

from __future__ import annotations

import math
import time
from statistics import mean, stdev

import pyro
import torch
from torch import Tensor

from pyro_lrp.core.modules import eval_mode
from pyro_lrp.core.randomness import seeded, some_rows
from pyro_lrp.fitting.codes import CodeSet
from pyro_lrp.metrics.functional import energy_distance, mean_distance
from pyro_lrp.priors import Prior

__all__ = ["CRITERION", "Judge"]

CRITERION = "energy distance of samples from held-out codes, each dimension standardised"

_BLOCK = 1000  # samples; the distances of several blocks say how certain their mean is
_LONG = 1024  # dimensions above which blocks are smaller, by the factor by which a code is longer
_LEAST = 2  # blocks
_MOST = 10  # blocks of full size
_SECONDS = 2.0  # after which no further block is drawn: some priors solve an equation for each sample
_CONTEST = 60.0  # seconds of a contest below which blocks and this time are smaller in proportion
_FEW = 200  # samples of a block at least
_SCORED = 200  # held-out codes whose density is computed, for the same reason


class Judge:
    """The energy distance of a prior's samples from held-out codes, each dimension standardised.

    With contexts it is that of pairs of a code and its context; samples have those of the held-out codes.

    Held-out likelihood does not rank samples, and this distance mostly does: ``runs/recorded/fit``, made by
    ``tests/benchmarks/criteria_for_priors.py``.

    Args:
        codes: The codes; the held-out ones are judged by.
        device: Where samples are drawn.
        seed: Seed of the samples.
        contest: Seconds of the whole contest. In a short one blocks are smaller, and judging takes less time.
    """

    def __init__(self, codes: CodeSet, device: torch.device, seed: int, contest: float = _CONTEST) -> None:
        self.seed = seed
        share = min(1.0, contest / _CONTEST)
        self.seconds = share * _SECONDS
        largest = min(_BLOCK, max(_FEW, _BLOCK * _LONG // codes.dim))
        self.block = min(largest, max(_FEW, round(share * _BLOCK)))
        self.most = _MOST * largest // self.block
        # the statistics are joined, and not the numbers: a copy of all codes would be large
        parts = [part for part in (codes.train, codes.context) if part.shape[1]]
        scale = torch.cat([part.std(0) for part in parts])
        self.mean = torch.cat([part.mean(0) for part in parts])
        self.scale = torch.where(scale > 0, scale, 1.0)
        self.held_out = self._standardised(codes.held_out, codes.held_out_context)
        self.within = mean_distance(self.held_out)
        self.contexts = codes.held_out_context.to(device)
        rows = some_rows(len(codes.held_out), _SCORED, "fit", "scored", seed=seed)
        self.scored = codes.held_out[rows].to(device)
        self.scored_contexts = self.contexts[rows.to(device)]

    @torch.no_grad()
    def distance(self, prior: Prior) -> tuple[float, float]:
        """The energy distance of samples, and its standard error; infinite if a sample is not finite."""
        distances: list[float] = []
        start = time.perf_counter()
        with eval_mode(prior), seeded(self.seed, "fit", "judge"), pyro.validation_enabled(False):
            while not self._enough(len(distances), time.perf_counter() - start):
                contexts = self._contexts(len(distances))
                samples = self._standardised(prior(contexts).sample(), contexts)
                if not torch.isfinite(samples).all():
                    return math.inf, 0.0
                distances.append(energy_distance(samples, self.held_out, self.within))
        return mean(distances), stdev(distances) / len(distances) ** 0.5

    @torch.no_grad()
    def nll(self, prior: Prior) -> float:
        """-log p(z) of some held-out codes, in nats."""
        with eval_mode(prior), seeded(self.seed, "fit", "nll"), pyro.validation_enabled(False):
            return -prior(self.scored_contexts).log_prob(self.scored).mean().item()

    def _standardised(self, z: Tensor, context: Tensor) -> Tensor:
        pairs = torch.cat([z, context], 1).cpu()
        return (pairs - self.mean) / self.scale

    def _enough(self, blocks: int, seconds: float) -> bool:
        return blocks >= self.most or (blocks >= _LEAST and seconds > self.seconds)

    def _contexts(self, block: int) -> Tensor:
        """Contexts of a block of samples: those of the held-out codes, in turn."""
        first = block * self.block
        rows = torch.arange(first, first + self.block, device=self.contexts.device) % len(self.contexts)
        return self.contexts[rows]
