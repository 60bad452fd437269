"""What every encoder ends with."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from pyro_lrp.core.gradients import full_precision

__all__ = ["GaussianHead", "PointHead", "check_image_shape", "head"]

SCALE_FLOOR = 1e-6  # keeps log q finite at beta = 0, where nothing rewards the encoder's entropy


class GaussianHead(nn.Module):
    """A trunk, then one linear layer that gives the mean and scale of q(z|x).

    Args:
        trunk: Maps images to features, ``(B, C, H, W) -> (B, features)``.
        features: Length of a feature vector.
        latent_dim: Length of a code.
        least_log_scale: ``scale = 1e-6 + softplus(.)`` if None; else ``exp(max(., that))``.
    """

    def __init__(
        self, trunk: nn.Module, features: int, latent_dim: int, least_log_scale: float | None = None
    ) -> None:
        super().__init__()
        if latent_dim < 1:
            raise ValueError(f"expected a latent_dim of at least 1, got {latent_dim}")
        self.trunk, self.least_log_scale = trunk, least_log_scale
        self.output = nn.Linear(features, 2 * latent_dim)
        nn.init.zeros_(self.output.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        loc, raw = self.output(self.trunk(x)).chunk(2, dim=-1)
        raw = full_precision(raw)  # in bfloat16 the floor would vanish, and small scales lose all their digits
        if self.least_log_scale is not None:
            return loc, raw.clamp(min=self.least_log_scale).exp()
        return loc, SCALE_FLOOR + F.softplus(raw)


class PointHead(nn.Module):
    """A trunk, then one linear layer that gives the code itself; the encoder is deterministic.

    Args:
        trunk: Maps images to features, ``(B, C, H, W) -> (B, features)``.
        features: Length of a feature vector.
        latent_dim: Length of a code.
    """

    def __init__(self, trunk: nn.Module, features: int, latent_dim: int) -> None:
        super().__init__()
        if latent_dim < 1:
            raise ValueError(f"expected a latent_dim of at least 1, got {latent_dim}")
        self.trunk = trunk
        self.output = nn.Linear(features, latent_dim)
        nn.init.zeros_(self.output.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        return self.output(self.trunk(x)), None


def head(
    trunk: nn.Module, features: int, latent_dim: int, *, stochastic: bool, least_log_scale: float | None = None
) -> GaussianHead | PointHead:
    """The head of an encoder with, or without, noise."""
    if stochastic:
        return GaussianHead(trunk, features, latent_dim, least_log_scale)
    return PointHead(trunk, features, latent_dim)


def check_image_shape(image_shape: Sequence[int]) -> tuple[int, int, int]:
    """``image_shape`` as ``(C, H, W)``, or a ``ValueError`` that says what was expected."""
    shape = tuple(image_shape)
    if len(shape) != 3 or min(shape) < 1:
        raise ValueError(f"expected an image_shape of (channels, height, width), got {shape}")
    return shape[0], shape[1], shape[2]
