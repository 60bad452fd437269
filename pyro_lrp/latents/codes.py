"""Codes of a split and draws of the prior: seeded, in parts, with the networks in eval mode."""

from __future__ import annotations

import torch

from pyro_lrp.core.modules import eval_mode
from pyro_lrp.data import Split
from pyro_lrp.models import Autoencoder, Codes, ImageCodes

__all__ = ["encode_split"]


@torch.no_grad()
def encode_split(autoencoder: Autoencoder, split: Split) -> Codes | ImageCodes:
    """The codes of all images of a split.

    Args:
        autoencoder: On the split's device.
        split: Of any size; it is encoded in parts.
    """
    with eval_mode(autoencoder):
        return autoencoder.codes(split)
