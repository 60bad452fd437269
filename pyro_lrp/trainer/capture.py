"""Steps that are recorded once per phase and replayed, and the choice between them and eager ones.

A GPU computes most kernels of a step faster than the host launches them. A CUDA graph launches all of them at
once. It repeats the same kernels on the same memory, so whatever changes from step to step is written into that
memory before: by :meth:`Step.prepare`, and by copying the minibatch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from pyro_lrp.core.errors import UserError
from pyro_lrp.trainer.obstacles import watched
from pyro_lrp.trainer.processes import Processes, SharedStep
from pyro_lrp.trainer.step import Step

__all__ = ["CapturedStep", "CudaGraph", "Graph", "StepFactory", "choose_compile"]

_KINDS = ("auto", "off", "graph")
_WARM_UP = 3  # eager steps before recording, in which optimizers and libraries allocate what they keep


def choose_compile(compile: str, device: torch.device, processes: int = 1) -> str:
    """``"off"`` or ``"graph"``, whichever ``auto``, ``off`` or ``graph`` stands for on a device.

    Args:
        compile: What was asked for.
        device: The device.
        processes: How many train together; steps of several are not captured.

    Raises:
        UserError: If it is unknown, or needs another device.

    >>> choose_compile("auto", torch.device("cpu"))
    'off'
    """
    if compile not in _KINDS:
        raise UserError(f"compile must be auto, off or graph, got {compile!r}")
    on_cuda = device.type == "cuda"
    if processes > 1:
        if compile == "graph":
            raise UserError("compile=graph is for one process: use compile=auto or off with devices= or nodes=")
        return "off"
    if compile == "auto":
        return "graph" if on_cuda else "off"
    if compile == "graph" and not on_cuda:
        raise UserError(
            f"compile=graph needs a CUDA device, and this is {device.type}: use compile=auto or off"
        )
    return compile


class Graph(Protocol):
    """Records the kernels of one step."""

    def aside(self) -> AbstractContextManager[None]:
        """The block of an eager step before recording."""

    def record(self, body: Callable[[], None]) -> None:
        """Record what ``body`` computes, and compute nothing."""

    def replay(self) -> None:
        """Compute it once, on the memory it was recorded on."""


class CudaGraph:
    """A :class:`Graph` on the current CUDA device; its kernels draw from the device's default generator."""

    def __init__(self) -> None:
        self._graph = torch.cuda.CUDAGraph()
        self._stream = torch.cuda.Stream()

    @contextmanager
    def aside(self) -> Iterator[None]:
        """On a stream of its own, as recording asks of the steps before it."""
        current = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            yield
        current.wait_stream(self._stream)

    def record(self, body: Callable[[], None]) -> None:
        with torch.cuda.graph(self._graph):
            body()

    def replay(self) -> None:
        self._graph.replay()


