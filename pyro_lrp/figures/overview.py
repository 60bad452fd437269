"""A trained model at a glance: test images, their reconstructions, and prior samples."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_lrp.core.modules import eval_mode
from pyro_lrp.core.randomness import seeded, some_rows
from pyro_lrp.data import Split
from pyro_lrp.figures.classes import rows_by_class
from pyro_lrp.models import Autoencoder

__all__ = ["overview"]

_COLUMNS = 10
_SAMPLES = 2  # rows


@torch.no_grad()
def overview(autoencoder: Autoencoder, test: Split, seed: int) -> Tensor:
    """Rows of test images, of the same reconstructed, and of prior samples.

    The images are some at random, always the same; the samples are the first ones. A conditional prior is
    given the contexts of the test images.

    Args:
        autoencoder: The model; it is in eval mode meanwhile.
        test: Test images.
        seed: Seed of the noise.

    Returns:
        uint8, shape ``(3, height, width)``.
    """
    device = next(autoencoder.parameters()).device
    chosen = some_rows(len(test), _COLUMNS, "overview")
    batch = test[chosen].to(device).batch(slice(None))
    contexts = batch.context.repeat(_SAMPLES, 1)
    with eval_mode(autoencoder), seeded(seed, "overview"):
        reconstructions = autoencoder.reconstruct(batch.x, batch.context)
        samples = autoencoder.draw(len(contexts), context=contexts).images
    rows = {"test images": batch.x, "reconstructions": reconstructions}
    if len(samples):
        label = "prior samples"
        if autoencoder.prior.context_dim:
            label = "samples, same context"
        rows[label] = samples
    return rows_by_class({name: images.cpu() for name, images in rows.items()})
