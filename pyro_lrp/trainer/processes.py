"""Several processes that train one run: each takes its rows of every minibatch, and gradients are averaged.

The order of the data and the noise are those of one process: a minibatch is drawn as a whole, and noise for all
of its rows, of which each process keeps its own. So a run may go on with another number of processes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from pyro_lrp.trainer.batch_norm import SharedStatistics
from pyro_lrp.trainer.step import Step

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = ["OwnRows", "Processes", "SharedStep"]

_AGREE_EVERY = 20  # steps on a GPU, where asking the other processes makes the host wait


class Processes:
    """The processes of a run, of which this is one.

    Args:
        fabric: Launched.
        sync_batch_norm: Whether batch norms take the statistics of all processes' rows.

    Attributes:
        rank: The number of this process; 0 writes files and prints.
        size: How many there are.
    """

    def __init__(self, fabric: Fabric, *, sync_batch_norm: bool = False) -> None:
        self.fabric = fabric
        self.sync_batch_norm = sync_batch_norm
        self.rank = fabric.global_rank
        self.size = fabric.world_size

    @property
    def own(self) -> slice:
        """The rows of a minibatch that are this process's."""
        return slice(self.rank, None, self.size)

    def only_first(self, function: Callable[[Any], None]) -> Callable[[Any], None]:
        """The function; in other processes than the first, one that does nothing."""
        if self.rank == 0:
            return function
        return _ignore

    def noise(self) -> AbstractContextManager:
        """The block in which noise is drawn for whole minibatches, and this process keeps its rows."""
        if self.size == 1:
            return nullcontext()
        return OwnRows(self.rank, self.size)

    def statistics(self) -> AbstractContextManager:
        """The block in which batch norms see all processes' rows, if they are to."""
        if self.size == 1 or not self.sync_batch_norm:
            return nullcontext()
        return SharedStatistics(self.total, self.rank, self.size)

    def total(self, tensor: Tensor) -> Tensor:
        """The sum of a tensor over the processes."""
        return self._reduced(tensor.contiguous().clone(), "sum")

    def shared(self, value: Any) -> Any:
        """The value that the first process has."""
        if self.size == 1:
            return value
        return self.fabric.broadcast(value, src=0)

    def agree(self, step: int, *, wish: bool) -> bool:
        """Whether any process wishes something, asked by all at the same step."""
        if self.size == 1:
            return wish
        if self.fabric.device.type != "cpu" and step % _AGREE_EVERY:
            return False
        vote = torch.tensor(float(wish), device=self.fabric.device)
        return bool(self._reduced(vote, "sum"))

    def averaged(self, terms: Mapping[str, float]) -> dict[str, float]:
        """The means of some numbers over the processes."""
        if self.size == 1 or not terms:
            return dict(terms)
        values = torch.tensor([*terms.values()], dtype=torch.float32, device=self.fabric.device)
        means = self._reduced(values, "mean")
        return dict(zip(terms, means.tolist(), strict=True))

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors by their means over the processes, in one reduction."""
        if self.size == 1 or not tensors:
            return
        flat = torch.cat([tensor.detach().flatten().float() for tensor in tensors])
        parts = self._reduced(flat, "mean").split([tensor.numel() for tensor in tensors])
        with torch.no_grad():
            for tensor, part in zip(tensors, parts, strict=True):
                tensor.copy_(part.view_as(tensor))

    def average_statistics(self, module: nn.Module) -> None:
        """Average the running statistics of batch norms, which each process may take of its own rows."""
        statistics: list[Tensor] = []
        for part in module.modules():
            if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.running_mean is not None:
                statistics += [part.get_buffer("running_mean"), part.get_buffer("running_var")]
        self.average(statistics)

    def _reduced(self, tensor: Tensor, operation: str) -> Tensor:
        reduced: Any = self.fabric.all_reduce(tensor, reduce_op=operation)
        return reduced


def _ignore(what: Any) -> None:
    """Do nothing."""


class SharedStep(Step):
    """A step of several processes: noise by rows, and one reduction of the gradients in each turn.

    Args:
        *args: Those of :class:`Step`.
        processes: The processes.
        **options: Those of :class:`Step`.
    """

    def __init__(self, *args: Any, processes: Processes, **options: Any) -> None:
        super().__init__(*args, **options)
        self.processes = processes

    def __call__(self, batches: Sequence[Any]) -> dict[str, Tensor]:
        with self.processes.noise(), self.processes.statistics():
            return super().__call__(batches)

    def reduce(self, moves: Sequence[str]) -> None:
        players = self.game.players()
        gradients = [p.grad for name in moves for p in players[name].parameters() if p.grad is not None]
        self.processes.average(gradients)


class OwnRows(TorchFunctionMode):
    """Within the block, torch draws for all processes' rows, and returns those of this one.

    The first dimension of a draw is taken for that of the minibatch. Permutations and draws of single numbers
    are left as they are.

    Args:
        rank: The number of this process.
        size: How many there are.

    >>> torch.manual_seed(0)
    <torch._C.Generator object at ...>
    >>> whole = torch.randn(4, 2)
    >>> torch.manual_seed(0)
    <torch._C.Generator object at ...>
    >>> with OwnRows(rank=1, size=2):
    ...     own = torch.randn(2, 2)
    >>> torch.equal(own, whole[1::2])
    True
    """

    def __init__(self, rank: int, size: int) -> None:
        super().__init__()
        self.rank = rank
        self.size = size

    def __torch_function__(
        self, function: Callable, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        options = kwargs or {}
        draw = _DRAWS.get(function)
        if draw is None:
            return function(*args, **options)
        return draw(self, function, *args, **options)

    def own(self, draws: Tensor) -> Tensor:
        """The rows of this process."""
        return draws[self.rank :: self.size]

    def like(self, x: Tensor) -> Tensor:
        """Zeros of the shape of all processes' rows."""
        return x.new_zeros(len(x) * self.size, *x.shape[1:])


