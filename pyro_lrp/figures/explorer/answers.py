"""What an explorer answers with."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from pyro_lrp.figures.explorer.gauge import Reading

__all__ = ["Point", "Samples", "Walk"]


class Point(NamedTuple):
    """A code to start from.

    Attributes:
        code: Shape ``(d,)``.
        context: Shape ``(context_dim,)``.
        image: The image that was encoded, ``(C, H, W)``; for a sample, its decoded image.
        name: What it is, in words.
    """

    code: Tensor
    context: Tensor
    image: Tensor
    name: str


class Samples(NamedTuple):
    """Samples of the prior, all of them finite.

    Attributes:
        images: Decoded, shape ``(n, C, H, W)``.
        codes: Shape ``(n, d)``.
        context: Shape ``(n, context_dim)``.
        non_finite: How many further ones were not finite.
    """

    images: Tensor
    codes: Tensor
    context: Tensor
    non_finite: int

    def point(self, index: int) -> Point:
        """A sample as a start."""
        name = f"sample {index + 1}"
        return Point(self.codes[index], self.context[index], self.images[index], name)


class Walk(NamedTuple):
    """A path between two points.

    Attributes:
        label: The name of its space in the paper, ``"z_0"`` or ``"z_T"``.
        images: Decoded codes, both ends included, shape ``(steps, C, H, W)``.
        readings: How typical each code is; none if the prior has no density.
    """

    label: str
    images: Tensor
    readings: list[Reading]
