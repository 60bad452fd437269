"""Whether the steps of several models are, as one computation, what they are one after another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from pyro_lrp.core.randomness import untouched_generators
from pyro_lrp.data import Batches
from pyro_lrp.schedules import Progress
from pyro_lrp.trainer.stack import StackedBatches, StackedStep
from pyro_lrp.trainer.step import Step

__all__ = ["difference"]

_TOLERANCE = 1e-3  # of the largest loss, gradient or statistic of a model; rounding is a hundredth of it
_LONGEST = 200  # characters of a reason

Position = tuple[int, Progress]


def difference(
    steps: Sequence[Step], batches: Sequence[Batches], positions: Sequence[Position], numbers: Sequence[int]
) -> str:
    """Why steps cannot be taken as one; empty if they can.

    The next step of each model is computed both ways, without moving anything: losses, gradients and buffers
    must agree. So whatever differs between models besides their parameters and buffers is noticed.

    Args:
        steps: The step of each model.
        batches: The minibatches of each.
        positions: The number of the next step of each, and where it stands.
        numbers: The number of the next minibatch of each.
    """
    games = [step.game for step in steps]
    with untouched_generators():
        with _put_back(games):
            alone = [_alone(*parts) for parts in zip(steps, batches, positions, numbers, strict=True)]
        try:
            with _put_back(games):
                together = _together(steps, batches, positions, numbers)
        except Exception as error:  # whatever a model does that cannot be mapped
            return _brief(error)
    for number, (one, other) in enumerate(zip(alone, together, strict=True)):
        for what in one:
            if not _agree(one[what], other[what]):
                return f"model {number} has other {what} than alone"
    return ""


Found = dict[str, list[Tensor]]
"""Losses, gradients and buffers of one model, by these names."""


def _alone(step: Step, batches: Batches, position: Position, number: int) -> Found:
    step.prepare(*position)
    inputs = [batches.at(number, stream) for stream in range(step.streams)]
    memo: dict[str, Any] = {}
    found: Found = {"losses": [], "gradients": []}
    for turn in step.turns:
        losses = step.game(turn.name, inputs[: turn.batches], memo)
        parameters = [p for _, p in _moved(step.game, turn.moves)]
        gradients = torch.autograd.grad(losses.loss, parameters, retain_graph=True, allow_unused=True)
        found["losses"].append(losses.loss.detach())
        found["gradients"] += [g for g in gradients if g is not None]
    found["statistics"] = [buffer.clone() for _, buffer in step.game.named_buffers()]
    return found


def _together(
    steps: Sequence[Step], batches: Sequence[Batches], positions: Sequence[Position], numbers: Sequence[int]
) -> list[Found]:
    step = StackedStep(steps)
    step.release()  # none is taken
    stacked = StackedBatches(batches)
    step.prepare_each(positions)
    inputs = [stacked.at(numbers, stream) for stream in range(step.streams)]
    memo: dict[str, Any] = {}
    losses = []
    gradients = []
    for turn in step.turns:
        loss = step.losses(turn, inputs[: turn.batches], memo).loss
        parameters = [step.stack.parameters[name] for name, _ in _moved(step.game, turn.moves)]
        found = torch.autograd.grad(loss.sum(), parameters, retain_graph=True, allow_unused=True)
        losses.append(loss.detach())
        gradients += [gradient for gradient in found if gradient is not None]
    statistics = step.stack.buffers.values()
    return [
        {
            "losses": [loss[k] for loss in losses],
            "gradients": [gradient[k] for gradient in gradients],
            "statistics": [buffer[k].clone() for buffer in statistics],
        }
        for k in range(len(steps))
    ]


def _moved(game: Any, players: Sequence[str]) -> list[tuple[str, nn.Parameter]]:
    """The parameters of some players that learn, with their names in the game."""
    of = game.players()
    own = {id(parameter) for player in players for parameter in of[player].parameters()}
    return [(name, p) for name, p in game.named_parameters() if id(p) in own and p.requires_grad]


@contextmanager
def _put_back(games: Sequence[nn.Module]) -> Iterator[None]:
    """After the block, buffers are what they were."""
    before = [[(buffer, buffer.clone()) for buffer in game.buffers()] for game in games]
    try:
        yield
    finally:
        for pairs in before:
            for buffer, values in pairs:
                buffer.copy_(values)


def _agree(some: Sequence[Tensor], others: Sequence[Tensor]) -> bool:
    """Whether tensors are equal up to rounding, relative to the largest value of them all."""
    if len(some) != len(others):
        return False
    scale = max([1e-12, *(_largest(tensor) for tensor in some)])
    pairs = zip(some, others, strict=True)
    return all(_largest(one.double() - other.double()) <= _TOLERANCE * scale for one, other in pairs)


def _largest(tensor: Tensor) -> float:
    if not tensor.numel():
        return 0.0
    return tensor.double().abs().max().item()


def _brief(error: Exception) -> str:
    first, *_ = str(error).split(". ")
    text = " ".join(first.split())
    return text[:_LONGEST] or type(error).__name__
