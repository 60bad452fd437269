"""Rows of the metrics: running means of the training terms, and scores of every split."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pyro_lrp.core.errors import TrainingDiverged, UserError
from pyro_lrp.core.modules import eval_mode
from pyro_lrp.core.randomness import seeded, some_rows
from pyro_lrp.data import Batch, Split, at_once
from pyro_lrp.models import Codes
from pyro_lrp.objectives import Game

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = ["Callback", "Clock", "Report", "Scoring", "Window"]


@dataclass(frozen=True)
class Report:
    """The payload of training callbacks.

    Attributes:
        game: In eval mode.
        step: Steps done.
        phase: The phase's name.
        picture_due: Whether this report is worth a picture: it comes with a checkpoint.
        row: The row of the metrics so far; what a callback returns is added to it.
    """

    game: Game
    step: int
    phase: str
    picture_due: bool
    row: Mapping[str, Any]


Callback = Callable[[Report], "Mapping[str, float] | None"]


class Window:
    """Means of the training terms since the last report.

    The terms stay on the device until they are read: the only moment at which the host waits for it.

    Args:
        fault: Maps the means to a sentence about what is wrong with them, or to None.

    >>> window = Window()
    >>> for loss in (1.0, 2.0):
    ...     window.add({"loss": torch.tensor(loss)})
    >>> window.read(step=2)
    {'loss': 1.5}
    """

    def __init__(self, fault: Callable[[Mapping[str, float]], str | None] = lambda means: None) -> None:
        self.fault = fault
        self.names: list[str] = []
        self.rows: list[Tensor] = []

    def add(self, terms: Mapping[str, Tensor]) -> None:
        """Take in the terms of one step, which are the same ones until the window is read."""
        self.names = list(terms)
        values = [term.float() for term in terms.values()]
        self.rows.append(torch.stack(values))

    def state(self) -> dict[str, Any]:
        """For a checkpoint between two reports."""
        if not self.rows:
            return {}
        return {"names": self.names, "rows": torch.stack(self.rows)}

    def load(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Go on from the state of a checkpoint."""
        self.names = list(state.get("names", []))
        self.rows = [row.to(device) for row in state.get("rows", [])]

    def read(self, step: int) -> dict[str, float]:
        """The mean of each term, and an empty window.

        Args:
            step: The number of steps done.

        Raises:
            TrainingDiverged: Names the first term that is not finite, and its step.
            UserError: If something else is wrong with the means.
        """
        values = torch.stack(self.rows).cpu().double()
        first = step - len(self.rows) + 1
        self.rows = []
        bad = (~torch.isfinite(values)).nonzero()
        if len(bad):
            row, column = bad[0].tolist()
            value = values[row, column].item()
            raise TrainingDiverged(f"{self.names[column]} is {value} at step {first + row}")
        averages = values.mean(0).tolist()
        means = dict(zip(self.names, averages, strict=True))
        fault = self.fault(means)
        if fault is not None:
            raise UserError(f"training stops at step {step}: {fault}")
        return means


class Clock:
    """The time and the images since the last report.

    Attributes:
        images: Images that were trained on.
    """

    def __init__(self) -> None:
        self.images = 0
        self._begun = time.perf_counter()

    def entries(self, seconds_before: float) -> dict[str, float]:
        """The entries of a row: the speed since the last report, and the seconds of the whole training."""
        seconds = time.perf_counter() - self._begun
        speed = self.images / max(seconds, 1e-9)
        return {
            "images_per_second": round(speed, 1),
            "seconds": round(seconds_before + seconds, 3),
        }


class Scoring:
    """Scores all splits with the game in eval mode, always with the same noise and on the same images.

    These are chosen at random, by a seed that all runs share: curves of a run and of several can be compared,
    and they do not depend on the order of the data.

    Args:
        game: Has the terms of a batch.
        splits: By name; ``"test"`` is one of them.
        fabric: Precision.
        seed: Of the noise.
        images: Images of a split that are scored.
        callbacks: Called after the splits are scored; what they return joins the row.
    """

    def __init__(
        self,
        game: Game,
        splits: Mapping[str, Split],
        fabric: Fabric,
        *,
        seed: int,
        images: int,
        callbacks: Sequence[Callback],
    ) -> None:
        self.game = game
        self.splits = splits
        self.fabric = fabric
        self.seed = seed
        self.images = images
        self.callbacks = callbacks

    @torch.no_grad()
    def __call__(
        self,
        row: dict[str, Any],
        *,
        picture_due: bool,
    ) -> None:
        """Add the scores of every split, and those of the callbacks, to a row.

        Args:
            row: Has the step and the name of the phase.
            picture_due: For the callbacks.
        """
        for name in self.splits:
            row |= self.of(name)
        with eval_mode(self.game), seeded(self.seed, "evaluation"), self.fabric.autocast():
            for callback in self.callbacks:
                report = Report(self.game, row["step"], row["phase"], picture_due, row)
                row.update(callback(report) or {})

    def of(self, name: str) -> dict[str, float]:
        """The scores of one split."""
        return self._score(name, self.images)

    def whole(self) -> tuple[dict[str, float], dict[str, int]]:
        """Scores of whole splits; of larger ones than the test split, of as many images as that has, or 1,000.

        Returns:
            The scores, and the number of scored images by split.
        """
        most = max(len(self.splits["test"]), 1000)
        scores: dict[str, float] = {}
        counts: dict[str, int] = {}
        for name, split in self.splits.items():
            counts[name] = min(most, len(split))
            scores |= self._score(name, counts[name])
        return scores, counts

    @torch.no_grad()
    def _score(self, name: str, n: int) -> dict[str, float]:
        """Means of the game's terms over some images of a split, and the extent of their codes."""
        split = self.splits[name]
        chosen = some_rows(len(split), n, "scored", name).sort().values
        height, width = split.images.shape[-2:]
        totals: dict[str, Tensor] = {}
        codes: list[Codes] = []
        with eval_mode(self.game), seeded(self.seed, "evaluation", name), self.fabric.autocast():
            for rows in chosen.split(at_once(height, width)):
                self._add(split.batch(rows), totals, codes)
        row = {term: (total / len(chosen)).item() for term, total in totals.items()}
        if codes:
            row |= _extent(Codes.joined(codes))
        return {f"{name}/{term}": value for term, value in row.items()}

    def _add(self, batch: Batch, totals: dict[str, Tensor], codes: list[Codes]) -> None:
        """Add the terms of a batch to the sums over images, and its codes to the others."""
        for term, value in self.game.score(batch).items():
            share = value * len(batch.x)
            totals[term] = totals[term] + share if term in totals else share
        part = self.game.codes(batch)
        if isinstance(part, Codes):
            codes.append(part)


def _extent(codes: Codes) -> dict[str, float]:
    """The encoder's mean scale, the codes' mean deviation over the images, and the ratio of the two."""
    loc = codes.loc.flatten(1)
    scale = codes.scale.flatten(1)
    variance = loc.var(0, correction=0) + scale.square().mean(0)
    deviation = variance.sqrt().mean().item()
    encoder_scale = scale.mean().item()
    return {
        "encoder_scale": encoder_scale,
        "code_std": deviation,
        "relative_scale": encoder_scale / max(deviation, 1e-30),
    }
