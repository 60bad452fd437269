"""Samples of a prior that is given the class: a labelled row for each class."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from pyro_lrp.data import Condition
from pyro_lrp.figures.images import grid
from pyro_lrp.models import Autoencoder

__all__ = ["draw_by_class", "label_font", "rows_by_class"]

_FONT_SIZE = 14  # pixels
_MARGIN = 6  # pixels on both sides of a label
_COLUMNS = 10  # images of a row, or more if the grid would be narrower than high
_GAP = 2  # pixels between the images of a grid


def draw_by_class(
    autoencoder: Autoencoder,
    condition: Condition,
    names: Sequence[str],
    n: int,
    temperature: float = 1.0,
) -> tuple[dict[str, Tensor], int]:
    """Sample the prior for each class.

    Args:
        autoencoder: The model.
        condition: The meaning of its contexts.
        names: The classes, in the words of ``context=``; the first ``n`` of them are drawn.
        n: Number of samples in all, rounded up to as many for each class.
        temperature: Factor of the standard deviation of the prior's base.

    Returns:
        The finite images of each class, ``(N, C, H, W)``, and the number of samples that were not finite.
    """
    names = names[:n]
    each = math.ceil(n / len(names))
    device = next(autoencoder.parameters()).device
    images = {}
    non_finite = 0
    for name in names:
        context = condition.parse([name], each).to(device)
        draw = autoencoder.draw(each, temperature, context)
        images[name] = draw.images
        non_finite += draw.non_finite
    return images, non_finite


def rows_by_class(images: Mapping[str, Tensor]) -> Tensor:
    """Arrange the images of each class in a row, or in several if there are many, behind its name.

    Args:
        images: Values in [0, 1], shape ``(N, C, H, W)``, by the name of the class.

    Returns:
        uint8, shape ``(3, height, width)``.

    >>> rows_by_class({"cat": torch.rand(2, 1, 8, 8), "dog": torch.rand(1, 1, 8, 8)}).shape[1]
    102
    """
    total = sum(map(len, images.values()))
    most = max(map(len, images.values()))
    columns = min(most, max(_COLUMNS, math.ceil(math.sqrt(total))))
    cells = []
    labels = []
    for name, row in images.items():
        label = name
        for part in row.split(columns):
            blank = torch.ones(columns - len(part), *row.shape[1:], device=row.device)
            cells.append(torch.cat([part, blank]))
            labels.append(label)
            label = ""
    return _labelled(grid(torch.cat(cells), columns), labels)


def label_font() -> ImageFont.FreeTypeFont:
    """The font of labels, which has the letters of most alphabets."""
    import matplotlib as mpl  # slow to import

    return ImageFont.truetype(Path(mpl.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), _FONT_SIZE)


def _labelled(picture: Tensor, labels: Sequence[str]) -> Tensor:
    """A grid with a label to the left of each row, on white."""
    font = label_font()
    widest = max(font.getlength(label) for label in labels)
    left = math.ceil(widest) + 2 * _MARGIN
    height, width = picture.shape[1:]
    canvas = Image.new("RGB", (left + width, height), "white")
    canvas.paste(Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy()), (left, 0))
    text = ImageDraw.Draw(canvas)
    row = (height - _GAP) / len(labels)
    for number, label in enumerate(labels):
        middle = _GAP / 2 + (number + 0.5) * row
        text.text((left - _MARGIN, middle), label, fill="black", font=font, anchor="rm")
    return torch.from_numpy(np.array(canvas)).permute(2, 0, 1)
