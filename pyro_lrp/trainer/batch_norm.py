"""Batch normalization over the rows of all processes, for any backend and device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

__all__ = ["SharedStatistics"]

Sum = Callable[[Tensor], Tensor]


class SharedStatistics(TorchFunctionMode):
    """Within the block, batch norms in training mode take the statistics of the whole minibatch.

    One reduction for each forward pass of a batch norm, and one for its backward pass. Every process has as
    many rows as the others, and meets the same batch norms in the same order. ``torch.nn.SyncBatchNorm`` does
    the same on CUDA alone, and replaces the modules.

    Args:
        total: Sums a tensor over the processes.
        rank: The number of this process.
        size: How many there are.

    References:
        Chan, Golub and LeVeque (1983), Algorithms for Computing the Sample Variance, for means and variances of
        parts.

    >>> norm = torch.nn.BatchNorm1d(2)
    >>> with SharedStatistics(lambda tensor: tensor, rank=0, size=1):
    ...     norm(torch.tensor([[0.0, 1.0], [2.0, 3.0]])).tolist()
    [[-0.99..., -0.99...], [0.99..., 0.99...]]
    """

    def __init__(self, total: Sum, rank: int, size: int) -> None:
        super().__init__()
        self.total = total
        self.rank = rank
        self.size = size

    def __torch_function__(
        self, function: Callable, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        options = kwargs or {}
        if function is functional.batch_norm:
            return self._normalized(*args, **options)
        return function(*args, **options)

    def _normalized(
        self,
        x: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,  # noqa: FBT001, FBT002 as in torch
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        """``functional.batch_norm``, shape ``(B, C, ...)``."""
        if not training:
            return functional.batch_norm(x, running_mean, running_var, weight, bias, False, momentum, eps)
        values = x
        if x.dtype in (torch.float16, torch.bfloat16):
            values = x.float()
        mean, variance = self._statistics(values)
        rows = self.size * x.numel() // x.shape[1]
        if running_mean is not None and running_var is not None:
            with torch.no_grad():
                unbiased = variance * rows / (rows - 1)
                running_mean.lerp_(mean.to(running_mean.dtype), momentum)
                running_var.lerp_(unbiased.to(running_var.dtype), momentum)

        shape = [1, -1, *(1 for _ in x.shape[2:])]
        scale = (variance + eps).rsqrt()
        if weight is not None:
            scale = scale * weight
        result = (values - mean.view(shape)) * scale.view(shape)
        if bias is not None:
            result = result + bias.view(shape)
        return result.to(x.dtype)

    def _statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of each channel over all processes, of which each has as many rows."""
        dimensions = [0, *range(2, x.dim())]
        variance, mean = torch.var_mean(x, dimensions, correction=0)
        own = torch.stack([mean, variance])
        # each process fills its row of a table of zeros, so that the sum is everybody's table
        table = own.new_zeros(self.size, *own.shape)
        table = table.index_put((torch.tensor(self.rank, device=x.device),), own)
        table = _Total.apply(table, self.total)
        means = table[:, 0]
        variances = table[:, 1]
        mean = means.mean(0)
        variance = variances.mean(0) + (means - mean).square().mean(0)
        return mean, variance


class _Total(torch.autograd.Function):
    """The sum over processes; its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, total: Sum) -> Tensor:
        ctx.total = total
        return total(tensor)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.total(grad), None
