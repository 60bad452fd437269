"""The known generator of a synthetic data set of people."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

__all__ = ["GroundTruth"]


@dataclass(frozen=True)
class GroundTruth:
    """The generator of a synthetic data set of people, against which models of the data can be tested.

    Attributes:
        draw: Maps poses ``(N, 15, 2)`` and a seed to images uint8 ``(N, 3, H, W)``, each with an appearance
            that is independent of its pose.
        find: Maps images in [0, 1], ``(N, 3, H, W)``, to the detected places of the markers, ``(N, M, 2)`` in
            pixels (x, y), NaN where a marker is not detected.
        expected: Maps poses ``(N, 15, 2)`` to the places of the markers, ``(N, M, 2)`` in pixels.
        markers: Names of the markers, such as ``"head"``.
    """

    draw: Callable[[Tensor, int], Tensor]
    find: Callable[[Tensor], Tensor]
    expected: Callable[[Tensor], Tensor]
    markers: tuple[str, ...]
