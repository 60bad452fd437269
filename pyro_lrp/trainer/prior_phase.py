"""A prior-only phase: the prior is trained on the codes of a frozen encoder.

Noise on the codes, a moving average and an early stop are off by default: the paper has none of them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pyro_lrp.core.errors import UserError
from pyro_lrp.core.randomness import derive_seed, seeded
from pyro_lrp.data import Batches, Split
from pyro_lrp.models import Codes, ImageCodes
from pyro_lrp.objectives import Game
from pyro_lrp.trainer.phases import Span

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = ["EMA", "EarlyStop", "PriorOnly", "PriorPhase", "assign", "held_out_score"]


@dataclass(frozen=True)
class PriorPhase:
    """Options of a prior-only phase.

    Attributes:
        code_noise: Noise on the codes, in units of each dimension's own standard deviation over the training
            codes; encoder and decoder are untouched.
        ema: Largest decay of an exponential moving average of the prior's parameters, which is scored, drawn
            from and, at the end, kept; 0 for none. The decay grows towards it, see :class:`EMA`.
        patience: Scorings of the held-out codes without a better one after which the phase stops; the best
            parameters are kept. None never stops.

    Raises:
        UserError: Names the option that is out of its range.
    """

    code_noise: float = 0.0
    ema: float = 0.0
    patience: int | None = None

    def __post_init__(self) -> None:
        noise = self.code_noise
        if not (math.isfinite(noise) and noise >= 0):
            raise UserError(f"code_noise must be a number of at least 0, got {noise}")
        if not 0 <= self.ema < 1:
            raise UserError(f"ema must be at least 0 and below 1, got {self.ema}")
        if self.patience is not None and self.patience < 1:
            raise UserError(f"patience must be at least 1, or None, got {self.patience}")

    def __str__(self) -> str:
        """The options that are set, in words."""
        words = []
        if self.code_noise:
            words.append(f"noise of {self.code_noise:g} deviations on the codes")
        if self.ema:
            words.append(f"a moving average of the prior, of decay {self.ema:g} at most")
        if self.patience is not None:
            words.append(f"a stop after {self.patience} scorings without a better one")
        return ", ".join(words)


class PriorOnly:
    """A prior-only phase under way: its codes, and the average and the early stop of its prior.

    Args:
        game: Holds the player ``prior``.
        options: What the phase does besides descending its loss.
        seed: Of the codes, their order and the prior's own fit.
        fabric: Device and precision.
        log: Receives lines of text.

    Attributes:
        ema: The moving average; None if the options have none, or before :meth:`begin`.
        early_stop: Likewise.
    """

    def __init__(
        self,
        game: Game,
        options: PriorPhase,
        *,
        seed: int,
        fabric: Fabric,
        log: Callable[[str], None],
    ) -> None:
        self.game = game
        self.options = options
        self.seed = seed
        self.fabric = fabric
        self.log = log
        self.ema: EMA | None = None
        self.early_stop: EarlyStop | None = None

    def begin(
        self,
        span: Span,
        train: Split,
        optimizer: torch.optim.Optimizer,
        *,
        held_out: Callable[[], Mapping[str, Any]],
        state: Mapping[str, Any] | None = None,
        resumed: bool = False,
    ) -> Batches:
        """Set the game up for the phase, and return its batches.

        Args:
            span: The phase.
            train: The training images.
            optimizer: The prior's.
            held_out: Scores the held-out codes.
            state: What :meth:`state` returned, of a phase that goes on.
            resumed: Whether the phase goes on, so that the prior was fitted before.

        Returns:
            Minibatches of the codes of all training images; of the images, where the game has no codes.
        """
        if self.options != PriorPhase():
            self.log(f"{span.name}: {self.options}")
        source = self._source(train)
        self._set_modes(span)
        if not resumed and not isinstance(source, Split):
            self._fit(source, len(train), optimizer)

        # after the fit: the average and the best parameters start from it
        prior = self.game.players()["prior"]
        if self.options.ema:
            self.ema = EMA(prior, self.options.ema)
        if self.options.patience is not None:
            self.early_stop = EarlyStop(prior, self.options.patience)
        if state:
            self._load(state)
        elif self.early_stop:
            # the prior itself, and not what stood in for it in a phase before
            self.game.advance(span.progress(span.start))
            self.early_stop.observe(held_out_score(held_out()))
        return self._batches(span, source, train)

    def averages(self) -> dict[str, EMA]:
        """The moving averages by player, for :class:`~pyro_lrp.trainer.Step`."""
        if self.ema is None:
            return {}
        return {"prior": self.ema}

    def scored(self) -> AbstractContextManager:
        """The block in which the prior is scored: with its average, if there is one."""
        if self.ema is None:
            return nullcontext()
        return self.ema.applied()

    def observe(self, row: Mapping[str, Any]) -> bool:
        """Take in the scores of a row; True if it is time to stop."""
        if self.early_stop is None:
            return False
        stops = self.early_stop.observe(held_out_score(row))
        if stops:
            self.log(f"prior_only stops at step {row['step']}: {self.early_stop.since} scorings were no better")
        return stops

    def keep_best(self, score: Callable[[], None]) -> dict[str, float]:
        """Leave the prior with the parameters that scored best; without an early stop, as it is.

        Args:
            score: Called if these are not the present ones.

        Returns:
            The entry of a row that has their score.
        """
        if self.early_stop is None:
            return {}
        if self.early_stop.since:
            self.early_stop.restore()
            score()
        return {"best_held_out_score": self.early_stop.best}

    def keep_average(self) -> None:
        """Leave the prior with its average, if there is one."""
        if self.ema is not None:
            self.ema.keep()

    def state(self) -> dict[str, Any]:
        """For a checkpoint; empty if there is nothing to go on from."""
        if self.ema is None and self.early_stop is None:
            return {}
        averages = self.ema.values if self.ema else []
        updates = self.ema.updates if self.ema else 0
        early_stop = self.early_stop.state() if self.early_stop else {}
        return {"averages": averages, "updates": updates, "early_stop": early_stop}

    def _load(self, state: Mapping[str, Any]) -> None:
        if self.ema:
            assign(self.ema.values, state["averages"])
            # averages of version 0.2 had the largest decay from the first update on
            self.ema.updates.fill_(state.get("updates", math.inf))
        if self.early_stop:
            self.early_stop.load(state["early_stop"])

    def _set_modes(self, span: Span) -> None:
        """Training mode for the players that move, and for no other."""
        players = self.game.players()
        for turn in span.turns:
            for player in turn.moves:
                players[player].train()

    @torch.no_grad()
    def _source(self, train: Split) -> Codes | ImageCodes | Split:
        """The codes of the training images, in eval mode; the images, where the game has no codes."""
        self.game.eval()
        with self.fabric.autocast(), seeded(self.seed, "codes"):
            codes = self.game.codes(train)
            if codes is None:
                return train
            return codes.noised(self.options.code_noise)

    def _fit(self, codes: Codes | ImageCodes, n: int, optimizer: torch.optim.Optimizer) -> None:
        """Let the prior estimate itself from the codes, if it can."""
        begun = time.perf_counter()
        with seeded(self.seed, "fit"):
            estimated = self.game.fit(codes)
        if not estimated:
            return
        # moments of the former parameters mean nothing to the new ones
        optimizer.state.clear()
        seconds = time.perf_counter() - begun
        text = ", ".join(f"{key} {_brief(value)}" for key, value in estimated.items())
        self.log(f"the prior's own fit to {n} codes: {text} ({seconds:.1f} s)")

    def _batches(self, span: Span, source: Codes | ImageCodes | Split, train: Split) -> Batches:
        fetch: Any = Split.batch
        device = train.rows_on(self.fabric.device)
        if not isinstance(source, Split):
            fetch = type(source).rows
        if isinstance(source, Codes):
            device = self.fabric.device
        return Batches(
            source,
            span.batch_size,
            seed=derive_seed(self.seed, span.name),
            fetch=fetch,
            length=len(train),
            device=device,
        )


def _brief(value: Any) -> str:
    """An estimate with four digits, if it is a number with a fraction."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


