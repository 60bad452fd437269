"""Frozen pretrained networks that map images to features, with their weights and hashes.

Every network takes images in [0, 1] and does its own preprocessing, since most errors of perceptual losses and
Fréchet distances are errors of preprocessing. The packages that define the networks are imported at first use.
"""

from pyro_lrp.features.inception import Inception
from pyro_lrp.features.lpips import LPIPS
from pyro_lrp.features.vgg import Features, layer_names
from pyro_lrp.features.weights import Frozen, obtainable, sha256

__all__ = ["LPIPS", "Features", "Frozen", "Inception", "layer_names", "obtainable", "sha256"]
