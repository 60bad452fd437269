"""Images as files hold them: bytes from 0 to 255, or JPEG."""

from __future__ import annotations

import io

import numpy as np
import torch
from torch import Tensor

__all__ = ["as_bytes", "as_files", "as_jpeg", "jpeg_round_trip"]


def as_bytes(images: Tensor) -> Tensor:
    """Images clipped to [0, 1] and rounded to uint8, of the same shape.

    >>> as_bytes(torch.tensor([-1.0, 0.5, 2.0])).tolist()
    [0, 128, 255]
    """
    return (images.clamp(0, 1) * 255).round().byte()


def as_files(images: Tensor) -> Tensor:
    """The values of :func:`as_bytes` as floats in [0, 1].

    Metrics see generated images this way, because real images were files.
    """
    return (images.clamp(0, 1) * 255).round() / 255


def as_jpeg(images: Tensor, quality: int = 75) -> Tensor:
    """Images in [0, 1], written as JPEG and read back.

    Args:
        images: Shape ``(B, 1 or 3, H, W)``.
        quality: Pillow's quality.

    References:
        Dai and Wipf (2019), whose data set was compressed this way.
    """
    read = []
    for image in as_files(images).cpu():
        array = as_bytes(image).permute(1, 2, 0).numpy()
        decoded = jpeg_round_trip(array, quality)
        read.append(torch.from_numpy(decoded))
    stacked = torch.stack(read).permute(0, 3, 1, 2)
    return (stacked.to(images.dtype) / 255).to(images.device)


def jpeg_round_trip(pixels: np.ndarray, quality: int = 75) -> np.ndarray:
    """One image, written as JPEG and read back.

    Args:
        pixels: uint8, shape ``(H, W, 1 or 3)``.
        quality: Pillow's quality.
    """
    from PIL import Image

    array = pixels
    if pixels.shape[-1] == 1:
        array = pixels.squeeze(-1)
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "JPEG", quality=quality)
    read = np.asarray(Image.open(buffer))
    return read.reshape(pixels.shape).copy()
