"""FactorVAE: the ELBO, and a discriminator that estimates the total correlation of the codes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_lrp.core.gradients import frozen, full_precision
from pyro_lrp.models import Autoencoder
from pyro_lrp.objectives.elbo import BilevelELBO, Losses
from pyro_lrp.objectives.game import Turn
from pyro_lrp.objectives.games import LatentGame
from pyro_lrp.schedules import Schedule

__all__ = ["TotalCorrelation", "permute_dims"]


def permute_dims(z: Tensor) -> Tensor:
    """Codes of the product of the marginals of q(z): each dimension is shuffled over the batch on its own.

    Args:
        z: Shape ``(B, d)``.

    >>> permute_dims(torch.arange(6.0).reshape(3, 2)).sort(0).values
    tensor([[0., 1.],
            [2., 3.],
            [4., 5.]])
    """
    return z.gather(0, torch.rand_like(z).argsort(0))


class TotalCorrelation(LatentGame):
    r"""FactorVAE: the loss of :class:`LatentGame` plus ``weight`` times the codes' total correlation.

    :math:`TC = KL(q(z) \| \prod_j q(z_j))` is estimated by the density-ratio trick as the batch mean of
    :math:`l_1(z) - l_2(z)`, the two logits of a discriminator that tells codes (class 1) from codes whose
    dimensions were permuted (class 2). The permuted codes come from a second, independent minibatch.

    Args:
        autoencoder: Its codes are vectors.
        elbo: Computes the joint turn without the total correlation.
        discriminator: Maps codes ``(B, d)`` to two logits ``(B, 2)``; the player ``discriminator``.
        weight: Weight of the total correlation, at least 0; 40 in the paper's comparison.
        beta_schedule: As in :class:`LatentGame`.
        latent_reconstruction: Likewise.

    Raises:
        TypeError: If the prior has no density, or the autoencoder several latents.
        ValueError: If ``weight`` is negative or not finite.

    References:
        Kim and Mnih (2018), Disentangling by Factorising, Eq. 2-3 and Algorithms 1-2.
    """

    def __init__(
        self,
        autoencoder: Autoencoder,
        elbo: BilevelELBO,
        discriminator: nn.Module,
        weight: float = 40.0,
        beta_schedule: Schedule | None = None,
        latent_reconstruction: float = 0.0,
    ) -> None:
        super().__init__(autoencoder, elbo, beta_schedule, latent_reconstruction)
        if len(autoencoder.sites) > 1:
            raise TypeError("TotalCorrelation needs one latent, and this autoencoder has several")
        if not (isinstance(weight, (int, float)) and math.isfinite(weight) and weight >= 0):
            raise ValueError(f"expected weight to be a finite number of at least 0, got {weight!r}")
        self.discriminator = discriminator
        self.weight = weight

    def players(self) -> dict[str, nn.ModuleList]:
        players = super().players()
        players["discriminator"] = nn.ModuleList([self.discriminator])
        return players

    def turns(self, phase: str) -> tuple[Turn, ...]:
        turns = super().turns(phase)
        if phase in ("decoder_only", "prior_only"):
            return turns
        # it compares the first turn's codes with those of a second minibatch
        second = Turn("discriminator", ("discriminator",), batches=2)
        return (*turns, second)

    def score(self, batch: Any) -> dict[str, Tensor]:
        losses = self._losses(batch)
        return {**losses.terms, "total_correlation": self._estimate(losses.latents["z"])}

    def forward(self, turn: str, batches: Sequence[Any], memo: dict[str, Any]) -> Losses:
        if turn == "discriminator":
            return self._discriminate(memo["z"], batches[1].x)
        losses = super().forward(turn, batches, memo)
        if turn in ("decoder", "prior"):
            return losses
        memo["z"] = losses.latents["z"].detach()
        with frozen(self.discriminator):
            total_correlation = self._estimate(losses.latents["z"])
        terms = dict(losses.terms)
        terms["total_correlation"] = total_correlation.detach()
        loss = losses.loss + self.weight * total_correlation
        return Losses(loss, terms)

    def _estimate(self, z: Tensor) -> Tensor:
        logits = full_precision(self.discriminator(z))
        return (logits[:, 0] - logits[:, 1]).mean()

    def _discriminate(self, z: Tensor, x: Tensor) -> Losses:
        with torch.no_grad():
            codes = self.autoencoder.encode(x).rsample()  # sample() makes the host wait, to check the scale
            permuted = permute_dims(codes)
        logits = self.discriminator(torch.cat([z, permuted]))
        logits = full_precision(logits)
        first = torch.full((len(z),), 0, device=z.device)
        second = torch.full((len(permuted),), 1, device=z.device)
        classes = torch.cat([first, second])
        loss = F.cross_entropy(logits, classes)
        right = logits.detach().argmax(1) == classes
        return Losses(loss, {"discriminator_accuracy": right.float().mean()})
