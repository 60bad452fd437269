"""Images side by side."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torchvision.utils import make_grid

from pyro_lrp.core.files import write_atomically

__all__ = ["grid", "save_png"]

_LEAST_SIDE = 48  # pixels of one image in a picture: an 8x8 digit is enlarged, a face is not


def grid(images: Tensor, columns: int | None = None) -> Tensor:
    """Images side by side on white.

    Args:
        images: In [0, 1], shape ``(N, C, H, W)``, with 1 or 3 channels.
        columns: As near to a square as can be, if None.

    Returns:
        uint8, shape ``(3, height, width)``.

    >>> grid(torch.rand(5, 1, 8, 8)).shape
    torch.Size([3, 102, 152])
    """
    factor = max(1, _LEAST_SIDE // images.shape[-2])
    columns = columns or math.ceil(math.sqrt(len(images)))
    large = F.interpolate(images.detach().cpu().float(), scale_factor=factor, mode="nearest")
    return (make_grid(large, nrow=columns, padding=2, pad_value=1.0).clamp(0, 1) * 255).round().to(torch.uint8)


def save_png(path: Path, picture: Tensor) -> None:
    """Write a uint8 picture of shape ``(3, H, W)``, atomically."""
    image = Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy())
    write_atomically(path, lambda target: image.save(target, format="PNG"))
