"""Several trainings at once, whose steps are one computation wherever that gives what each would compute alone.

Each training keeps its own data order, noise, optimizers, reports and checkpoints. It may be gone on with
alone, and trainings that were stopped at different steps may go on together: those that lag behind catch up.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import pyro
import torch
from torch import Tensor

from pyro_lrp.core.errors import TrainingDiverged, UserError
from pyro_lrp.core.randomness import untouched_generators
from pyro_lrp.core.stopping import Stop, Stopped
from pyro_lrp.data import Batches, Split
from pyro_lrp.objectives import AutoencoderGame, Game
from pyro_lrp.trainer import snapshots
from pyro_lrp.trainer.bar import ProgressLine
from pyro_lrp.trainer.devices import matrix_products
from pyro_lrp.trainer.loop import Trainer
from pyro_lrp.trainer.phases import Span
from pyro_lrp.trainer.probe import difference
from pyro_lrp.trainer.stack import StackedBatches
from pyro_lrp.trainer.step import Step
from pyro_lrp.trainer.threads import limited, settled

__all__ = ["Apart", "AsOne", "Together", "keep_weights_in_tensors"]


class Together:
    """Trains several games of one shape, such as those that differ in their seeds, β or learning rates.

    A game's β that differs from the others' must be in a tensor, see
    :meth:`~pyro_lrp.objectives.weight.Weight.keep_in_tensor`.

    Args:
        trainers: By name. They must have the same phases, and trainers of the same data share its images.
        progress: Show one progress bar for all.
        log: Receives one line of text at the few moments worth one.

    Attributes:
        errors: What ended a training before its last step, by name.

    >>> from pyro_lrp import data, likelihoods, models, networks, objectives, priors
    >>> from pyro_lrp.schedules import Phase
    >>> digits = data.digits()
    >>> def trainer(seed):
    ...     encoder, decoder = networks.mlp((1, 8, 8), latent_dim=2, hidden_dims=(16,))
    ...     ae = models.Autoencoder(encoder, decoder, priors.StandardNormal(2), likelihoods.Gaussian())
    ...     game = objectives.LatentGame(ae, objectives.BilevelELBO(beta=1.0))
    ...     return Trainer(game, digits, phases=[Phase("joint", 1)], progress=False, seed=seed)
    >>> together = Together({"seed=0": trainer(0), "seed=1": trainer(1)}, progress=False)
    >>> together.fit()
    >>> [part.step for part in together.trainers.values()], together.errors
    ([14, 14], {})
    """

    def __init__(
        self,
        trainers: Mapping[str, Trainer],
        *,
        progress: bool = True,
        log: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.trainers = dict(trainers)
        self.show_progress = progress
        self.log = log
        self.errors: dict[str, Exception] = {}
        self._batches: dict[str, Batches] = {}  # of the phase that a training is in
        self._steps: dict[str, Step] = {}
        first = next(iter(self.trainers.values()))
        for trainer in self.trainers.values():
            _share_images(first, trainer)

    def fit(self) -> None:
        """Train all to their ends, each from its last checkpoint if there is one.

        A training that fails leaves the others alone. Afterwards all games are in eval mode.

        Raises:
            Stopped: After Ctrl-C or SIGTERM, once the step is finished and all are saved.
        """
        first = next(iter(self.trainers.values()))
        with ExitStack() as stack:
            for trainer in self.trainers.values():
                stack.enter_context(trainer.saver.one_writer())
            stack.enter_context(untouched_generators())
            stack.enter_context(pyro.validation_enabled(False))
            states = self._states()
            begun_with = next((state["threads"] for state in states.values() if "threads" in state), None)
            threads = settled(first.threads, begun_with, first.forward, self.log)
            stop = Stop(self.log, "stops after this step")
            stack.enter_context(limited(threads))
            stack.enter_context(matrix_products(first.precision))
            stack.enter_context(stop.listening())
            self._prepare(states, threads)
            self._train(stop)

    def _states(self) -> dict[str, dict[str, Any]]:
        """What each training was saved with last; one whose checkpoint is damaged is left out."""
        states = {}
        for name, trainer in self.trainers.items():
            with self._failing_alone(name):
                states[name] = snapshots.last(trainer.saver)
        return states

    def _prepare(self, states: Mapping[str, Mapping[str, Any]], threads: int) -> None:
        """Set each training up; one that cannot go on is left out."""
        for name, state in states.items():
            trainer = self.trainers[name]
            trainer.threads = threads
            with self._failing_alone(name):
                trainer.prepare(state)

    def _train(self, stop: Stop) -> None:
        """Train group after group until none is left."""
        trainers = self.trainers.values()
        longest = max(trainers, key=lambda trainer: trainer.total_steps)
        done = min(trainer.step for trainer in trainers)
        with ProgressLine(longest.spans, done, visible=self.show_progress) as self.line:
            for trainer in trainers:
                trainer.bar = ProgressLine(trainer.spans, trainer.step, visible=False)
            try:
                while group := self._group():
                    self._run(group, stop)
            finally:
                for trainer in self.trainers.values():
                    trainer.game.eval()

    @contextmanager
    def _failing_alone(self, name: str) -> Iterator[None]:
        """Within the block, an error ends the training of this name alone."""
        try:
            yield
        except TrainingDiverged as error:
            advice = self.trainers[name].saver.advice()
            self.errors[name] = TrainingDiverged(f"{error}: {advice}")
        except (UserError, OSError) as error:
            self.errors[name] = error

    # ----------------------------------------------------------------- groups

    def _group(self) -> list[str]:
        """Those that lag behind all others, which are at the same step of the same phase."""
        left = {}
        for name, trainer in self.trainers.items():
            if name not in self.errors and _span_of(trainer) is not None:
                left[name] = trainer
        if not left:
            return []
        slowest = min(left.values(), key=lambda trainer: trainer.step)
        span = _span_of(slowest)
        return [name for name, one in left.items() if one.step == slowest.step and _span_of(one) == span]

    def _limit(self, group: Sequence[str]) -> int:
        """The step at which a group ends: where its phase does, or others wait."""
        first = self.trainers[group[0]]
        span = _span_of(first)
        assert span is not None, "a group has steps left"
        waiting = [trainer.step for name, trainer in self.trainers.items() if name not in self.errors]
        return min([span.stop, *(step for step in waiting if step > first.step)])

    def _run(self, group: list[str], stop: Stop) -> None:
        """Train a group, as long as it stays whole, to the end of its phase or to where others wait."""
        span = _span_of(self.trainers[group[0]])
        assert span is not None, "a group has steps left"
        limit = self._limit(group)
        for name in group:
            if name not in self._steps:
                self._begin(name, span)
        group = [name for name in group if name not in self.errors]
        if not group:
            return
        steps = self._steps_of(group, span)
        first = self.trainers[group[0]]
        with self._shown(first):
            whole = True
            while whole and first.step < limit:
                for name, terms in zip(group, steps.take(), strict=True):
                    whole &= self._count(name, span, terms, stop)
                if stop.signal is not None:
                    self._stop(stop)
        steps.release()
        for name in group:
            self._end(name, span)

    @contextmanager
    def _shown(self, trainer: Trainer) -> Iterator[None]:
        """Within the block the progress line is that of one training of a group."""
        own = trainer.bar
        trainer.bar = self.line
        self.line.n = trainer.step
        try:
            yield
        finally:
            trainer.bar = own

    def _begin(self, name: str, span: Span) -> None:
        """Begin a phase of one training."""
        trainer = self.trainers[name]
        with self._failing_alone(name):
            self._batches[name] = trainer.begin(span)
            self._steps[name] = trainer.step_of(span)

    def _steps_of(self, group: Sequence[str], span: Span) -> _Steps:
        """How the steps of a group are taken: as one, or one after another where that would not be the same."""
        alone = Apart(
            [self.trainers[name] for name in group],
            [self._steps[name] for name in group],
            [self._batches[name] for name in group],
            span,
        )
        if len(group) == 1:
            return alone
        reason = difference(alone.steps, alone.batches, alone.positions(), alone.numbers())
        if reason:
            self.log(f"{span.name} is trained one step after another: {reason}")
            return alone
        step = self.trainers[group[0]].step
        self.log(f"{span.name}: {len(group)} at once, from step {step} of {span.stop}")
        return AsOne(alone)

    def _count(self, name: str, span: Span, terms: Mapping[str, Tensor], stop: Stop) -> bool:
        """Count a step of one training; whether it goes on with the phase or has ended it as planned."""
        trainer = self.trainers[name]
        with self._failing_alone(name):
            trainer.window.add(terms)
            trainer.count(span, stop)
        return name not in self.errors and not trainer.stopped

    def _end(self, name: str, span: Span) -> None:
        """Leave a phase that is complete; a training that failed is left as it is."""
        trainer = self.trainers[name]
        if name in self.errors or trainer.is_within(span):
            return
        trainer.prior_only = None
        del self._batches[name], self._steps[name]

    def _stop(self, stop: Stop) -> None:
        """End all trainings between two steps, each with a checkpoint of its last one.

        Raises:
            Stopped: Always.
        """
        going_on = [name for name in self.trainers if name not in self.errors]
        for name in going_on:
            if name in self._steps:
                self.trainers[name].keep()
        steps = {self.trainers[name].step for name in going_on}
        where = " and ".join(map(str, sorted(steps)))
        words = f"stopped at step {where}, {len(going_on)} trainings are saved"
        raise Stopped(words, stop.signal or signal.SIGTERM)


def keep_weights_in_tensors(games: Sequence[Game]) -> None:
    """Where the β of games differ, keep each in a tensor, so that the games can be computed as one."""
    weights = [game.beta for game in games if isinstance(game, AutoencoderGame)]
    if len({float(weight.value) for weight in weights}) > 1:
        for weight in weights:
            weight.keep_in_tensor()


def _span_of(trainer: Trainer) -> Span | None:
    """The phase that a training is in, or comes to next; None if it is complete."""
    for span in trainer.spans:
        if trainer.is_within(span):
            return span
    return None


def _share_images(first: Trainer, other: Trainer) -> None:
    """Let two trainers of the same images hold them once."""
    if first is other or first.splits.keys() != other.splits.keys():
        return
    if all(_same(split, other.splits[name]) for name, split in first.splits.items()):
        other.splits.update(first.splits)
        other.images.source = first.images.source


def _same(split: Split, other: Split) -> bool:
    """Whether two splits in memory hold the same images, labels and contexts."""
    pairs = [(split.images, other.images), (split.labels, other.labels), (split.context, other.context)]
    if not all(isinstance(part, Tensor | None) for pair in pairs for part in pair):
        return False  # rows of a file, which are in memory once anyway
    if (split.labels is None) != (other.labels is None):
        return False
    return all(one is None or torch.equal(one, two) for one, two in pairs)


class Apart:
    """The steps of several trainings, taken one after another.

    Args:
        trainers: The trainings, at the same step.
        steps: The step of each.
        batches: The minibatches of each.
        span: Their phase.
    """

    def __init__(
        self, trainers: Sequence[Trainer], steps: Sequence[Step], batches: Sequence[Batches], span: Span
    ) -> None:
        self.trainers = trainers
        self.steps = steps
        self.batches = batches
        self.span = span

    def positions(self) -> list[Any]:
        """The next step of each training, and where it stands."""
        return [(trainer.step, self.span.progress(trainer.step)) for trainer in self.trainers]

    def numbers(self) -> list[int]:
        """The number of the next minibatch of each training."""
        return [trainer.step - self.span.start for trainer in self.trainers]

    def release(self) -> None:
        """Nothing is shared."""

    def take(self) -> list[dict[str, Tensor]]:
        """Take a step of each training, and return its terms."""
        terms = []
        parts = zip(self.steps, self.batches, self.positions(), self.numbers(), strict=True)
        for step, batches, (position, progress), number in parts:
            step.prepare(position, progress)
            inputs = [batches.at(number, stream) for stream in range(step.streams)]
            terms.append(step(inputs))
        return terms


class AsOne:
    """The steps of several trainings, taken as one.

    Args:
        apart: The same steps, one after another.
    """

    def __init__(self, apart: Apart) -> None:
        self.apart = apart
        self.step = apart.trainers[0].step_factory.stacked(apart.span.name, apart.steps)
        self.batches = StackedBatches(apart.batches)

    def release(self) -> None:
        """Let the trainings go on by themselves; no further step is taken here."""
        self.step.release()

    def take(self) -> list[dict[str, Tensor]]:
        """Take a step of each training, and return its terms."""
        self.step.prepare_each(self.apart.positions())
        numbers = self.apart.numbers()
        terms = self.step([self.batches.at(numbers, stream) for stream in range(self.step.streams)])
        columns = {name: term.unbind() for name, term in terms.items()}
        return [{name: column[k] for name, column in columns.items()} for k in range(len(numbers))]


_Steps = Apart | AsOne
