"""The losses and gradients of a step as graphs of tensor operations, traced through Pyro's handlers.

An eager step spends much of its time in Python: handlers, distributions, autograd. A trace holds only the
operations, one graph for each turn. A compiler may fuse them; the optimizers stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node

from pyro_lrp.core.randomness import untouched_generators
from pyro_lrp.objectives import Turn
from pyro_lrp.trainer.layouts import like
from pyro_lrp.trainer.step import Step

__all__ = [
    "Compiler",
    "Program",
    "Results",
    "dry",
    "eager",
    "filled",
    "inductor",
    "tensors",
    "trace",
    "uncompiled",
]

_TURN = "turn"  # of a node: the turn that it belongs to

Function = Callable[..., Sequence[Tensor]]
Compiler = Callable[[GraphModule, list[Tensor]], Function]
"""Makes a function of a graph and of examples of its arguments; its results are a list."""


def uncompiled(graph: GraphModule, examples: list[Tensor]) -> Function:
    """A compiler that leaves a graph as it is."""
    return graph


def inductor(graph: GraphModule, examples: list[Tensor]) -> Function:
    """Torch's compiler; random numbers are those that eager operations would draw, and in their order.

    Raises:
        RuntimeError: With torch 2.6, whose compiler draws other numbers.
    """
    import torch._inductor  # here, because it takes seconds

    if torch.__version__ < "2.7":
        raise RuntimeError("torch 2.6 cannot compile a step, a later torch can")

    options = {"fallback_random": True, "reorder_for_locality": False}
    with _context():
        compiled: Any = torch._inductor.compile(graph, [*examples], options=options)
    return compiled


@contextmanager
def _context() -> Iterator[None]:
    """Within the block torch describes tensors in one mode.

    Without it there is a new one for each operation that is traced, which takes longer than all else. And a run
    that is resumed does not find its graphs in torch's cache, and compiles them anew.
    """
    from torch._guards import TracingContext, tracing
    from torch._subclasses import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    mode = FakeTensorMode(allow_fallback_kernels=True, allow_non_fake_inputs=True, shape_env=ShapeEnv())
    with tracing(TracingContext(mode)):
        yield


@dataclass(frozen=True)
class Results:
    """What a turn computes.

    Attributes:
        loss: The detached loss.
        terms: See :class:`~pyro_lrp.objectives.Losses`.
        gradients: Of each parameter that the turn moves; None where none arrives.
    """

    loss: Tensor
    terms: dict[str, Tensor]
    gradients: list[Tensor | None]

    def flat(self) -> list[Tensor]:
        """All tensors in order."""
        arrived = [gradient for gradient in self.gradients if gradient is not None]
        return [self.loss, *self.terms.values(), *arrived]

    def like(self, flat: Sequence[Tensor]) -> Results:
        """The same results with other tensors, in the order of :meth:`flat`."""
        loss, *rest = flat
        terms = dict(zip(self.terms, rest, strict=False))
        arrived = iter(rest[len(terms) :])
        gradients = [None if gradient is None else next(arrived) for gradient in self.gradients]
        return Results(loss, terms, gradients)


def eager(step: Step, batches: Sequence[Any]) -> Iterator[Results]:
    """The results of each turn, of which none moves a player."""
    memo: dict[str, Any] = {}
    for turn in step.turns:
        with step.fabric.autocast():
            losses = step.game(turn.name, batches[: turn.batches], memo)
        parameters = _parameters(step, turn)
        gradients = torch.autograd.grad(losses.loss, parameters, allow_unused=True)
        yield Results(losses.loss.detach(), losses.terms, [*gradients])


def dry(step: Step, compute: Callable[[], Any]) -> Any:
    """What a function computes; the buffers of the game and the generators are then as before."""
    buffers = [*step.game.buffers()]
    before = [buffer.clone() for buffer in buffers]
    try:
        with untouched_generators():
            return compute()
    finally:
        with torch.no_grad():
            for buffer, values in zip(buffers, before, strict=True):
                buffer.copy_(values)


@dataclass
class TracedTurn:
    """The graph of a turn, whose values have names.

    Attributes:
        graph: Maps the values of ``reads`` to those of ``writes``.
        reads: Parameters, buffers, tensors of the minibatches, and what earlier turns computed.
        writes: What later turns read, and results.
        results: The turn's own results, in the order of :meth:`Results.flat`.
        kind: Results of the traced call.
        function: The graph once it is compiled.
    """

    graph: GraphModule
    reads: list[str]
    writes: list[str]
    results: list[str]
    kind: Results
    function: Function | None = None


class Program:
    """A traced step.

    Args:
        step: The step.
        turns: The graph of each of its turns.
        constants: Parameters, buffers and other tensors that exist before a step, by name.
        inputs: The names of the tensors of the minibatches.
        compiler: Compiles each graph when it is first computed.
    """

    def __init__(
        self,
        step: Step,
        turns: Sequence[TracedTurn],
        constants: Mapping[str, Tensor],
        inputs: Sequence[str],
        compiler: Compiler,
    ) -> None:
        self.step = step
        self.turns = turns
        self.constants = constants
        self.inputs = inputs
        self.compiler = compiler

    def __call__(self, batches: Sequence[Any]) -> dict[str, Tensor]:
        """The device's half of the step, as :meth:`Step.__call__`."""
        terms: dict[str, Tensor] = {}
        for turn, results in zip(self.step.turns, self.computed(batches), strict=True):
            parameters = _parameters(self.step, turn)
            for parameter, gradient in zip(parameters, results.gradients, strict=True):
                parameter.grad = None
                if gradient is not None:
                    parameter.grad = like(parameter, gradient)
            self.step.move(turn)
            terms |= self.step.named(turn, results.loss, results.terms)
        return terms

    def computed(self, batches: Sequence[Any]) -> Iterator[Results]:
        """The results of each turn in order; moving its players is left to the caller."""
        values = dict(self.constants)
        values.update(zip(self.inputs, tensors(batches), strict=True))
        for traced in self.turns:
            arguments = [values[name] for name in traced.reads]
            if traced.function is None:
                traced.function = self.compiler(traced.graph, arguments)
            with torch.no_grad():
                outputs = traced.function(*arguments)
            values.update(zip(traced.writes, outputs, strict=True))
            yield traced.kind.like([values[name] for name in traced.results])


