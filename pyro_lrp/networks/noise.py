r"""Noise and scale of an encoder's codes, chosen apart from the network.

At β = 0 nothing rewards noise on the codes, which become a thin sheet. The encoder's own noise can be given a
floor, or be replaced, in units of the spread of the codes:

.. math::
    \sigma_i(x)^2 \to \sigma_i(x)^2 + (k s_i)^2, \qquad \text{or} \qquad (k s_i)^2,

with :math:`s_i` the running standard deviation of dimension i of the means over training images, held constant
for the gradient: the encoder cannot escape the noise by spreading its codes. Fixed noise of this kind leaves
the scale of the codes free. Without regularization it grows, and a learned prior that pulls lets it shrink,
neither with an end; ``latent_norm`` keeps it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pyro_lrp.core.gradients import full_precision
from pyro_lrp.networks.heads import SCALE_FLOOR

__all__ = ["LATENT_NORMS", "NOISES", "NoisyEncoder", "with_noise"]

NOISES = ("learned", "floor", "fixed")
LATENT_NORMS = ("none", "batch", "layer")


class NoisyEncoder(nn.Module):
    """An encoder whose noise has a floor or is fixed, and whose means may be standardised.

    Args:
        encoder: Maps images to ``(loc, scale)``, each ``(B, latent_dim)``; ``scale`` may be None.
        latent_dim: Length of a code.
        noise: ``"learned"``, the encoder's own; ``"floor"``, its own and the floor's added as variances;
            ``"fixed"``, the floor's alone.
        noise_floor: The floor in units of the spread of each dimension's mean, at least 0: one number, or one
            for each dimension.
        latent_norm: ``"batch"`` standardises each dimension over a batch, with running statistics outside
            training; ``"layer"`` each code over its dimensions; ``"none"``.
        momentum: Weight of a new batch in the running statistics.

    References:
        Fixed noise on the codes that a decoder sees: Zhao et al. (2025), SimFlow; Heek et al. (2026), Unified
        Latents; Zheng et al. (2025), Diffusion Transformers with Representation Autoencoders. Standardised
        codes: Leng et al. (2025), REPA-E.
    """

    noise_floor: float | Tensor
    spread: Tensor
    batches: Tensor

    def __init__(
        self,
        encoder: nn.Module,
        latent_dim: int,
        noise: str = "learned",
        noise_floor: float | Sequence[float] = 0.0,
        latent_norm: str = "none",
        momentum: float = 0.1,
    ) -> None:
        super().__init__()
        _check(noise, noise_floor, latent_norm, latent_dim)
        self.encoder = encoder
        self.noise = noise
        if isinstance(noise_floor, Sequence):
            self.register_buffer("noise_floor", torch.tensor(list(noise_floor)), persistent=False)
        else:
            self.noise_floor = float(noise_floor)
        self.momentum = momentum
        self.norm = _norm(latent_norm, latent_dim, momentum)
        self.register_buffer("spread", torch.ones(latent_dim))
        self.register_buffer("batches", torch.zeros(()))  # that were measured

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        loc, scale = self.encoder(x)
        loc = self.norm(full_precision(loc))
        if self.training:
            self._measure(loc)
        if self.noise == "learned":
            return loc, scale
        floor = (self.noise_floor * self.spread).clamp_min(SCALE_FLOOR).expand_as(loc)
        if self.noise == "fixed" or scale is None:
            return loc, floor
        return loc, (full_precision(scale).square() + floor.square()).sqrt()

    @property
    def standardised(self) -> bool:
        """Whether the means have unit variance, so that their scale cannot change."""
        return not isinstance(self.norm, nn.Identity)

    @property
    def learns_noise(self) -> bool:
        """Whether the noise depends on the encoder's parameters."""
        return self.noise != "fixed"

    @torch.no_grad()
    def _measure(self, loc: Tensor) -> None:
        """Take the spread of a batch of means into the running one."""
        if len(loc) < 2:
            return
        spread = loc.std(0, correction=0)
        # the first batch replaces the initial value
        weight = torch.where(self.batches == 0, 1.0, self.momentum)
        self.spread.lerp_(spread, weight.to(spread))
        self.batches += 1


def with_noise(
    encoder: nn.Module,
    latent_dim: int,
    *,
    noise: str = "learned",
    noise_floor: float | Sequence[float] = 0.0,
    latent_norm: str = "none",
) -> nn.Module:
    """The encoder with the options of :class:`NoisyEncoder`; the encoder itself if they change nothing.

    Raises:
        ValueError: If an option is unknown, out of range, or without effect.
    """
    _check(noise, noise_floor, latent_norm, latent_dim)
    if noise == "learned" and latent_norm == "none":
        return encoder
    if getattr(encoder, "unit_variance", False):
        raise ValueError("noise and latent_norm have no effect on codes of unit variance, as the U-Net's are")
    return NoisyEncoder(encoder, latent_dim, noise, noise_floor, latent_norm)


def _check(noise: str, noise_floor: float | Sequence[float], latent_norm: str, latent_dim: int) -> None:
    if noise not in NOISES:
        raise ValueError(f"noise must be one of {', '.join(NOISES)}, got {noise!r}")
    if latent_norm not in LATENT_NORMS:
        raise ValueError(f"latent_norm must be one of {', '.join(LATENT_NORMS)}, got {latent_norm!r}")
    floors = _floors(noise_floor, latent_dim)
    if noise == "learned" and any(floors):
        raise ValueError("noise_floor has no effect with noise=learned: use noise=floor or noise=fixed")
    if noise != "learned" and not any(floors):
        raise ValueError(f"noise={noise} needs a noise_floor above 0")
    if latent_norm == "layer" and latent_dim < 2:
        raise ValueError("latent_norm=layer needs a latent_dim of at least 2")


def _floors(noise_floor: float | Sequence[float], latent_dim: int) -> list[float]:
    """The numbers of a floor, checked: one, or one for each dimension."""
    if isinstance(noise_floor, Sequence) and not isinstance(noise_floor, str):
        if len(noise_floor) != latent_dim:
            raise ValueError(f"noise_floor has {len(noise_floor)} numbers, and a code {latent_dim} dimensions")
        return [_floor(number) for number in noise_floor]
    return [_floor(noise_floor)]


def _floor(number: object) -> float:
    if isinstance(number, (int, float)) and not isinstance(number, bool) and 0 <= number < math.inf:
        return number
    raise ValueError(f"noise_floor must be a number of at least 0, got {number!r}")


def _norm(latent_norm: str, latent_dim: int, momentum: float) -> nn.Module:
    if latent_norm == "batch":
        return nn.BatchNorm1d(latent_dim, momentum=momentum, affine=False)
    if latent_norm == "layer":
        return nn.LayerNorm(latent_dim, elementwise_affine=False)
    return nn.Identity()
