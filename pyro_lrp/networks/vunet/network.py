"""The Variational U-Net as encoder and decoder: an image and a pose in, latents, an image out (spec 11.2)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
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
    """Means of the latents of an image of a person: it sees body parts, cut out where the joints are.

    Args:
        size: Side of the image.
        dropout: Share of activations.
        most: Channels of the latents.
    """

    def __init__(self, size: int = 256, dropout: float = 0.1, most: int = 128) -> None:
        super().__init__()
        self.size = size
        self.appearance, self.posterior = AppearanceEncoder(size, dropout, most), Posterior(dropout, most)

    def forward(self, x: Tensor, pose: Tensor, draw: Draw) -> None:
        """Call ``draw(number, mean) -> z`` for each latent, from coarse to fine.

        Args:
            x: Images in [0, 1], ``(B, 3, size, size)``.
            pose: Joints, ``(B, 30)``.
            draw: Makes a latent of its mean, each of :attr:`PosedDecoder.latent_shapes`.
        """
        if x.shape[-2:] != (self.size, self.size):
            raise ValueError(f"expected images of {self.size}x{self.size}, got {x.shape[-1]}x{x.shape[-2]}")
        parts = body_parts(2.0 * x - 1.0, _joints(pose), self.size // 4)
        self.posterior(self.appearance(parts), draw)


class PosedDecoder(nn.Module):
    """An image of a pose, which it sees as a stick figure, and of latents.

    Args:
        size: Side of the image.
        dropout: Share of activations.
        first: Channels at the finest scale.
        most: Channels at most, and of the latents.

    Attributes:
        latent_shapes: ``(C, h, w)`` of each latent and of the features that a prior may see of it.
        context_dim: Length of a pose.
    """

    def __init__(self, size: int = 256, dropout: float = 0.1, first: int = 32, most: int = 128) -> None:
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
            draw: Makes a latent, given features that know the pose and the latents before it.
            to_image: Go on to the image once all latents are drawn.

        Returns:
            Mean images of [0, 1], ``(B, 3, size, size)``, or None.
        """
        figures = 2.0 * stick_figures(_joints(pose), self.size) - 1.0
        image = self.image(self.pose(figures), draw, to_image=to_image)
        return None if image is None else 0.5 * (image + 1.0)  # the networks' images lie in [-1, 1]


def _joints(pose: Tensor) -> Tensor:
    return pose.reshape(*pose.shape[:-1], len(JOINTS), 2)


def vunet(
    image_shape: Sequence[int], latent_dim: int, dropout: float = 0.1, first: int = 32, most: int = 128
) -> tuple[PosedEncoder, PosedDecoder]:
    """Encoder and decoder of the Variational U-Net.

    Args:
        image_shape: ``(3, size, size)``; the size is a power of two from 32 on, 256 as published.
        latent_dim: 80 for each of the latents' channels: 10,240 as published.
        dropout: Share of activations.
        first: Channels at the finest scale.
        most: Channels at most, and of the latents.

    Raises:
        ValueError: If the image is not square or of a size that cannot be halved down to 4, or the latents'
            length is another.

    >>> encoder, decoder = vunet((3, 64, 64), 80 * 8, first=4, most=8)
    >>> decoder.latent_shapes
    ((8, 4, 4), (8, 8, 8))
    """
    channels, height, width = image_shape
    if channels != 3 or height != width:
        raise ValueError(f"the U-Net needs square images in colour, got {tuple(image_shape)}")
    decoder = PosedDecoder(height, dropout, first, most)
    expected = sum(torch.Size(shape).numel() for shape in decoder.latent_shapes)
    if latent_dim != expected:
        raise ValueError(
            f"the U-Net's latents have length {expected} at most={most}, and latent_dim={latent_dim}"
        )
    return PosedEncoder(height, dropout, most), decoder
