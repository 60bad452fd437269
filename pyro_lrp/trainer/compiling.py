"""Steps whose losses and gradients are traced and compiled, once they were found equal to eager ones."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pyro_lrp.trainer.obstacles import watched
from pyro_lrp.trainer.step import Step
from pyro_lrp.trainer.tracing import Compiler, Program, Results, dry, eager, trace

__all__ = ["CompiledStep", "Outcome", "apart"]

_WITHOUT = {"compiled": "uncompiled", "captured": "without a CUDA graph"}
_REASON = 300  # letters of a compiler's message that are kept


@dataclass
class Outcome:
    """How the steps of a phase are taken in the end.

    Attributes:
        phase: Its name.
        log: Receives a sentence where something is lost, and one when the step is compiled.
        reasons: Why the step is not ``"compiled"`` or ``"captured"``, of those that were tried.
        seconds: That tracing and compiling took; None if nothing was compiled.
    """

    phase: str
    log: Callable[[str], None]
    reasons: dict[str, str] = field(default_factory=dict)
    seconds: float | None = None

    def lose(self, reason: str, *kinds: str) -> None:
        """Note why the step is not compiled, not captured, or neither."""
        for kind in kinds:
            self.reasons[kind] = reason
        words = " and ".join(_WITHOUT[kind] for kind in kinds)
        self.log(f"{self.phase} runs {words}: {reason}")


class CompiledStep(Step):
    """A step whose losses and gradients are computed from compiled graphs, one for each turn.

    They are traced at the first call, and compared with eager ones on the minibatches of that call. What the
    host reads cannot be traced; then, and where a compiler fails or its results differ, the step stays eager.
    After the first call tensors may be changed in place; other changes of the game have no effect.

    Args:
        *args: Those of :class:`~pyro_lrp.trainer.step.Step`.
        outcome: Learns what became of it.
        compiler: Compiles it; None leaves it eager.
        **options: Those of :class:`~pyro_lrp.trainer.step.Step`.
    """

    def __init__(self, *args: Any, outcome: Outcome, compiler: Compiler | None = None, **options: Any) -> None:
        super().__init__(*args, **options)
        self.outcome = outcome
        self.compiler = compiler
        self.program: Program | None = None

    def __call__(self, batches: Sequence[Any]) -> dict[str, Tensor]:
        """The device's half.

        Args:
            batches: See :meth:`Step.__call__`; each has a method ``map``, as :class:`~pyro_lrp.data.Batch`.
        """
        self.compile(batches)
        return self.compute(batches)

    def compute(self, batches: Sequence[Any]) -> dict[str, Tensor]:
        """Take the step, from its graphs if there are any."""
        if self.program is not None:
            return self.program(batches)
        return super().__call__(batches)

    def compile(self, batches: Sequence[Any]) -> None:
        """Trace and compile the step, if that is to be done and was not."""
        if self.compiler is None or self.program is not None:
            return
        begun = time.perf_counter()
        expected, obstacle = dry(self, lambda: self._watched(batches))
        if obstacle:
            self.meet(obstacle)
            return
        try:
            program = trace(self, batches, self.compiler)
            found = dry(self, lambda: [*program.computed(batches), *self._buffers()])
        except Exception as error:  # whatever a compiler raises
            message = " ".join(str(error).split())[:_REASON]
            self._fail(f"{type(error).__name__}: {message}")
            return
        tolerance = self._tolerance()
        difference = apart(expected, found, tolerance)
        if not difference < tolerance:
            self._fail(f"compiled gradients differ from eager ones by {difference:.1e}")
            return
        self.program = program
        self.outcome.seconds = time.perf_counter() - begun
        self.outcome.log(f"{self.outcome.phase}: compiled in {self.outcome.seconds:.0f} s")

    def meet(self, obstacle: str) -> None:
        """Give up what no graph can hold."""
        self._fail(obstacle)

    def _fail(self, reason: str) -> None:
        """Stay uncompiled."""
        self.compiler = None
        self.outcome.lose(reason, "compiled")

    def _watched(self, batches: Sequence[Any]) -> tuple[list[Any], str | None]:
        """The eager results, the buffers after them, and what no graph can hold."""
        with watched(self.fabric.device) as watch:
            results = [*eager(self, batches)]
        return [*results, *self._buffers()], watch.found

    def _buffers(self) -> list[Tensor]:
        """Copies of the buffers, such as the statistics of batch norms."""
        return [buffer.clone() for buffer in self.game.buffers()]

    def _tolerance(self) -> float:
        """The largest relative difference that rounding explains."""
        device = self.fabric.device.type
        with self.fabric.autocast():
            half = torch.is_autocast_enabled(device)
        if half or device == "cuda":  # where convolutions use TF32
            return 0.1
        return 1e-3


def apart(expected: Sequence[Results | Tensor], found: Sequence[Results | Tensor], share: float) -> float:
    """The largest relative difference of losses, gradients and buffers.

    Args:
        expected: Results of turns, and tensors.
        found: The same.
        share: A gradient is compared in relation to its norm, or to this share of the norm of all gradients of
            its turn if that is larger: the gradient of a bias before a batch norm is pure rounding.

    >>> results = Results(torch.tensor(1.0), {}, [torch.ones(3), torch.zeros(2)])
    >>> other = Results(torch.tensor(1.0), {}, [torch.ones(3), torch.full((2,), 1e-4)])
    >>> round(apart([results], [other], 1e-3), 3)
    0.082
    """
    largest = 0.0
    for one, other in zip(expected, found, strict=True):
        if isinstance(one, Results) and isinstance(other, Results):
            largest = max(largest, _relative(one.loss, other.loss, 1.0), _of_gradients(one, other, share))
        elif isinstance(one, Tensor) and isinstance(other, Tensor):
            largest = max(largest, _relative(one, other, 1.0))
    return largest


def _of_gradients(expected: Results, found: Results, share: float) -> float:
    arrived = [gradient for gradient in expected.gradients if gradient is not None]
    others = [gradient for gradient in found.gradients if gradient is not None]
    norms = [gradient.double().norm() for gradient in arrived]
    floor = 0.0
    if norms:
        floor = share * torch.stack(norms).norm().item()
    differences = [_relative(one, other, floor) for one, other in zip(arrived, others, strict=True)]
    return max(differences, default=0.0)


def _relative(expected: Tensor, found: Tensor, least: float) -> float:
    """The norm of a difference, in relation to that of the expected tensor or to ``least``."""
    difference = (expected.double() - found.double()).norm().item()
    scale = max(expected.double().norm().item(), least)
    if difference == 0.0:
        return 0.0
    return difference / scale