def _of_shape(rows: OwnRows, function: Callable, *size: Any, **options: Any) -> Tensor:
    """``torch.randn`` and ``torch.rand``."""
    shape = options.pop("size", size)
    if len(shape) == 1 and not isinstance(shape[0], int):
        shape = shape[0]
    if not len(shape):
        return function(shape, **options)
    return rows.own(function((shape[0] * rows.size, *shape[1:]), **options))


def _of_tensor(rows: OwnRows, function: Callable, x: Tensor, **options: Any) -> Tensor:
    """``torch.randn_like`` and ``torch.rand_like``."""
    if not x.dim():
        return function(x, **options)
    return rows.own(function(rows.like(x), **options))


def _in_place(rows: OwnRows, function: Callable, x: Tensor, *args: Any, **options: Any) -> Tensor:
    """``Tensor.normal_`` and the like."""
    if not x.dim():
        return function(x, *args, **options)
    with torch.no_grad():
        return x.copy_(rows.own(function(rows.like(x), *args, **options)))


def _normal(rows: OwnRows, function: Callable, mean: Any, std: Any = 1.0, *args: Any, **options: Any) -> Tensor:
    """``torch.normal``."""
    if not isinstance(mean, Tensor) or not isinstance(std, Tensor) or not mean.dim() or args or options:
        return function(mean, std, *args, **options)
    zeros = rows.like(mean)
    return mean + std * rows.own(function(zeros, torch.ones_like(zeros)))


def _dropout(rows: OwnRows, function: Callable, x: Tensor, *args: Any, **options: Any) -> Tensor:
    """Dropout, as a function and as an operation, of which only the factors are drawn."""
    ones = rows.like(x).add_(1)
    options.pop("inplace", None)
    return x * rows.own(function(ones, *args[:2], **options))


def _multinomial(
    rows: OwnRows, function: Callable, weights: Tensor, n: int, *args: Any, **options: Any
) -> Tensor:
    """Draws of components with replacement, of which the last dimension is that of the minibatch."""
    replaced = args[0] if args else options.get("replacement", False)
    if not replaced:
        return function(weights, n, *args, **options)
    drawn = function(weights, n * rows.size, *args, **options)
    return drawn[..., rows.rank :: rows.size]


_DRAWS: dict[Callable, Callable] = {
    torch.randn: _of_shape,
    torch.rand: _of_shape,
    torch.randn_like: _of_tensor,
    torch.rand_like: _of_tensor,
    torch.normal: _normal,
    Tensor.normal_: _in_place,
    Tensor.uniform_: _in_place,
    Tensor.exponential_: _in_place,
    torch.dropout: _dropout,
    functional.dropout: _dropout,
    torch.multinomial: _multinomial,
}
