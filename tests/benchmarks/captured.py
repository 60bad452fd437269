"""A prototype: the device's half of a step, recorded once by a CUDA graph and replayed.

The host's half (:meth:`Step.prepare`) stays outside the graph: seed, rates and scheduled weights are written
before each replay, and the minibatch is copied into the tensors that the graph reads. ``use()`` makes every
trainer of the process take its steps so.
"""

import dataclasses
from typing import Any

import torch

from pyro_lrp.trainer import Trainer
from pyro_lrp.trainer.step import Step

WARMUP = 3  # eager steps before recording, in which optimizers and libraries allocate what they keep


class CapturedStep(Step):
    """A step whose turns are replayed from a CUDA graph, after a few eager ones."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.graph: torch.cuda.CUDAGraph | None = None
        self.taken = 0
        for name in self.moves:
            for group in self.optimizers[name].param_groups:
                group["capturable"] = True

    def __call__(self, batches):
        if self.taken < WARMUP:
            self.taken += 1
            return self._beside(batches)
        if self.graph is None:
            self._record(batches)
        torch._foreach_copy_(self.read, tensors_of(list(batches)))
        self.graph.replay()
        return dict(zip(self.names, self.row.clone().unbind(), strict=True))

    def _beside(self, batches):
        """An eager step on a stream of its own, as recording asks for."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            terms = super().__call__(batches)
        torch.cuda.current_stream().wait_stream(stream)
        return terms

    def _record(self, batches):
        inputs = copied(list(batches))
        self.read = tensors_of(inputs)
        for name in self.moves:
            self.optimizers[name].zero_grad(set_to_none=True)  # so that gradients live in the graph's memory
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            terms = super().__call__(inputs)
            self.names = list(terms)
            self.row = torch.stack([term.float() for term in terms.values()])


class CapturedTrainer(Trainer):
    """A trainer of captured steps."""

    def step_of(self, span):
        averages = self.prior_only.averages() if self.prior_only else {}
        return CapturedStep(
            self.game, span.turns, self.optimizers, self.fabric, seed=self.seed, schedule=self.schedule,
            schedules=self.schedules, averages=averages,
        )  # fmt: skip


def use():
    """Let every trainer of this process take captured steps."""
    Trainer.step_of = CapturedTrainer.step_of


def tensors_of(value):
    """The tensors of a minibatch, in order."""
    if isinstance(value, torch.Tensor):
        return [value]
    return [tensor for part in _parts(value).values() for tensor in tensors_of(part)]


def copied(value):
    """A minibatch of new tensors."""
    if isinstance(value, torch.Tensor):
        return value.clone()
    parts = {name: copied(part) for name, part in _parts(value).items()}
    if dataclasses.is_dataclass(value):
        return dataclasses.replace(value, **parts)
    if hasattr(value, "_replace"):
        return value._replace(**parts)
    if isinstance(value, list):
        return [*parts.values()]
    return value


def _parts(value):
    if dataclasses.is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if hasattr(value, "_asdict"):
        return value._asdict()
    if isinstance(value, list):
        return {str(number): part for number, part in enumerate(value)}
    return {}
