"""The steps of several models of one shape as one computation.

The parameters of the models are slices of stacked tensors, and the loss of one model is mapped over them, so
that each layer of all models is one batched operation. Whatever looks at one model, such as its optimizer or a
checkpoint, sees its slices.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from pyro_lrp.data import Batches
from pyro_lrp.data.batches import Prefetched
from pyro_lrp.models import Codes
from pyro_lrp.objectives import Losses, Turn
from pyro_lrp.schedules import Progress
from pyro_lrp.trainer.stacked_adam import StackedAdam
from pyro_lrp.trainer.step import Step
from pyro_lrp.trainer.tracing import filled, tensors

__all__ = ["MemberNoise", "Stack", "StackedBatches", "StackedStep"]


class Stack:
    """Modules of one shape, whose parameters and buffers become slices of stacked tensors.

    Args:
        modules: The modules; their parameters stay the same objects.

    Attributes:
        parameters: By name, each of shape ``(K, *shape)`` for ``K`` modules.
        buffers: Likewise.

    Raises:
        RuntimeError: If shapes differ.

    >>> modules = [nn.Linear(2, 3), nn.Linear(2, 3)]
    >>> stack = Stack(modules)
    >>> _ = modules[1].bias.data.fill_(7.0)
    >>> stack.parameters["bias"][1].tolist()
    [7.0, 7.0, 7.0]
    """

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        self.parameters: dict[str, Tensor] = {}
        self.buffers: dict[str, Tensor] = {}
        self._slices: dict[str, list[nn.Parameter]] = {}
        first = modules[0]
        for name, parameter in first.named_parameters():
            slices = [module.get_parameter(name) for module in modules]
            whole = _stacked(slices)
            self.parameters[name] = whole.requires_grad_(parameter.requires_grad)
            self._slices[name] = slices
        for name, _ in first.named_buffers():
            self.buffers[name] = _stacked([module.get_buffer(name) for module in modules])

    def by_parameter(self) -> dict[int, Tensor]:
        """The stacked parameters by the ``id`` of the first module's."""
        return {id(self._slices[name][0]): whole for name, whole in self.parameters.items()}

    def clear(self) -> None:
        """Forget all gradients."""
        for whole in self.parameters.values():
            whole.grad = None

    def share_gradients(self) -> None:
        """Give each parameter of each module its slice of the gradients."""
        for name, whole in self.parameters.items():
            gradients: Sequence[Tensor | None] = [None] * len(self._slices[name])
            if whole.grad is not None:
                gradients = whole.grad.unbind()
            for parameter, gradient in zip(self._slices[name], gradients, strict=True):
                parameter.grad = gradient


def _stacked(slices: Sequence[Tensor]) -> Tensor:
    """One tensor of all, of which each becomes a slice."""
    whole = torch.stack([tensor.detach() for tensor in slices])
    for tensor, row in zip(slices, whole.unbind(), strict=True):
        tensor.data = row
    return whole


