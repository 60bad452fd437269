"""Encoders and decoders: functions of tensors, without distributions.

An encoder maps images in [0, 1], shape ``(B, C, H, W)``, to ``(loc, scale)``, each ``(B, latent_dim)``;
``scale`` is None if the encoder is deterministic. A decoder maps codes to mean images.
"""

from pyro_lrp.networks.discriminators import discriminator, factor_discriminator
from pyro_lrp.networks.infogan import infogan
from pyro_lrp.networks.mlp import mlp, perceptron
from pyro_lrp.networks.noise import NoisyEncoder, with_noise
from pyro_lrp.networks.resnet import resnet
from pyro_lrp.networks.spatial import SpatialPerceptron
from pyro_lrp.networks.velocity import velocity
from pyro_lrp.networks.vunet.network import vunet

__all__ = [
    "NoisyEncoder",
    "SpatialPerceptron",
    "discriminator",
    "factor_discriminator",
    "infogan",
    "mlp",
    "perceptron",
    "resnet",
    "velocity",
    "vunet",
    "with_noise",
]