def held_out_score(row: Mapping[str, Any]) -> float:
    """The score of the held-out codes, the higher the better: log p(z), or minus the prior's own loss."""
    score = row.get("validation/log_prior")
    if score is None:
        return -row["validation/fit_loss"]
    return score


class EMA:
    r"""Exponential moving average of a module's parameters.

    The t-th update has the decay :math:`\min(d, t / (9 + t))`, so that the first parameters are soon forgotten:
    with d itself they would keep a weight of :math:`d^t`, which is 0.9 after a hundred updates at 0.999.

    Torch's ``AveragedModel`` copies the module, which a stock transform that was used once refuses.

    Args:
        module: Whose parameters are averaged.
        decay: The largest decay, d.

    References:
        ``ExponentialMovingAverage`` of TensorFlow, with ``num_updates`` = t - 1.

    >>> module = nn.Linear(1, 1)
    >>> ema = EMA(module, decay=0.5)
    >>> before = module.bias.item()
    >>> _ = module.bias.data.add_(1.0)
    >>> ema.update()
    >>> with ema.applied():
    ...     round(module.bias.item() - before, 3)
    0.9
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.parameters: list[Tensor] = [*module.parameters()]
        self.decay = decay
        self.values = _copies(self.parameters)
        # on the device, so that a captured step can be replayed: no kernel receives a number that changes
        like = next(module.parameters(), torch.zeros(()))
        self.updates = like.new_zeros(())

    @torch.no_grad()
    def update(self) -> None:
        """Take the present parameters in."""
        self.updates += 1
        weight = 9 / (9 + self.updates)
        weight = weight.clamp_min(1 - self.decay)
        changes = torch._foreach_sub(self.parameters, self.values)
        torch._foreach_mul_(changes, weight)
        torch._foreach_add_(self.values, changes)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within the block the module has the average for its parameters."""
        present = _copies(self.parameters)
        self.keep()
        try:
            yield
        finally:
            assign(self.parameters, present)

    def keep(self) -> None:
        """Give the module the average for its parameters."""
        assign(self.parameters, self.values)


