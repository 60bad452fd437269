"""A minibatch of images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Batch", "no_context"]


def no_context(like: Tensor) -> Tensor:
    """A context of length 0 for each row of a tensor, on its device, shape ``(N, 0)``."""
    return torch.zeros(len(like), 0, device=like.device)


@dataclass(frozen=True)
class Batch:
    """A minibatch of images.

    Attributes:
        x: Images in [0, 1], of torch's default dtype, shape ``(B, C, H, W)``.
        label: Class labels, shape ``(B,)``, or None.
        context: The context of each image, likewise, shape ``(B, context_dim)``; of length 0 by default.
    """

    x: Tensor
    label: Tensor | None = None
    context: Tensor = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if self.context is None:
            object.__setattr__(self, "context", no_context(self.x))

    def map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """A minibatch of the changed tensors."""
        label = self.label
        if label is not None:
            label = change(label)
        return Batch(change(self.x), label, change(self.context))
