"""Steps that are recorded once per phase and replayed, and the choice between them and eager ones.

A GPU computes most kernels of a step faster than the host launches them. A CUDA graph launches all of them at
once. It repeats the same kernels on the same memory, so whatever changes from step to step is written into that
memory before: by :meth:`Step.prepare`, and by copying the minibatch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor

from pyro_lrp.core.errors import UserError
from pyro_lrp.trainer.compiling import CompiledStep, Outcome
from pyro_lrp.trainer.obstacles import watched
from pyro_lrp.trainer.processes import Processes, SharedStep
from pyro_lrp.trainer.stack import StackedStep
from pyro_lrp.trainer.step import Step
from pyro_lrp.trainer.tracing import Compiler, inductor, tensors

__all__ = ["CapturedStep", "CudaGraph", "Graph", "StepFactory", "choose_compile", "make_factory"]

_KINDS = ("auto", "off", "graph", "full")
_NEEDS = {"graph": ("cuda",), "full": ("cuda", "cpu")}
_WARM_UP = 3  # eager steps before recording, in which optimizers and libraries allocate what they keep


def choose_compile(compile: str, device: torch.device, processes: int = 1) -> str:
    """``"off"``, ``"graph"`` or ``"full"``, whichever a choice stands for on a device.

    Args:
        compile: What was asked for: one of these, or ``"auto"``, which is graph on CUDA, else off.
        device: The device.
        processes: How many train together; steps of several are neither captured nor compiled.

    Raises:
        UserError: If it is unknown, or needs another device.

    >>> choose_compile("auto", torch.device("cpu"))
    'off'
    """
    if compile not in _KINDS:
        raise UserError(f"compile must be auto, off, graph or full, got {compile!r}")
    if processes > 1:
        if compile in ("graph", "full"):
            raise UserError(
                f"compile={compile} is for one process: use compile=auto or off with devices= or nodes="
            )
        return "off"
    if compile == "auto":
        return "graph" if device.type == "cuda" else "off"
    devices = _NEEDS.get(compile, (device.type,))
    if device.type not in devices:
        needed = {"graph": "a CUDA device", "full": "a CUDA device or a CPU"}[compile]
        raise UserError(f"compile={compile} needs {needed}, and this is {device.type}: use compile=auto or off")
    return compile


def make_factory(
    compile: str, log: Callable[[str], None], device: torch.device, processes: Processes
) -> StepFactory:
    """What makes the steps of a training.

    Args:
        compile: See :func:`choose_compile`.
        log: Receives lines of text.
        device: The device.
        processes: Those that train together.
    """
    graph = CudaGraph if device.type == "cuda" else None
    chosen = choose_compile(compile, device, processes.size)
    return StepFactory(chosen, log, graph, processes)


class Graph(Protocol):
    """Records the kernels of one step."""

    def aside(self) -> AbstractContextManager[None]:
        """The block of an eager step before recording."""

    def record(self, body: Callable[[], None], generators: Sequence[torch.Generator] = ()) -> None:
        """Record what ``body`` computes, and compute nothing.

        Args:
            body: Computes a step.
            generators: Those that it draws from besides the device's default one.
        """

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

    def record(self, body: Callable[[], None], generators: Sequence[torch.Generator] = ()) -> None:
        for generator in generators:
            self._graph.register_generator_state(generator)
        with torch.cuda.graph(self._graph):
            body()

    def replay(self) -> None:
        self._graph.replay()


class CapturedStep(CompiledStep):
    """A step whose device's half is recorded after three calls, and replayed from then on.

    What no graph can hold is looked for in the last of these. If there is any, all calls are eager. Between
    calls, tensors may be changed in place; other changes of the game have no effect once it is recorded.

    Args:
        *args: Those of :class:`~pyro_lrp.trainer.compiling.CompiledStep`.
        graph: Records it.
        **options: Those of :class:`~pyro_lrp.trainer.compiling.CompiledStep`; with a compiler the step that is
            recorded is the compiled one.
    """

    def __init__(self, *args: Any, graph: Graph, **options: Any) -> None:
        super().__init__(*args, **options)
        self.graph: Graph | None = graph
        self._taken = 0
        self._inputs: list[Tensor] = []  # what the graph reads
        self._names: list[str] = []
        self._row = torch.empty(0)

    def __call__(self, batches: Sequence[Any]) -> dict[str, Tensor]:
        """The device's half.

        Args:
            batches: See :meth:`CompiledStep.__call__`.

        Returns:
            The terms of all turns, detached scalars on the device. They are float32 once the step is recorded,
            and stay as they are when it is replayed.

        Raises:
            UserError: If recording fails.
        """
        self.compile(batches)
        if self.graph is None:
            return self.compute(batches)
        if self._taken < _WARM_UP:
            self._taken += 1
            return self._warm_up(self.graph, batches)
        if not self._inputs:
            self._record(self.graph, batches)
        torch._foreach_copy_(self._inputs, tensors(batches))
        self.graph.replay()
        terms = self._row.clone().unbind()
        return dict(zip(self._names, terms, strict=True))

    def meet(self, obstacle: str) -> None:
        self.compiler = None
        self.graph = None
        self.outcome.lose(obstacle, "compiled", "captured")

    def _warm_up(self, graph: Graph, batches: Sequence[Any]) -> dict[str, Tensor]:
        """A call before recording; the last one is watched, unless it was when the step was compiled."""
        if self._taken < _WARM_UP or self.program is not None:
            with graph.aside():
                return self.compute(batches)
        with graph.aside(), watched(self.fabric.device) as watch:
            terms = self.compute(batches)
        if watch.found:
            self.graph = None
            self.outcome.lose(watch.found, "captured")
        return terms

    def _record(self, graph: Graph, batches: Sequence[Any]) -> None:
        inputs = [batch.map(torch.clone) for batch in batches]
        self._inputs = tensors(inputs)
        # so that gradients are allocated in the graph's memory
        self.game.zero_grad(set_to_none=True)
        try:
            with _capturable(self.optimizers.values()):
                graph.record(lambda: self._compute(inputs), self.generators)
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise UserError(f"a step cannot be recorded as a CUDA graph, use compile=off: {reason}") from error

    def _compute(self, inputs: Sequence[Any]) -> None:
        terms = self.compute(inputs)
        self._names = list(terms)
        values = [term.float() for term in terms.values()]
        self._row = torch.stack(values)


class CapturedStack(CapturedStep, StackedStep):
    """The steps of several models as one computation, which is recorded after three calls and then replayed.

    Args:
        *args: Those of :class:`~pyro_lrp.trainer.stack.StackedStep`.
        **options: Those of :class:`CapturedStep`.
    """


class StepFactory:
    """Makes the step of each phase.

    Args:
        compile: ``"off"``, ``"graph"`` or ``"full"``.
        log: Receives a sentence for each phase that cannot be what was asked for.
        graph: Makes the graph of a phase; None if ``"full"`` is to compile alone, as on a CPU.
        processes: Those that share each step, or None.
        compiler: Compiles under ``"full"``.
    """

    def __init__(
        self,
        compile: str,
        log: Callable[[str], None],
        graph: Callable[[], Graph] | None = CudaGraph,
        processes: Processes | None = None,
        compiler: Compiler = inductor,
    ) -> None:
        self.compile = compile
        self.processes = processes
        self.log = log
        self.graph = graph
        self.compiler = compiler
        self._outcomes: list[Outcome] = []

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
        outcome = Outcome(phase, self.log)
        self._outcomes.append(outcome)
        options["outcome"] = outcome
        if self.compile == "full":
            options["compiler"] = self.compiler
        if self.graph is None:
            return CompiledStep(*args, **options)
        return CapturedStep(*args, graph=self.graph(), **options)

    @property
    def announcement(self) -> str:
        """What a log line about the steps ends with."""
        return "" if self.compile == "off" else f", compile={self.compile}"

    def stacked(self, phase: str, steps: Sequence[Step]) -> StackedStep:
        """The steps of several models as one computation, captured if single steps are.

        Args:
            phase: Its name.
            steps: The step of each model.
        """
        if self.compile == "off" or self.graph is None:
            return StackedStep(steps)
        return CapturedStack(steps, graph=self.graph(), outcome=Outcome(phase, self.log))

    def used(self) -> dict[str, Any]:
        """For the summary: how steps were taken, seconds of compiling, and reasons against it, by phase."""
        used: dict[str, Any] = {"compile": self.compile}
        for kind in ("compiled", "captured"):
            reasons = {o.phase: o.reasons[kind] for o in self._outcomes if kind in o.reasons}
            if reasons:
                used[f"not_{kind}"] = reasons
        seconds = {o.phase: round(o.seconds, 1) for o in self._outcomes if o.seconds is not None}
        if seconds:
            used["compile_seconds"] = seconds
        return used


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
