"""Arrays of images in any usual layout and range of values, as bytes of shape (N, C, H, W)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyro_lrp.core.errors import UserError

__all__ = ["as_images"]

_CHANNELS = (1, 3)
_ROWS = 1000  # images that are converted at once
_BYTES = (0.0, 255.0)
_DEEP = (0.0, 65535.0)


class _Range(NamedTuple):
    """The values of black and white."""

    low: float
    high: float

    def __str__(self) -> str:
        return f"[{self.low:g}, {self.high:g}]"


def as_images(
    arrays: Mapping[str, Any], value_range: Sequence[float] | None = None
) -> tuple[dict[str, Tensor], list[str]]:
    """The images of each array, uint8 of shape ``(N, C, H, W)``, and notes about what was taken for what.

    Args:
        arrays: Arrays or tensors by the name that errors use, each of shape ``(N, H, W)``, ``(N, H, W, C)`` or
            ``(N, C, H, W)`` with 1 or 3 channels. They are not changed.
        value_range: The values of black and white, the same for all arrays. If None it is 0 and 255 for bytes;
            for others [0, 1], [-1, 1], [0, 255] or, for unsigned integers of 16 bits, [0, 65535]: whichever the
            values themselves fill.

    Raises:
        UserError: If an array is not of images, has NaN or infinite values, or may have several ranges.
    """
    plain = {name: _numbers(array, name) for name, array in arrays.items()}
    layouts = {name: _channels_first(array, name) for name, array in plain.items()}
    bounds = [_bounds(array, name) for name, array in layouts.items()]
    least = min(low for low, _ in bounds)
    most = max(high for _, high in bounds)
    names = " and ".join(layouts)
    dtypes = {array.dtype for array in layouts.values()}
    chosen, notes = _chosen_range(names, dtypes, least, most, value_range)
    images = {}
    for name, array in layouts.items():
        images[name] = torch.from_numpy(_as_bytes(array, chosen))
    _check_shapes(images)
    return images, notes


def _numbers(array: Any, name: str) -> np.ndarray:
    """A NumPy array of numbers."""
    if isinstance(array, Tensor):
        array = array.detach().cpu()
        if array.dtype == torch.bfloat16:
            array = array.float()
        array = array.numpy()
    try:
        numbers = np.asarray(array)
    except ValueError as error:  # images of different sizes
        raise UserError(f"{name} must be one array, of images of the same size") from error
    if numbers.dtype.kind not in "biuf":
        raise UserError(f"{name} must be numbers, got {numbers.dtype}")
    if not numbers.size:
        raise UserError(f"{name} holds no images: its shape is {numbers.shape}")
    return numbers


def _channels_first(array: np.ndarray, name: str) -> np.ndarray:
    """The array as ``(N, C, H, W)``."""
    shape = array.shape
    if array.ndim == 2:
        raise UserError(
            f"{name} is a table of shape {shape}, and not images: this library is for images; flattened ones "
            "must be reshaped to (N, H, W) first"
        )
    if array.ndim > 4:
        raise UserError(
            f"{name} has the shape {shape}: videos and volumes are no images; take frames or slices"
        )
    if array.ndim == 3 and shape[-1] not in _CHANNELS:  # else it is one image
        return array[:, None]
    if array.ndim != 4:
        raise UserError(f"{name} must have the shape (N, H, W), (N, H, W, C) or (N, C, H, W), got {shape}")
    first = shape[1] in _CHANNELS
    last = shape[3] in _CHANNELS
    if first and last:
        raise UserError(
            f"{name} has the shape {shape}, which may be (N, C, H, W) or (N, H, W, C): images must have sides "
            "other than 1 and 3 pixels"
        )
    if first:
        return array
    if last:
        return array.transpose(0, 3, 1, 2)
    raise UserError(f"{name} must have 1 or 3 channels, got the shape {shape}")


def _bounds(array: np.ndarray, name: str) -> tuple[float, float]:
    """The least and the largest value."""
    if array.dtype.kind == "f":
        finite = np.isfinite(array)
        if not finite.all():
            row = int(np.argwhere(~finite)[0, 0])
            raise UserError(f"{name} has values that are NaN or infinite, the first in image {row}")
    return float(array.min()), float(array.max())


def _chosen_range(
    names: str,
    dtypes: set[np.dtype],
    least: float,
    most: float,
    value_range: Sequence[float] | None,
) -> tuple[_Range, list[str]]:
    """The range of the values, and a note unless they are ordinary bytes."""
    if value_range is not None:
        return _given_range(names, least, most, value_range), []
    if dtypes == {np.dtype(np.uint8)}:
        if 0 < most <= 1:
            return _Range(*_BYTES), [
                f"{names}: the bytes are 0 and 1 and are taken as levels of 255, almost black: "
                "data.value_range=[0,1] takes 1 as white"
            ]
        return _Range(*_BYTES), []
    chosen = _likely_range(dtypes, least, most)
    if chosen is None:
        raise UserError(
            f"{names}: the values lie in [{least:.4g}, {most:.4g}], which fills neither [0, 1] nor [-1, 1] nor "
            "[0, 255]: say what is black and what white, such as data.value_range=[0,16] "
            "(from Python value_range=[0, 16])"
        )
    kinds = " and ".join(sorted(str(dtype) for dtype in dtypes))
    return chosen, [f"{names}: {kinds} values are taken as {chosen}, black to white"]


def _given_range(names: str, least: float, most: float, value_range: Sequence[float]) -> _Range:
    try:
        low, high = (float(value) for value in value_range)
    except (TypeError, ValueError) as error:
        raise UserError(f"data.value_range must be [BLACK,WHITE], got {value_range!r}") from error
    if not low < high:
        raise UserError(f"data.value_range must be [BLACK,WHITE] in this order, got {value_range!r}")
    if least < low or most > high:
        raise UserError(f"{names}: the values lie in [{least:.4g}, {most:.4g}], outside of data.value_range")
    return _Range(low, high)


def _likely_range(dtypes: set[np.dtype], least: float, most: float) -> _Range | None:
    """The range that the values fill; None if they fill none: values of [0, 255] exceed half of it."""
    if 0 <= least and most <= 1:
        return _Range(0.0, 1.0)
    if -1 <= least and most <= 1:
        return _Range(-1.0, 1.0)
    if 0 <= least and 127 < most <= 255:
        return _Range(*_BYTES)
    if dtypes == {np.dtype(np.uint16)} and most > 32767:
        return _Range(*_DEEP)
    return None


def _as_bytes(array: np.ndarray, values: _Range) -> np.ndarray:
    """Bytes, contiguous and writable; the same memory if the array is so already."""
    if array.dtype == np.uint8 and values == _BYTES:
        return np.require(array, requirements=["C", "W"])
    result = np.empty(array.shape, np.uint8)
    for start in range(0, len(array), _ROWS):
        part = array[start : start + _ROWS].astype(np.float64)
        scaled = (part - values.low) * (255.0 / (values.high - values.low))
        result[start : start + _ROWS] = np.rint(scaled)
    return result


def _check_shapes(images: Mapping[str, Tensor]) -> None:
    shapes = {name: tuple(tensor.shape[1:]) for name, tensor in images.items()}
    if len(set(shapes.values())) > 1:
        listed = ", ".join(f"{shape} of {name}" for name, shape in shapes.items())
        raise UserError(f"the images must have one shape (C, H, W), got {listed}")
