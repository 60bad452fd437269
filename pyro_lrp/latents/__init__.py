"""The latent space: codes of images, paths, directions, and what a trained autoencoder shows along them."""

from pyro_lrp.latents.geometry import (
    PrincipalDirections,
    along,
    attribute_direction,
    even_speed,
    lerp,
    principal_directions,
    slerp,
    typicality,
)

__all__ = [
    "PrincipalDirections", "along", "attribute_direction", "even_speed", "lerp", "principal_directions",
    "slerp", "typicality",
]  # fmt: skip