class EarlyStop:
    """Keeps the best parameters, and stops after ``patience`` scorings in a row that were no better.

    The first score is that of the parameters the phase begins with: where none is better, these are kept.

    Attributes:
        best: The best score so far.
        since: Scorings since then.
    """

    def __init__(self, module: nn.Module, patience: int) -> None:
        self.parameters: list[Tensor] = [*module.parameters()]
        self.patience = patience
        self.best = -math.inf
        self.since = 0
        self.kept = _copies(self.parameters)

    def observe(self, score: float) -> bool:
        """Take in a score, the higher the better, of the present parameters; True if it is time to stop."""
        if score > self.best:
            self.best = score
            self.since = 0
            self.kept = _copies(self.parameters)
        else:
            self.since += 1
        return self.since >= self.patience

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"best": self.best, "since": self.since, "kept": self.kept}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint's state."""
        self.best = state["best"]
        self.since = state["since"]
        assign(self.kept, state["kept"])

    def restore(self) -> None:
        """Give the module the parameters that scored best."""
        assign(self.parameters, self.kept)


@torch.no_grad()
def assign(targets: list[Tensor], values: list[Tensor]) -> None:
    """Copy values into tensors of the same shapes, in place."""
    for target, value in zip(targets, values, strict=True):
        target.copy_(value)


def _copies(tensors: list[Tensor]) -> list[Tensor]:
    return [tensor.detach().clone() for tensor in tensors]