class CapturedStep(Step):
    """A step whose device's half is recorded after three eager calls, and replayed from then on.

    What no graph can hold is looked for in the last eager call. If there is any, all calls are eager. Between
    calls, tensors may be changed in place; other changes of the game have no effect once it is recorded.

    Args:
        *args: Those of :class:`Step`.
        graph: Records it.
        give_up: Called once with the reason if the step cannot be recorded.
        **options: Those of :class:`Step`.
    """

    def __init__(
        self, *args: Any, graph: Graph, give_up: Callable[[str], None] = lambda reason: None, **options: Any
    ) -> None:
        super().__init__(*args, **options)
        self.graph: Graph | None = graph
        self.give_up = give_up
        self._taken = 0
        self._inputs: list[Tensor] = []  # what the graph reads
        self._names: list[str] = []
        self._row = torch.empty(0)

    def __call__(self, batches: Sequence[Any]) -> dict[str, Tensor]:
        """The device's half.

        Args:
            batches: See :meth:`Step.__call__`; each has a method ``map``, as :class:`~pyro_lrp.data.Batch`.

        Returns:
            The terms of all turns, detached scalars on the device. They are float32 once the step is recorded,
            and stay as they are when it is replayed.

        Raises:
            UserError: If recording fails.
        """
        if self.graph is None:
            return super().__call__(batches)
        if self._taken < _WARM_UP:
            self._taken += 1
            return self._warm_up(self.graph, batches)
        if not self._inputs:
            self._record(self.graph, batches)
        torch._foreach_copy_(self._inputs, _tensors(batches))
        self.graph.replay()
        terms = self._row.clone().unbind()
        return dict(zip(self._names, terms, strict=True))

    def _warm_up(self, graph: Graph, batches: Sequence[Any]) -> dict[str, Tensor]:
        """An eager call; the last one is watched."""
        if self._taken < _WARM_UP:
            with graph.aside():
                return super().__call__(batches)
        with graph.aside(), watched(self.fabric.device) as watch:
            terms = super().__call__(batches)
        if watch.found:
            self.graph = None
            self.give_up(watch.found)
        return terms

    def _record(self, graph: Graph, batches: Sequence[Any]) -> None:
        inputs = [batch.map(torch.clone) for batch in batches]
        self._inputs = _tensors(inputs)
        # so that gradients are allocated in the graph's memory
        self.game.zero_grad(set_to_none=True)
        try:
            with _capturable(self.optimizers.values()):
                graph.record(lambda: self._compute(inputs))
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise UserError(f"a step cannot be recorded as a CUDA graph, use compile=off: {reason}") from error

    def _compute(self, inputs: Sequence[Any]) -> None:
        terms = super().__call__(inputs)
        self._names = list(terms)
        values = [term.float() for term in terms.values()]
        self._row = torch.stack(values)


class StepFactory:
    """Makes the step of each phase.

    Args:
        compile: ``"off"`` or ``"graph"``.
        log: Receives a sentence for each phase that is to be captured and cannot.
        graph: Makes the graph of a phase.
        processes: Those that share each step, or None.
    """

    def __init__(
        self,
        compile: str,
        log: Callable[[str], None],
        graph: Callable[[], Graph] = CudaGraph,
        processes: Processes | None = None,
    ) -> None:
        self.compile = compile
        self.processes = processes
        self.log = log
        self.graph = graph
        self._not_captured: dict[str, str] = {}

    def __call__(self, phase: str, *args: Any, **options: Any) -> Step:
        """The step of a phase.

        Args:
            phase: Its name.
            *args: Those of :class:`Step`.
            **options: Those of :class:`Step`.
        """
        if self.processes is not None and self.processes.size > 1:
            return SharedStep(*args, processes=self.processes, **options)
        if self.compile == "off":
            return Step(*args, **options)
        give_up = partial(self._give_up, phase)
        return CapturedStep(*args, graph=self.graph(), give_up=give_up, **options)

    def used(self) -> dict[str, Any]:
        """For the summary: how steps were taken, and the phases without a graph with the reason of each."""
        used: dict[str, Any] = {"compile": self.compile}
        if self._not_captured:
            used["not_captured"] = self._not_captured
        return used

    def _give_up(self, phase: str, reason: str) -> None:
        self._not_captured[phase] = reason
        self.log(f"{phase} runs without a CUDA graph: {reason}")


@contextmanager
def _capturable(optimizers: Iterable[torch.optim.Optimizer]) -> Iterator[None]:
    """Within the block the optimizers may be recorded; outside of it torch would warn of eager steps."""
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    before = [group["capturable"] for group in groups]
    for group in groups:
        group["capturable"] = True
    try:
        yield
    finally:
        for group, value in zip(groups, before, strict=True):
            group["capturable"] = value


def _tensors(batches: Sequence[Any]) -> list[Tensor]:
    """The tensors of minibatches, in order."""
    tensors: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        tensors.append(tensor)
        return tensor

    for batch in batches:
        batch.map(keep)
    return tensors
