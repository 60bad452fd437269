"""One step of training: the turns of a game, their gradients, and the optimizers.

A step has two halves. On the host, :meth:`Step.prepare` writes all that differs from the step before: the seed
into the device's default generator, learning rates and scheduled weights into 0-dim tensors. On the device, the
call computes. No kernel of the call receives a Python number that changes, and none waits for the
host, so that a graph can record one call and be replayed after each ``prepare``, see
:class:`~pyro_lrp.trainer.capture.CapturedStep`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pyro_lrp.core.randomness import derive_seed
from pyro_lrp.objectives import Game, Losses, Turn
from pyro_lrp.schedules import Constant, Progress, Schedule
from pyro_lrp.trainer.optimizers import set_rate
from pyro_lrp.trainer.prior_phase import EMA

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = ["Step"]


class Step:
    """The step of one phase.

    Args:
        game: On its device, in the phase's mode.
        turns: The phase's turns, in order.
        optimizers: One for each player, by name.
        fabric: Device and precision.
        seed: Seeds the noise of step ``s`` together with ``s``.
        schedule: Factor of the learning rates.
        schedules: Factors of the rates of single players, by name, in place of it.
        averages: Moving averages of players, by name, updated after each turn that moves the player.

    >>> from pyro_lrp import likelihoods, models, networks, objectives, priors
    >>> from pyro_lrp.data import Batch
    >>> from pyro_lrp.trainer.devices import make_fabric
    >>> from pyro_lrp.trainer.optimizers import make_optimizers
    >>> encoder, decoder = networks.mlp((1, 8, 8), latent_dim=2, hidden_dims=(16,))
    >>> ae = models.Autoencoder(encoder, decoder, priors.StandardNormal(2), likelihoods.Gaussian())
    >>> game = objectives.LatentGame(ae, objectives.BilevelELBO(beta=1.0))
    >>> optimizers = make_optimizers(game, game.players(), lr=1e-3)
    >>> step = Step(game, game.turns("joint"), optimizers, make_fabric("cpu", "32"))
    >>> step.prepare(0, Progress(epoch=0, fraction=0.0))
    >>> sorted(step([Batch(torch.rand(4, 1, 8, 8))]))
    ['entropy', 'gamma', 'kl', 'log_likelihood', 'log_prior', 'loss']
    """

    def __init__(
        self,
        game: Game,
        turns: Sequence[Turn],
        optimizers: Mapping[str, torch.optim.Optimizer],
        fabric: Fabric,
        *,
        seed: int = 0,
        schedule: Schedule | None = None,
        schedules: Mapping[str, Schedule] | None = None,
        averages: Mapping[str, EMA] | None = None,
    ) -> None:
        self.game = game
        self.turns = tuple(turns)
        self.optimizers = optimizers
        self.fabric = fabric
        self.seed = seed
        self.schedule = schedule or Constant()
        self.schedules = schedules or {}
        self.averages = averages or {}
        self.generators: list[torch.Generator] = []  # of noise that is not drawn from the device's default one

    @property
    def streams(self) -> int:
        """How many independent minibatches a call takes."""
        return max(turn.batches for turn in self.turns)

    @property
    def moves(self) -> set[str]:
        """The players that some turn moves."""
        return {name for turn in self.turns for name in turn.moves}

    def prepare(self, step: int, progress: Progress) -> None:
        """The host's half.

        Args:
            step: The number of the step, through all phases.
            progress: Where it stands, for schedules.
        """
        self.advance(progress)
        reseed(self.noise_seed(step), self.fabric.device)

    def advance(self, progress: Progress) -> None:
        """Write learning rates and scheduled weights."""
        for player in self.moves:
            schedule = self.schedules.get(player, self.schedule)
            set_rate(self.optimizers[player], schedule(progress))
        self.game.advance(progress)

    def noise_seed(self, step: int) -> int:
        """The seed of all noise of a step."""
        return derive_seed(self.seed, "noise", step)

    def __call__(self, batches: Sequence[Any]) -> dict[str, Tensor]:
        """The device's half.

        Args:
            batches: One of each stream; a turn sees as many of the first ones as it asks for.

        Returns:
            The terms of all turns, detached scalars on the device.
        """
        memo: dict[str, Any] = {}
        terms: dict[str, Tensor] = {}
        for turn in self.turns:
            inputs = batches[: turn.batches]
            losses = self._descend(turn, inputs, memo)
            terms |= self.named(turn, losses.loss.detach(), losses.terms)
        return terms

    def named(self, turn: Turn, loss: Tensor, terms: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The loss and the terms of a turn by their names in the metrics."""
        name = f"{turn.name}_loss"
        if len(self.turns) == 1:
            name = "loss"
        return {name: loss, **terms}

    def reduce(self, moves: Sequence[str]) -> None:
        """Combine the gradients of several processes, between backward and the optimizers.

        Nothing on one process. A subclass averages the gradients of the players in ``moves``.
        """

    def _descend(self, turn: Turn, batches: Sequence[Any], memo: dict[str, Any]) -> Losses:
        """Compute one turn's loss and move its players."""
        with self.fabric.autocast():
            losses = self.game(turn.name, batches, memo)

        for player in turn.moves:
            self.optimizers[player].zero_grad(set_to_none=True)
        self.fabric.backward(losses.loss)
        self.move(turn)
        return losses

    def move(self, turn: Turn) -> None:
        """Move the players of a turn along their gradients."""
        self.reduce(turn.moves)
        for player in turn.moves:
            self.optimizers[player].step()
        self.average(turn.moves)

    def average(self, players: Sequence[str]) -> None:
        """Take players that moved into their averages."""
        for player in players:
            if player in self.averages:
                self.averages[player].update()


def reseed(seed: int, device: torch.device) -> None:
    """Seed the default generators that a step on ``device`` draws from.

    ``torch.manual_seed`` seeds those of every kind of device, and where a GPU has not been used yet it formats
    a stack trace each time: a large share of a small step.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        index = device.index or 0
        torch.cuda.default_generators[index].manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)
