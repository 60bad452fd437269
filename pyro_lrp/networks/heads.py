"""The last layer of encoders: mean and scale of a Gaussian, or a single point."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from pyro_lrp.core.errors import UserError
from pyro_lrp.core.gradients import full_precision

__all__ = ["GaussianHead", "PointHead", "check_image_shape", "head", "loc_and_scale"]

SCALE_FLOOR = 1e-6  # keeps log q finite at beta = 0, where the loss does not reward entropy


class GaussianHead(nn.Module):
    """A trunk, followed by one linear layer that outputs the mean and scale of q(z|x).

    Args:
        trunk: Maps images to features, ``(B, C, H, W) -> (B, features)``.
        features: Length of a feature vector.
        latent_dim: Length of a code.
        least_log_scale: Lower bound of the log scale: ``scale = exp(max(., least_log_scale))``. If None,
            ``scale = 1e-6 + softplus(.)``.
    """

    def __init__(
        self,
        trunk: nn.Module,
        features: int,
        latent_dim: int,
        least_log_scale: float | None = None,
    ) -> None:
        super().__init__()
        _check_latent_dim(latent_dim)
        self.trunk = trunk
        self.least_log_scale = least_log_scale
        self.output = nn.Linear(features, 2 * latent_dim)
        nn.init.zeros_(self.output.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        output = self.output(self.trunk(x))
        loc, raw = output.chunk(2, dim=-1)
        # In bfloat16 the floor would vanish, and small scales would lose all digits.
        raw = full_precision(raw)
        if self.least_log_scale is not None:
            log_scale = raw.clamp(min=self.least_log_scale)
            return loc, log_scale.exp()
        return loc, SCALE_FLOOR + F.softplus(raw)


class PointHead(nn.Module):
    """A trunk, followed by one linear layer that outputs the code: the head of a deterministic encoder.

    Args:
        trunk: Maps images to features, ``(B, C, H, W) -> (B, features)``.
        features: Length of a feature vector.
        latent_dim: Length of a code.
    """

    learns_noise = False

    def __init__(self, trunk: nn.Module, features: int, latent_dim: int) -> None:
        super().__init__()
        _check_latent_dim(latent_dim)
        self.trunk = trunk
        self.output = nn.Linear(features, latent_dim)
        nn.init.zeros_(self.output.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        return self.output(self.trunk(x)), None


def head(
    trunk: nn.Module,
    features: int,
    latent_dim: int,
    *,
    stochastic: bool,
    least_log_scale: float | None = None,
) -> GaussianHead | PointHead:
    """A :class:`GaussianHead` for a stochastic encoder, a :class:`PointHead` for a deterministic one."""
    if stochastic:
        return GaussianHead(trunk, features, latent_dim, least_log_scale)
    return PointHead(trunk, features, latent_dim)


def loc_and_scale(encoder: nn.Module, output: Any, shape: Sequence[int]) -> tuple[Tensor, Tensor | None]:
    """The mean and the scale of q(z|x) that an encoder returned.

    Args:
        encoder: Is named in the error.
        output: What it returned.
        shape: The shape of a batch of codes, which that of the scale may broadcast to.

    Raises:
        UserError: If it is no such pair, or a shape differs.
    """
    expected = tuple(shape)
    if isinstance(output, (tuple, list)) and len(output) == 2:
        loc, scale = output
        right = _shape(loc) == expected
        if right and (scale is None or _broadcasts(scale, expected)):
            return loc, scale
        shapes = [_shape(part) for part in output]
        returned = f"a pair of {shapes[0]} and {shapes[1]}"
    else:
        returned = f"one value, {_shape(output)}"
        if isinstance(output, (tuple, list)):
            returned = f"{len(output)} values"
    raise UserError(
        f"the encoder ({type(encoder).__name__}) must return a pair (loc, scale), each of shape {expected} for "
        f"this batch, or (loc, None) if it is deterministic; it returned {returned}"
    )


def _shape(value: Any) -> Any:
    """The shape of a tensor, or else its type."""
    if isinstance(value, Tensor):
        return tuple(value.shape)
    return type(value).__name__


def _broadcasts(value: Any, shape: Sequence[int]) -> bool:
    """Whether the value is a tensor whose shape broadcasts to the given one."""
    if not isinstance(value, Tensor) or value.dim() > len(shape):
        return False
    pairs = zip(reversed(value.shape), reversed(shape), strict=False)
    return all(own in (1, other) for own, other in pairs)


def check_image_shape(image_shape: Sequence[int]) -> tuple[int, int, int]:
    """``image_shape`` as a tuple ``(C, H, W)``.

    Raises:
        ValueError: If it does not have three positive entries.
    """
    shape = tuple(image_shape)
    if len(shape) != 3 or min(shape) < 1:
        raise ValueError(f"expected an image_shape of (channels, height, width), got {shape}")
    channels, height, width = shape
    return channels, height, width


def _check_latent_dim(latent_dim: int) -> None:
    if latent_dim < 1:
        raise ValueError(f"expected a latent_dim of at least 1, got {latent_dim}")
