"""The training loop: phase after phase, it prepares a step, takes it, and now and then reports and saves.

It knows players, optimizers, devices and files, and not one formula. All noise of step s is drawn after seeding
with ``(seed, s)``; every schedule is a function of s, and so is the order of the data. A checkpoint needs
parameters, optimizer moments and s, and a resumed run is bit for bit the run that was never stopped.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyro
import torch

from pyro_lrp.core.errors import TrainingDiverged
from pyro_lrp.core.modules import eval_mode
from pyro_lrp.core.randomness import seeded, untouched_generators
from pyro_lrp.core.stopping import Stop, Stopped
from pyro_lrp.data import Batches, ImageData
from pyro_lrp.data.batches import image_batches
from pyro_lrp.objectives import Game
from pyro_lrp.schedules import Constant, Phase, Schedule
from pyro_lrp.trainer import layouts, snapshots
from pyro_lrp.trainer.bar import ProgressLine
from pyro_lrp.trainer.capture import make_factory
from pyro_lrp.trainer.checks import check_batches, check_data
from pyro_lrp.trainer.decoder_phase import check_code_noise, decoder_batches
from pyro_lrp.trainer.devices import check_shares, make_fabric, matrix_products
from pyro_lrp.trainer.history import History
from pyro_lrp.trainer.optimizers import check_options, check_players, make_optimizers
from pyro_lrp.trainer.phases import Span, lay_out
from pyro_lrp.trainer.prior_phase import PriorOnly, PriorPhase
from pyro_lrp.trainer.processes import Processes
from pyro_lrp.trainer.saving import Saver
from pyro_lrp.trainer.scoring import Callback, Clock, Scoring, Window
from pyro_lrp.trainer.step import Step
from pyro_lrp.trainer.threads import Threads, limited, settled

__all__ = ["Trainer"]

_INITIAL = 4  # minibatches that data-dependent initialization sees


class Trainer:
    """Trains a game on a data set.

    Args:
        game: Owns every module that learns, and computes the losses.
        data: A share of its training images may be held out; those and the test images are only scored.
        phases: In order; a phase in which the game has nothing to move is skipped.
        prior_phase: Options of a prior-only phase.
        decoder_code_noise: Noise on the codes of a decoder-only phase, in deviations of each dimension.
        batch_size: Images of a minibatch.
        prior_batch_size: Codes of a minibatch in ``prior_only``; ``batch_size`` if None.
        lr: Learning rate of Adam, for every player.
        lr_of: Other rates, by prefix of a parameter's name within the game.
        optimizers: Options of Adam for single players, by name: ``lr``, ``betas``, ``eps``, ``weight_decay``.
        schedule: Factor of the rates over time.
        schedules: Factors of the rates of single players, by name, in place of it.
        validation: Share of the training images that is held out; 0 takes the data set's own validation images,
            if it has any; None does so too, and holds out a tenth where there are none.
        seed: Seeds data order, noise and evaluation, which are separate streams.
        directory: For checkpoints and ``metrics.jsonl``, which a run resumes from; None writes nothing.
            ``pyro_lrp.load(directory, into=autoencoder)`` fills a new model with the newest checkpoint.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``.
        devices: Processes on this machine, of which each takes its rows of every minibatch.
        nodes: Machines; see :func:`~pyro_lrp.trainer.devices.make_fabric`. Only the first process writes,
            prints and calls back.
        sync_batch_norm: Batch norms of several processes take the statistics of the whole minibatch, not of the
            rows of each.
        threads: CPU threads: a number; ``"auto"``, one for small networks and the idle cores for large ones; or
            None, torch's own number. A resumed run keeps the number that ``"auto"`` chose.
        precision: ``"32"``, ``"tf32"`` (CUDA), or ``"bf16-mixed"``, under which densities stay in float32.
        memory_format: ``"contiguous"``, or ``"channels_last"`` for convolutions.
        compile: ``"graph"`` replays each step from a CUDA graph; ``"full"`` compiles its losses and gradients
            too, also on a CPU; ``"off"`` does neither; ``"auto"`` is graph on CUDA, else off. What no graph can
            hold runs without one. All compute the same, compiled steps up to rounding.
        report_every: Steps between rows of the metrics.
        evaluations: Evenly spaced scorings of all splits in a phase.
        evaluation_images: Images of a split that are scored, always the same ones, chosen at random.
        save_minutes: Time between checkpoints, which come with a report, or without one where reports are rare.
            The first is written after half a minute at the latest, and one at the end of each phase and when
            training is stopped. With 0 each report is saved.
        callbacks: Called after each evaluation; the numbers they return join the row.
        on_row: Called with each row of the metrics, for loggers.
        progress: Show a progress bar.
        log: Receives one line of text at the few moments worth one.

    >>> from pyro_lrp import data, likelihoods, models, networks, objectives, priors, transforms
    >>> encoder, decoder = networks.mlp((1, 8, 8), latent_dim=2, hidden_dims=(16,))
    >>> prior = priors.Flow(2, transforms.paper_flow(2, layers=2, width=8))
    >>> ae = models.Autoencoder(encoder, decoder, prior, likelihoods.Gaussian())
    >>> game = objectives.LatentGame(ae, objectives.BilevelELBO(beta=0.0))
    >>> rows = Trainer(game, data.digits(), phases=[Phase("joint", 1)], progress=False).fit()
    >>> rows[-1]["step"]
    14
    """

    def __init__(
        self,
        game: Game,
        data: ImageData,
        *,
        phases: Sequence[Phase],
        prior_phase: PriorPhase | None = None,
        decoder_code_noise: float = 0.0,
        batch_size: int = 100,
        prior_batch_size: int | None = None,
        lr: float = 1e-4,
        lr_of: Mapping[str, float] | None = None,
        optimizers: Mapping[str, Mapping[str, Any]] | None = None,
        schedule: Schedule | None = None,
        schedules: Mapping[str, Schedule] | None = None,
        validation: float | None = 0.0,
        seed: int = 0,
        directory: str | Path | None = None,
        device: str = "auto",
        devices: int = 1,
        nodes: int = 1,
        sync_batch_norm: bool = False,
        threads: Threads = "auto",
        precision: str = "32",
        memory_format: str = "contiguous",
        compile: str = "auto",
        report_every: int = 50,
        evaluations: int = 10,
        evaluation_images: int = 1000,
        save_minutes: float = 3.0,
        callbacks: Sequence[Callback] = (),
        on_row: Callable[[Mapping[str, Any]], None] = lambda row: None,
        progress: bool = True,
        log: Callable[[str], None] = lambda line: None,
    ) -> None:
        check_shares(devices, nodes, batch_size, prior_batch_size or batch_size)
        self.fabric = make_fabric(device, precision, devices, nodes)
        self.processes = Processes(self.fabric, sync_batch_norm=sync_batch_norm)
        if self.processes.rank:
            directory, callbacks = None, ()
        log = self.processes.only_first(log)
        self.threads = threads
        self.precision = precision
        self.layout = layouts.memory_format(memory_format)
        self.step_factory = make_factory(compile, log, self.fabric.device, self.processes)
        self.game = game
        self.seed = seed
        self.lr = lr
        self.lr_of = dict(lr_of or {})
        self.optimizer_options = dict(optimizers or {})
        check_options(self.optimizer_options, game.players())
        self.schedule = schedule or Constant()
        self.schedules = dict(schedules or {})
        check_players("schedules", self.schedules, game.players())
        self.prior_phase = prior_phase or PriorPhase()
        self.decoder_code_noise = check_code_noise(decoder_code_noise)

        # minibatches to train on, and splits to score
        train, held_out = data.hold_out(validation)
        sizes = {"prior_only": prior_batch_size or batch_size}
        check_data(train, held_out, data.test, self.prior_phase)
        splits = {"train": train, "validation": held_out, "test": data.test}
        target = self.fabric.device
        self.splits = {name: s.to(target) for name, s in splits.items() if len(s)}
        self.images = image_batches(self.splits["train"], batch_size, seed=seed, device=target)
        check_batches(game, batch_size, sizes["prior_only"], len(train))
        self.spans, self._notes = lay_out(game, phases, lambda name: sizes.get(name, batch_size), len(train))

        # reports and checkpoints
        self.report_every = report_every
        self.evaluations = evaluations
        self.on_row = self.processes.only_first(on_row)
        self.log = log
        self.show_progress = progress and self.processes.rank == 0
        self.directory = None if directory is None else Path(directory)
        self.saver = Saver(self.directory, save_minutes)
        self.window = Window(game.fault)
        self.scoring = Scoring(
            game, self.splits, self.fabric, seed=seed, images=evaluation_images, callbacks=callbacks
        )

        # where training stands
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        self.step = 0
        self.stopped = False
        self.prior_only: PriorOnly | None = None  # while such a phase is under way
        self.prior_state: dict[str, Any] = {}

    @property
    def total_steps(self) -> int:
        """Steps of all phases, if none stops early."""
        return self.spans[-1].stop

    def fit(self) -> list[dict[str, Any]]:
        """Train to the end, from the last checkpoint if there is one; returns the rows of the metrics.

        A checkpoint of shorter phases is gone on from as well: the first phase that is now longer goes on from
        where it was, and those after it begin anew. However it ends, the game is in eval mode afterwards.

        Raises:
            TrainingDiverged: If a term or a parameter stops being finite; the last checkpoint is kept.
            Stopped: After Ctrl-C or SIGTERM, once the step is finished and saved.
            UserError: If another process trains in the directory, or the checkpoint is damaged.
        """
        with self.saver.one_writer(), untouched_generators(), pyro.validation_enabled(False):
            state = self.processes.shared(snapshots.last(self.saver))
            self.threads = settled(self.threads, state.get("threads"), self.forward, self.log)
            stop = Stop(self.log, "stops after this step")
            with limited(self.threads), matrix_products(self.precision), stop.listening():
                self.prepare(state)
                self._train(stop)
        return self.history.rows

    def forward(self) -> None:
        """Score a minibatch."""
        self.game.to(self.fabric.device)
        with eval_mode(self.game), seeded(self.seed, "threads"), self.fabric.autocast():
            self.game.score(self.images.at(0))

    def _train(self, stop: Stop) -> None:
        """All phases, or what is left of them."""
        with ProgressLine(self.spans, self.step, visible=self.show_progress) as self.bar:
            try:
                for span in self.spans:
                    self._run(span, stop)
            except TrainingDiverged as error:
                advice = self.saver.advice()
                raise TrainingDiverged(f"{error}: {advice}") from error
            finally:
                self.game.eval()

    def prepare(self, state: Mapping[str, Any]) -> None:
        """Set up what lives on the device, and go on from a checkpoint's state, unless it is empty."""
        self.game.to(self.fabric.device)
        layouts.set_layout(self.game, self.layout)
        if not self.optimizers:
            with seeded(self.seed, "initialize"):
                self.game.initialize(self.images.joined(_INITIAL))
            self.optimizers = make_optimizers(
                self.game,
                self.game.players(),
                lr=self.lr,
                lr_of=self.lr_of,
                options=self.optimizer_options,
            )

        metrics = None
        if self.directory:
            metrics = self.directory / "metrics.jsonl"
        if state:
            snapshots.restore(self, state)
        self.history = History(metrics, self.step, self.log)
        self._announce()

    def _announce(self) -> None:
        cautions = [self.game.caution(span.name, self.splits["train"]) for span in self.spans]
        for note in filter(None, [*self._notes, *cautions]):
            self.log(note)
        where = f"{self.directory}: " if self.directory else ""
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        compiled = self.step_factory.announcement
        self.log(f"{where}{self.total_steps} steps on {self.fabric.device}, {threads}{compiled}")

    def _run(self, span: Span, stop: Stop) -> None:
        """Train a phase, or the rest of it.

        Raises:
            Stopped: If a signal asked for it.
        """
        if not self.is_within(span):
            return
        batches = self.begin(span)
        batches.share = self.processes.own
        step = self.step_of(span)

        while self.is_within(span):
            # the host writes what changes, and fetches one minibatch of each stream
            step.prepare(self.step, span.progress(self.step))
            number = self.step - span.start
            inputs = [batches.at(number, i) for i in range(step.streams)]

            # the device computes
            self.window.add(step(inputs))
            if self.count(span, stop):
                words = f"stopped at step {self.step} of {self.total_steps}{self.keep()}"
                raise Stopped(words, stop.signal or signal.SIGTERM)
        self.prior_only = None

    def is_within(self, span: Span) -> bool:
        """Whether steps of a phase are left."""
        return self.step < span.stop and not self.stopped

    def count(self, span: Span, stop: Stop) -> bool:
        """Count a step that was taken, and report and save if it is time to; True if training is to stop."""
        self.clock.images += span.batch_size
        self.step += 1
        self.bar.update()
        stopping = self.processes.agree(self.step, wish=stop.signal is not None)
        if self.step % self.report_every == 0 or self.step == span.stop:
            self._report(span)
        elif stopping or self.saver.overdue():  # the next report may be far away
            self.saver.save(snapshots.take(self))
        return stopping

    def keep(self) -> str:
        """See to it that there is a checkpoint of the last step; says where, after a comma."""
        if self.saver.folder is None:
            return ""
        if self.saver.saved_step != self.step:
            self.saver.save(snapshots.take(self))
        return f", and saved in {self.saver.folder}"

    def begin(self, span: Span) -> Batches:
        """Set the game up for a phase; its minibatches, of images or of codes."""
        self.clock = Clock()
        shared: dict[str, Any] = {"seed": self.seed, "fabric": self.fabric, "log": self.log}
        if span.name == "decoder_only":
            train = self.splits["train"]
            return decoder_batches(self.game, span, train, code_noise=self.decoder_code_noise, **shared)
        if span.name != "prior_only":
            self.game.train()
            return self.images
        self.prior_only = PriorOnly(self.game, self.prior_phase, **shared)
        resumed = self.step > span.start
        return self.prior_only.begin(
            span,
            self.splits["train"],
            self.optimizers["prior"],
            held_out=lambda: self.processes.shared(self.scoring.of("validation")),
            state=self.prior_state if resumed else None,
            resumed=resumed,
        )

    def step_of(self, span: Span) -> Step:
        """The step of a phase, once training was prepared."""
        averages = self.prior_only.averages() if self.prior_only else {}
        return self.step_factory(
            span.name,
            self.game,
            span.turns,
            self.optimizers,
            self.fabric,
            seed=self.seed,
            schedule=self.schedule,
            schedules=self.schedules,
            averages=averages,
        )

    def _report(self, span: Span) -> None:
        """Write a row of the metrics, and with some of them scores and a checkpoint."""
        self.processes.average_statistics(self.game)
        row = self._row(span)
        at_end = self.step == span.stop
        save_due = (self.saver.due() or at_end) and not self.processes.rank
        score_due = span.due(self.step, self.evaluations, self.report_every)
        if self.prior_only and at_end:
            self.prior_only.keep_average()
        if score_due or save_due:
            self._score(row, at_end=at_end, score_due=score_due, save_due=save_due)

        self.history.append(row)
        self.on_row(row)
        self.bar.show(row)

        if save_due:
            self.saver.save(snapshots.take(self))
        self.clock = Clock()

    def _row(self, span: Span) -> dict[str, Any]:
        """Where training stands, and the means of its terms since the last row."""
        terms = self.processes.averaged(self.window.read(self.step))
        rate = self.lr * self.schedule(span.progress(self.step - 1))
        speed = self.clock.entries(self.history.seconds)
        return {**span.position(self.step), **terms, "lr": rate, **speed}

    def _score(self, row: dict[str, Any], *, at_end: bool, score_due: bool, save_due: bool) -> None:
        """Add scores to a row; end a prior-only phase early if they stopped rising."""
        if self.prior_only is None:
            self.scoring(row, picture_due=save_due)
            return

        with self.prior_only.scored():
            self.scoring(row, picture_due=save_due)
            if score_due:
                self.stopped = self.prior_only.observe(self.processes.shared(row))

        if self.stopped or at_end:
            row |= self.prior_only.keep_best(lambda: self.scoring(row, picture_due=True))
