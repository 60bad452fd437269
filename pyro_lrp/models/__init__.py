"""Autoencoders as Pyro model/guide pairs."""

from pyro_lrp.models.autoencoder import Autoencoder, Draw
from pyro_lrp.models.codes import CodedImages, Codes, ImageCodes
from pyro_lrp.models.hierarchical import HierarchicalAutoencoder
from pyro_lrp.models.parts import from_parts
from pyro_lrp.models.regularized import RegularizedAutoencoder

__all__ = [
    "Autoencoder",
    "CodedImages",
    "Codes",
    "Draw",
    "HierarchicalAutoencoder",
    "ImageCodes",
    "RegularizedAutoencoder",
    "from_parts",
]
