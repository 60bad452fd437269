"""The Variational U-Net as an encoder and a decoder conditioned on a pose (spec 11.2)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from pyro_lrp.networks.vunet.blocks import (
    LATENT_SIDES,
    AppearanceEncoder,
    Draw,
    PoseDecoder,
    PoseEncoder,
    Posterior,
)
from pyro_lrp.people.poses import JOINTS, body_parts, stick_figures

__all__ = ["PosedDecoder", "PosedEncoder", "vunet"]


class PosedEncoder(nn.Module):
    """Means of the latents of an image of a person, given body parts cropped at the joints.

    Args:
        size: Side of the image.
        dropout: Dropout rate.
        most: Channels of all features and of the latents.
    """

    unit_variance = True  # q(z|x) has no scale of its own

    def __init__(self, size: int = 256, dropout: float = 0.1, most: int = 128) -> None:
        super().__init__()
        self.size = size
        self.appearance = AppearanceEncoder(size, dropout, most)
        self.posterior = Posterior(dropout, most)

    def forward(self, x: Tensor, pose: Tensor, draw: Draw) -> None:
        """Call ``draw(number, mean) -> z`` for each latent, from coarse to fine.

        Args:
            x: Images in [0, 1], ``(B, 3, size, size)``.
            pose: Joints, ``(B, 30)``.
            draw: Maps the mean of a latent to the latent; shapes are :attr:`PosedDecoder.latent_shapes`.
        """
        height, width = x.shape[-2:]
        if (height, width) != (self.size, self.size):
            raise ValueError(f"expected images of {self.size}x{self.size}, got {width}x{height}")
        images = 2.0 * x - 1.0
        parts = body_parts(images, _joints(pose), self.size // 4)
        self.posterior(self.appearance(parts), draw)


class PosedDecoder(nn.Module):
    """An image given a pose, drawn as a stick figure, and latents.

    Args:
        size: Side of the image.
        dropout: Dropout rate.
        first: Channels at the finest scale.
        most: Largest number of channels, and channels of the latents.

    Attributes:
        latent_shapes: ``(C, h, w)`` of each latent and of the features that its prior is conditioned on.
        context_dim: Length of a pose.
    """

    def __init__(
        self,
        size: int = 256,
        dropout: float = 0.1,
        first: int = 32,
        most: int = 128,
    ) -> None:
        super().__init__()
        self.size = size
        self.pose = PoseEncoder(size, dropout, first, most)
        self.image = PoseDecoder(size, dropout, first, most)
        self.latent_shapes = tuple((most, side, side) for side in LATENT_SIDES)
        self.context_dim = 2 * len(JOINTS)

    def forward(self, pose: Tensor, draw: Draw, *, to_image: bool = True) -> Tensor | None:
        """Call ``draw(number, features) -> z`` where a latent enters, from coarse to fine.

        Args:
            pose: Joints, ``(B, 30)``.
            draw: Maps features, which depend on the pose and the preceding latents, to a latent.
            to_image: Whether to compute the image; if not, stop after the last latent.

        Returns:
            Mean images in [0, 1], ``(B, 3, size, size)``, or None.
        """
        # The images of the networks lie in [-1, 1].
        figures = 2.0 * stick_figures(_joints(pose), self.size) - 1.0
        features = self.pose(figures)
        image = self.image(features, draw, to_image=to_image)
        if image is None:
            return None
        return 0.5 * (image + 1.0)


def _joints(pose: Tensor) -> Tensor:
    """``(*, 30) -> (*, 15, 2)``."""
    return pose.reshape(*pose.shape[:-1], len(JOINTS), 2)


def vunet(
    image_shape: Sequence[int],
    latent_dim: int,
    dropout: float = 0.1,
    first: int = 32,
    most: int = 128,
) -> tuple[PosedEncoder, PosedDecoder]:
    """Build the encoder and the decoder of the Variational U-Net.

    Args:
        image_shape: ``(3, size, size)``; the size is a power of two of at least 32, 256 as published.
        latent_dim: Total length of the latents, 80 times ``most``: 10,240 as published.
        dropout: Dropout rate.
        first: Channels at the finest scale.
        most: Largest number of channels, and channels of the latents.

    Raises:
        ValueError: If the image is not square or cannot be halved down to a side of 4, or ``latent_dim`` is not
            the length of the latents.

    >>> encoder, decoder = vunet((3, 64, 64), 80 * 8, first=4, most=8)
    >>> decoder.latent_shapes
    ((8, 4, 4), (8, 8, 8))
    """
    channels, height, width = image_shape
    if channels != 3 or height != width:
        raise ValueError(f"the U-Net needs square images in colour, got {tuple(image_shape)}")
    decoder = PosedDecoder(height, dropout, first, most)
    expected = 0
    for shape in decoder.latent_shapes:
        expected += math.prod(shape)
    if latent_dim != expected:
        raise ValueError(
            f"the U-Net's latents have length {expected} at most={most}, and latent_dim={latent_dim}"
        )
    return PosedEncoder(height, dropout, most), decoder
