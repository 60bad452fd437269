"""What a synthetic data set of people knows that a real one does not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

__all__ = ["GroundTruth"]


@dataclass(frozen=True)
class GroundTruth:
    """The generator of a synthetic data set of people, so that a model of it has right answers.

    Attributes:
        draw: Maps poses ``(N, 15, 2)`` and a seed to images uint8 ``(N, 3, H, W)``, each of an appearance of
            its own that is independent of its pose.
        find: Maps images in [0, 1], ``(N, 3, H, W)``, to the places of markers that its detector sees,
            ``(N, M, 2)`` in pixels (x, y), NaN where it sees none.
        expected: Maps poses ``(N, 15, 2)`` to the places of the markers, ``(N, M, 2)`` in pixels.
        markers: Names of the markers, such as ``"head"``.
    """

    draw: Callable[[Tensor, int], Tensor]
    find: Callable[[Tensor], Tensor]
    expected: Callable[[Tensor], Tensor]
    markers: tuple[str, ...]