def trace(step: Step, batches: Sequence[Any], compiler: Compiler = uncompiled) -> Program:
    """Trace the losses and gradients of a step on some minibatches; the step is not taken.

    Shapes, Python numbers and control flow are those of this call.

    Args:
        step: The step, prepared.
        batches: One of each stream.
        compiler: For the graphs.

    Raises:
        RuntimeError: If the host reads a value.
    """
    from torch.fx.experimental.proxy_tensor import get_proxy_mode, make_fx  # here: they take a second

    kinds: list[Results] = []

    def flat(*values: Tensor) -> list[Tensor]:
        tracer = get_proxy_mode().tracer  # type: ignore[union-attr]
        outputs: list[Tensor] = []
        for number, results in enumerate(eager(step, filled(batches, values))):
            for node in tracer.graph.nodes:
                node.meta.setdefault(_TURN, number)
            kinds.append(results)
            outputs += results.flat()
        return outputs

    with _context():
        traced = dry(step, lambda: make_fx(flat)(*tensors(batches)))
    constants = _named_constants(traced)
    nodes = [*traced.graph.nodes]
    inputs = [node.name for node in nodes if node.op == "placeholder"]
    outputs = iter(nodes[-1].args[0])
    turns = []
    for number, kind in enumerate(kinds):
        results = [next(outputs) for _ in kind.flat()]
        turns.append(_part(traced, number, results, kind))
    return Program(step, turns, constants, inputs, compiler)


def _named_constants(traced: GraphModule) -> dict[str, Tensor]:
    """The tensors that a graph reads from its module, by the name of the one node that is left of each."""
    first: dict[int, Node] = {}
    constants = {}
    for node in [*traced.graph.find_nodes(op="get_attr")]:
        tensor = getattr(traced, str(node.target))
        one = first.setdefault(id(tensor), node)
        if one is not node:
            node.replace_all_uses_with(one)
            traced.graph.erase_node(node)
        constants[one.name] = tensor.detach()
    return constants


def _part(traced: GraphModule, number: int, results: Sequence[Node], kind: Results) -> TracedTurn:
    """The graph of one turn out of that of the step."""
    own = [n for n in traced.graph.nodes if n.op == "call_function" and n.meta[_TURN] == number]
    inside = set(own)
    outside = [argument for node in own for argument in node.all_input_nodes if argument not in inside]
    kept = [node for node in own if node in results or any(user not in inside for user in node.users)]

    graph = Graph()
    copies: dict[Node, Node] = {}
    for node in dict.fromkeys(outside):
        copies[node] = graph.placeholder(node.name)
    reads = [node.name for node in copies]
    for node in own:
        copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output([copies[node] for node in kept])
    names = [node.name for node in results]
    return TracedTurn(GraphModule(nn.Module(), graph), reads, [node.name for node in kept], names, kind)


def _parameters(step: Step, turn: Turn) -> list[nn.Parameter]:
    """The parameters that a turn moves, in the order of its optimizers."""
    groups = [group for player in turn.moves for group in step.optimizers[player].param_groups]
    return [parameter for group in groups for parameter in group["params"]]


def tensors(batches: Sequence[Any]) -> list[Tensor]:
    """The tensors of minibatches, in order."""
    found: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    for batch in batches:
        batch.map(keep)
    return found


def filled(batches: Sequence[Any], values: Sequence[Tensor]) -> list[Any]:
    """The minibatches with other tensors, in the order of :func:`tensors`."""
    left = iter(values)
    return [batch.map(lambda tensor: next(left)) for batch in batches]
