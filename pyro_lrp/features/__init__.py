"""Frozen networks that turn images into features: their weights, hashes and input ranges, in one place.

Most errors of perceptual losses and Fréchet distances are errors of preprocessing, so every network here takes
images in [0, 1] and does the rest itself.
"""

from pyro_lrp.features.inception import Inception
from pyro_lrp.features.lpips import LPIPS
from pyro_lrp.features.trunks import Features, layer_names
from pyro_lrp.features.weights import Frozen, obtainable, sha256

__all__ = ["LPIPS", "Features", "Frozen", "Inception", "layer_names", "obtainable", "sha256"]
