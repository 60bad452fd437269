"""Sizes that suit the number of training images, for the keys that a configuration leaves null."""

from __future__ import annotations

from typing import Any

__all__ = ["NETWORK_SIZES", "batch_size_for", "network_sizes", "size_notes"]

NETWORK_SIZES: dict[str, Any] = {
    "channels": [64, 128],  # of infogan
    "hidden": 1024,
    "hidden_dims": [512, 512],  # of mlp
}
"""Sizes of networks for many images, by their key in ``network``."""

MANY = 50_000  # images for which the published networks were made
NARROWEST = 8  # the largest divisor of their widths
BATCH = 100
LEAST_BATCH = 16  # fewer images make the statistics of batch normalization too noisy


def batch_size_for(images: int) -> int:
    """100 images in a minibatch, or a tenth of the training images, but not fewer than 16 if there are as many.

    >>> [batch_size_for(images) for images in (8, 100, 219, 1293)]
    [8, 16, 21, 100]
    """
    return min(BATCH, images, max(LEAST_BATCH, images // 10))


def network_sizes(images: int) -> dict[str, Any]:
    """The sizes of networks for so many training images.

    Widths are halved for every quarter of the images, down to an eighth: the weights, which grow as the square
    of the width, stay in proportion to the images.

    >>> network_sizes(219)
    {'channels': [8, 16], 'hidden': 128, 'hidden_dims': [64, 64]}
    >>> network_sizes(60_000) == NETWORK_SIZES
    True
    """
    divisor = 1
    while images * divisor**2 < MANY and divisor < NARROWEST:
        divisor *= 2
    sizes = {}
    for key, full in NETWORK_SIZES.items():
        if isinstance(full, list):
            sizes[key] = [width // divisor for width in full]
        else:
            sizes[key] = full // divisor
    return sizes


def size_notes(images: int, batch_size: int | None, sizes: dict[str, Any]) -> list[str]:
    """What was settled, in a sentence each.

    Args:
        images: Number of training images.
        batch_size: The size of a minibatch, if it was settled.
        sizes: The sizes of the network that were settled.
    """
    notes = []
    if batch_size is not None and batch_size < BATCH:
        notes.append(f"batch_size={batch_size}, for {images:,} training images")
    smaller = [f"network.{key}={size}" for key, size in sizes.items() if size != NETWORK_SIZES[key]]
    if smaller:
        notes.append(
            f"{' and '.join(smaller)}, for {images:,} training images: the full width is for {MANY:,} and more"
        )
    return notes