class StackedStep(Step):
    """The step of one phase of several models.

    Args:
        steps: The step of each model, with the same turns.

    Raises:
        RuntimeError: If the models' shapes differ.
    """

    def __init__(self, steps: Sequence[Step]) -> None:
        first = steps[0]
        self.steps = list(steps)
        self.stack = Stack([step.game for step in steps])
        self.joined = self._joined()
        optimizers = {player: joined.adam for player, joined in self.joined.items()}
        for number, step in enumerate(steps):
            for player in first.optimizers.keys() - self.joined.keys():
                optimizers[f"{number}/{player}"] = step.optimizers[player]
        super().__init__(first.game, first.turns, optimizers, first.fabric)
        device = self.fabric.device
        self.generators = [torch.Generator(device) for _ in steps]
        self.numbers = torch.arange(len(steps), dtype=torch.float32, device=device)

    def _joined(self) -> dict[str, StackedAdam]:
        """One optimizer for each player whose optimizers do the same in all models."""
        first = self.steps[0]
        wholes = self.stack.by_parameter()
        schedules = (first.schedule, first.schedules)
        if any((step.schedule, step.schedules) != schedules for step in self.steps):
            return {}
        joined = {}
        for player in first.moves:
            own = [step.optimizers[player] for step in self.steps]
            if StackedAdam.suits(own, wholes):
                joined[player] = StackedAdam(own, wholes)
        return joined

    def release(self) -> None:
        """Let the optimizer of each model go on by itself; no further step is taken here."""
        for joined in self.joined.values():
            joined.release()

    def prepare_each(self, positions: Sequence[tuple[int, Progress]]) -> None:
        """The host's half.

        Args:
            positions: The number of the step of each model, and where it stands.
        """
        for step, generator, (number, progress) in zip(self.steps, self.generators, positions, strict=True):
            step.advance(progress)
            generator.manual_seed(step.noise_seed(number))

    def __call__(self, batches: Sequence[Any]) -> dict[str, Tensor]:
        """The device's half.

        Args:
            batches: Of each stream, the minibatches of all models: tensors of shape ``(K, B, ...)``.

        Returns:
            The terms of all turns, each of shape ``(K,)``.
        """
        return super().__call__(batches)

    def _descend(self, turn: Turn, batches: Sequence[Any], memo: dict[str, Any]) -> Losses:
        """Compute the losses of one turn, and move its players of all models."""
        with self.fabric.autocast():
            losses = self.losses(turn, batches, memo)
        self.stack.clear()
        self.fabric.backward(losses.loss.sum())
        self.move(turn)
        return losses

    def move(self, turn: Turn) -> None:
        """Move the players of a turn, of all models, along their gradients."""
        apart = [player for player in turn.moves if player not in self.joined]
        if apart:
            self.stack.share_gradients()
        for player in turn.moves:
            if player in self.joined:
                self.joined[player].step()
            else:
                for step in self.steps:
                    step.optimizers[player].step()
        for step in self.steps:
            step.average(turn.moves)

    def losses(self, turn: Turn, batches: Sequence[Any], memo: dict[str, Any]) -> Losses:
        """The losses of one turn and their terms, each of shape ``(K,)``."""

        def one(
            parameters: Any, buffers: Any, inputs: list[Tensor], known: dict[str, Tensor], number: Tensor
        ) -> Any:
            own = filled(batches, inputs)
            known = dict(known)
            with MemberNoise(number, self.generators):
                losses = functional_call(self.game, (parameters, buffers), (turn.name, own, known))
            return losses.loss, losses.terms, known

        mapped = vmap(one, randomness="error")
        stack = self.stack
        loss, terms, known = mapped(stack.parameters, stack.buffers, tensors(batches), memo, self.numbers)
        memo.update(known)
        return Losses(loss, terms)


