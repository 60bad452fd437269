"""The latent space: codes of images, samples of the prior, paths, directions and their decoded images."""

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
