"""What every encoder ends with."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from pyro_lrp.gradients import full_precision

__all__ = ["GaussianHead", "check_image_shape"]

SCALE_FLOOR = 1e-6  # keeps log q finite at beta = 0, where nothing rewards the encoder's entropy


class GaussianHead(nn.Module):
    """A trunk, then one linear layer that gives the mean and scale of q(z|x): ``scale = 1e-6 + softplus(.)``.

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
        self.output = nn.Linear(features, 2 * latent_dim)
        nn.init.zeros_(self.output.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        loc, raw = self.output(self.trunk(x)).chunk(2, dim=-1)
        # in bfloat16 the floor would vanish, and small scales would lose all their digits
        return loc, SCALE_FLOOR + F.softplus(full_precision(raw))


def check_image_shape(image_shape: Sequence[int]) -> tuple[int, int, int]:
    """``image_shape`` as ``(C, H, W)``, or a ``ValueError`` that says what was expected."""
    shape = tuple(image_shape)
    if len(shape) != 3 or min(shape) < 1:
        raise ValueError(f"expected an image_shape of (channels, height, width), got {shape}")
    return shape[0], shape[1], shape[2]