class MemberNoise(TorchFunctionMode):
    """Within the block, one of several models that are computed as one draws from its own generator.

    What it draws is what it would draw alone from the default generator with the same seed. Draws that take no
    generator are left as they are; ``vmap`` refuses them.

    Args:
        number: The number of the model, as ``vmap`` maps it.
        generators: Those of all models.
    """

    def __init__(self, number: Tensor, generators: Sequence[torch.Generator]) -> None:
        super().__init__()
        self.number = number
        self.generators = generators

    def __torch_function__(
        self, function: Callable, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        options = dict(kwargs or {})
        if function in (torch.dropout, functional.dropout):
            return self._dropout(*args, **options)
        draw = _draw_of(function, args, options)
        if draw is None:
            return function(*args, **options)
        return _Draw.apply(self.number, self.generators, draw)

    def _dropout(self, x: Tensor, *args: Any, **options: Any) -> Tensor:
        """Dropout, as a function and as an operation, of which only the factors are drawn."""
        given = dict(zip(("p", "training"), args, strict=False))
        given = {"p": 0.5, "training": True, **given, **options}
        if not given["training"] or given["p"] == 0:
            return x
        kept = 1 - given["p"]
        shape = x.shape
        kind: dict[str, Any] = {"dtype": x.dtype, "device": x.device}

        def factors(generator: torch.Generator) -> Tensor:
            return torch.empty(shape, **kind).bernoulli_(kept, generator=generator).div_(kept)

        return x * _Draw.apply(self.number, self.generators, factors)


Drawing = Callable[[torch.Generator], Tensor]


def _draw_of(function: Callable, args: tuple[Any, ...], options: dict[str, Any]) -> Drawing | None:
    """What a call draws, as a function of the generator; None if it draws nothing that is known here."""
    if function in (torch.randn, torch.rand, torch.randint):
        return lambda generator: function(*args, generator=generator, **options)
    if function in _LIKE:
        like = args[0]
        shape = like.shape
        options.setdefault("dtype", like.dtype)
        options.setdefault("device", like.device)
        return lambda generator: _LIKE[function](shape, generator=generator, **options)
    if function in _IN_PLACE:
        like = args[0]
        shape = like.shape
        kind = {"dtype": like.dtype, "device": like.device}
        return lambda generator: function(torch.empty(shape, **kind), *args[1:], generator=generator, **options)
    return None


_LIKE = {torch.randn_like: torch.randn, torch.rand_like: torch.rand}
_IN_PLACE = (Tensor.normal_, Tensor.uniform_, Tensor.exponential_)


class _Draw(torch.autograd.Function):
    """A draw for each model from its own generator, stacked where ``vmap`` maps over the models."""

    @staticmethod
    def forward(number: Tensor, generators: Sequence[torch.Generator], draw: Drawing) -> Tensor:
        return draw(generators[int(number)])

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        ctx.mark_non_differentiable(output)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, None, None]:
        return None, None, None

    @staticmethod
    def vmap(
        info: Any, in_dims: Any, number: Tensor, generators: Sequence[torch.Generator], draw: Drawing
    ) -> tuple[Tensor, int]:
        draws = [draw(generator) for generator in generators]
        return torch.stack(draws), 0


class StackedBatches:
    """Minibatches of several models, each from its own order of rows.

    Args:
        members: The minibatches of each model.
    """

    def __init__(self, members: Sequence[Batches]) -> None:
        self.members = list(members)
        self.starts: list[int] | None = None  # of each model's rows in one source of all
        first = self.members[0]
        self.source = first.source
        self.fetch = first.fetch
        if all(_same_images(first, other) for other in self.members):
            self.starts = [0] * len(self.members)
        elif all(isinstance(member.source, Codes) for member in self.members):
            self.source = Codes.joined([member.source for member in self.members])
            self.starts = [number * len(first) for number in range(len(self.members))]

    def at(self, numbers: Sequence[int], stream: int = 0) -> Any:
        """Batch number ``numbers[k]`` of each model, stacked: tensors of shape ``(K, B, ...)``."""
        if self.starts is None:
            return _joined(
                [member.at(number, stream) for member, number in zip(self.members, numbers, strict=True)]
            )
        rows = [
            member.rows(number, stream) + start
            for member, number, start in zip(self.members, numbers, self.starts, strict=True)
        ]
        shape = (len(rows), -1)
        together = self.fetch(self.source, torch.cat(rows))
        return together.map(lambda tensor: tensor.unflatten(0, shape))


def _same_images(first: Batches, other: Batches) -> bool:
    if isinstance(other, Prefetched):
        return False
    images = getattr(first.source, "images", None)
    return images is not None and getattr(other.source, "images", None) is images


def _joined(batches: Sequence[Any]) -> Any:
    columns = zip(*(tensors([batch]) for batch in batches), strict=True)
    (joined,) = filled(batches[:1], [torch.stack(column) for column in columns])
    return joined
