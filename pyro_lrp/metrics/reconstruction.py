"""``reconstruction_mse``: how well codes keep the test images, beside the best that knows no image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from pyro_lrp.data import ImageData, chunks
from pyro_lrp.models import Autoencoder
from pyro_lrp.randomness import seeded

__all__ = ["reconstruction_mse"]


@torch.no_grad()
def reconstruction_mse(
    autoencoder: Autoencoder,
    data: ImageData,
    *,
    n: int = 10_000,
    seed: int = 0,
    device: torch.device | str = "cpu",
    on_step: Callable[[int, int], None] = lambda step, steps: None,
) -> dict[str, dict[str, Any]]:
    """Mean squared error per pixel value, of images in [0, 1], over the first ``n`` test images.

    Args:
        autoencoder: On ``device``; an image is encoded by one sample of q(z|x).
        data: Whose test images are reconstructed.
        n: At most so many.
        seed: Of the encoder's noise.
        device: Where to compute.
        on_step: Called with the images done and all.

    Returns:
        For ``reconstruction_mse``, and for ``constant_image_mse`` (the mean of these images in place of each,
        the best constant), their ``value``, ``protocol``, ``n`` and ``seed``.
    """
    test = data.test[:n].to(torch.device(device))
    total = torch.zeros((), dtype=torch.float64)
    sums = torch.zeros(2, *data.image_shape, dtype=torch.float64)
    done = 0
    with seeded(seed, "evaluate", "reconstruction_mse"):
        for batch in chunks(test):
            x = batch.x.double()
            total += (autoencoder.reconstruct(batch.x).double() - x).square().sum().cpu()
            sums += torch.stack([x.sum(0), x.square().sum(0)]).cpu()
            done += len(x)
            on_step(done, len(test))
    mean, square = sums / len(test)
    values = total.item() / (len(test) * mean.numel()), (square - mean.square()).mean().item()
    common = {"protocol": {"images": f"test images of {data.name}, in [0, 1]"}, "n": len(test), "seed": seed}
    names = ("reconstruction_mse", "constant_image_mse")
    return {name: {"value": value, **common} for name, value in zip(names, values, strict=True)}
