"""One loop that hands out turns. It knows players, optimizers, devices and files, and not one formula.

Everything random in step s is drawn after seeding with ``(seed, s)``; every schedule is a function of s and so
is the order of the data. A checkpoint needs parameters, optimizer moments and s, and a resumed run is bit for
bit the run that was never stopped.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pyro
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from pyro_lrp.core import checkpoint
from pyro_lrp.core.errors import TrainingDiverged, UserError
from pyro_lrp.core.modules import eval_mode
from pyro_lrp.core.randomness import derive_seed, seeded, untouched_generators
from pyro_lrp.data import Batches, ImageData, Split, chunks
from pyro_lrp.models import Codes
from pyro_lrp.objectives import Game
from pyro_lrp.schedules import Constant, Phase, Schedule
from pyro_lrp.trainer.devices import make_fabric
from pyro_lrp.trainer.history import History
from pyro_lrp.trainer.optimizers import check_options, make_optimizers, set_rate
from pyro_lrp.trainer.phases import Span, lay_out
from pyro_lrp.trainer.prior_phase import Averages, EarlyStop, PriorPhase, assign, held_out_score
from pyro_lrp.trainer.report import Callback, Report

__all__ = ["Trainer"]


class Trainer:
    """Trains a game on a data set.

    Args:
        game: Every module that learns, and the losses.
        data: Its training images are trained on, a share of them is held out; test images are only scored.
        phases: In order; a phase in which the game has nothing to move is skipped.
        prior_phase: What a prior-only phase does besides descending its loss.
        batch_size: Images of a minibatch.
        prior_batch_size: Codes of a minibatch in ``prior_only``; ``batch_size`` if None.
        lr: Of Adam, for every player.
        lr_of: Other rates, by prefix of a parameter's name within the game.
        optimizers: Options of Adam for single players, by name: ``lr``, ``betas``, ``eps``, ``weight_decay``.
        schedule: Factor of the rates over time.
        validation: Share of the training images that is held out.
        seed: Of data order, noise and evaluation, which are separate streams.
        directory: Where checkpoints and ``metrics.jsonl`` go, and are resumed from; nowhere if None.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``.
        precision: ``"32"``, or ``"bf16-mixed"``, under which densities stay in float32.
        report_every: Steps between rows of the metrics.
        evaluations: Evenly spaced scorings of all splits in a phase.
        evaluation_images: Images of a split that are scored; the last scoring of a phase takes all.
        save_minutes: Between checkpoints, which come with a report; where steps are so slow that none is near,
            one is made. They are also written at the end of a phase. With 0 each report is saved.
        callbacks: Called after each evaluation; what they return joins the row.
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
        batch_size: int = 100,
        prior_batch_size: int | None = None,
        lr: float = 1e-4,
        lr_of: Mapping[str, float] | None = None,
        optimizers: Mapping[str, Mapping[str, Any]] | None = None,
        schedule: Schedule | None = None,
        validation: float = 0.0,
        seed: int = 0,
        directory: str | Path | None = None,
        device: str = "auto",
        precision: str = "32",
        report_every: int = 50,
        evaluations: int = 10,
        evaluation_images: int = 1000,
        save_minutes: float = 3.0,
        callbacks: Sequence[Callback] = (),
        on_row: Callable[[Mapping[str, Any]], None] = lambda row: None,
        progress: bool = True,
        log: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.fabric = make_fabric(device, precision)
        self.game = game
        self.seed, self.lr, self.lr_of = seed, lr, dict(lr_of or {})
        self.optimizer_options = dict(optimizers or {})
        check_options(self.optimizer_options, game.players())
        self.schedule = schedule or Constant()
        self.report_every, self.evaluations = report_every, evaluations
        self.evaluation_images, self.save_minutes = evaluation_images, save_minutes
        self.callbacks, self.on_row = callbacks, on_row
        self.show_progress, self.log = progress, log
        self.directory = None if directory is None else Path(directory)

        train, held_out = data.hold_out(validation)
        splits = {"train": train, "validation": held_out, "test": data.test}
        if not len(train) or not len(data.test):
            raise UserError("data: there must be training images, besides the held-out ones, and test images")
        self.splits = {name: s.to(self.fabric.device) for name, s in splits.items() if len(s)}
        self.images = Batches(
            self.splits["train"], batch_size, seed=seed, fetch=Split.batch, device=self.fabric.device
        )
        self.prior_batch_size = prior_batch_size or batch_size
        normalized = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in game.modules())
        if batch_size == 1 and normalized:
            raise UserError("batch_size must be at least 2 for a network with batch normalization")
        if self.prior_batch_size > len(train):
            raise UserError(f"prior_batch_size must be at most the {len(train)} images there are")
        self.prior_phase = prior_phase or PriorPhase()
        if self.prior_phase.patience is not None and not len(held_out):
            raise UserError("prior_patience needs held-out codes: data.validation must be above 0")
        sizes = {"prior_only": self.prior_batch_size}
        self.spans, self._notes = lay_out(game, phases, lambda name: sizes.get(name, batch_size), len(train))
        self.step = 0
        self.averages: Averages | None = None
        self.early_stop: EarlyStop | None = None
        self.stopped = False
        self._prior_state: dict[str, Any] = {}
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        self._last_save, self._save_seconds = time.monotonic(), 0.0
        self._window: list[tuple[list[str], Tensor]] = []

    @property
    def total_steps(self) -> int:
        return self.spans[-1].stop

    def fit(self) -> list[dict[str, Any]]:
        """Train to the end, from the last checkpoint if there is one; returns the rows of the metrics.

        Raises:
            TrainingDiverged: If a term or a parameter stops being finite; the last checkpoint is kept.
        """
        with untouched_generators(), pyro.validation_enabled(False):
            self._prepare()
            for note in self._notes:
                self.log(note)
            where = "" if self.directory is None else f"{self.directory}: "
            self.log(f"{where}{self.total_steps} steps on {self.fabric.device}")
            with tqdm(
                total=self.total_steps, initial=self.step, disable=None if self.show_progress else True,
                unit="step", dynamic_ncols=True, mininterval=0.5, leave=False,
            ) as self.bar:  # fmt: skip
                for span in self.spans:
                    if self.step < span.stop and not self.stopped:
                        self._run(span)
        return self.history.rows

    def _prepare(self) -> None:
        self.game.to(self.fabric.device)
        if not self.optimizers:
            with seeded(self.seed, "initialize"):
                self.game.initialize(self.images.at(0))
            self.optimizers = make_optimizers(
                self.game, self.game.players(), lr=self.lr, lr_of=self.lr_of, options=self.optimizer_options,
                fused=self.fabric.device.type in ("cpu", "cuda"),
            )  # fmt: skip
        if self.directory:
            self.directory.mkdir(parents=True, exist_ok=True)
            self.step = self._restore()
        self.history = History(self.directory / "metrics.jsonl" if self.directory else None, self.step)
        self._clock = time.perf_counter()
        self._images_since_report = 0

    def _run(self, span: Span) -> None:
        self.game.train()
        self.bar.set_description(span.name)
        self._clock = time.perf_counter()
        batches = self._begin_prior_only(span) if span.name == "prior_only" else self.images
        while self.step < span.stop and not self.stopped:
            self._train_step(span, batches)
            self.step += 1
            self.bar.update()
            on_time = self.step % self.report_every == 0 or self.step == span.stop
            if on_time or self._save_is_overdue():
                self._report(span, on_time=on_time)

    def _save_is_overdue(self) -> bool:
        """Whether steps are too slow to wait for a report; saves take a tenth of the time at most."""
        patience = max(60 * self.save_minutes, 10 * self._save_seconds) if self.save_minutes else math.inf
        return self.directory is not None and time.monotonic() - self._last_save > patience

    def _begin_prior_only(self, span: Span) -> Batches:
        """What the phase sees. At its first step the prior may estimate itself from that."""
        if self.prior_phase != PriorPhase():
            self.log(f"prior_only: {self.prior_phase}")
        batches = self._codes(span)
        prior = self.game.players()["prior"]
        if self.step == span.start and not isinstance(batches.source, Split):
            with seeded(self.seed, "fit"):
                estimated = self.game.fit(batches.source)
            if estimated:  # moments of the parameters that were mean nothing to those that are
                self.optimizers["prior"].state.clear()
                seconds = time.perf_counter() - self._clock
                told = ", ".join(f"{key} {value}" for key, value in estimated.items())
                self.log(f"the prior's own fit to {len(batches)} codes: {told} ({seconds:.1f} s)")
        if self.prior_phase.ema:
            self.averages = Averages(prior, self.prior_phase.ema)
        if self.prior_phase.patience is not None:
            self.early_stop = EarlyStop(prior, self.prior_phase.patience)
        if self.averages and self._prior_state:
            assign(self.averages.values, self._prior_state["averages"])
        if self.early_stop and self._prior_state:
            self.early_stop.load(self._prior_state["early_stop"])
        return batches

    def _train_step(self, span: Span, batches: Batches) -> None:
        progress = span.progress(self.step)
        factor = self.schedule(progress)
        self.game.advance(progress)
        torch.manual_seed(derive_seed(self.seed, "noise", self.step))
        memo: dict[str, Any] = {}
        terms: dict[str, Tensor] = {}
        for turn in span.turns:
            inputs = [batches.at(self.step - span.start, stream) for stream in range(turn.batches)]
            with self.fabric.autocast():
                losses = self.game(turn.name, inputs, memo)
            movers = [self.optimizers[player] for player in turn.moves]
            for optimizer in movers:
                optimizer.zero_grad(set_to_none=True)
            self.fabric.backward(losses.loss)
            for optimizer in movers:
                set_rate(optimizer, factor)
                optimizer.step()
            if self.averages and "prior" in turn.moves:
                self.averages.update()
            name = "loss" if len(span.turns) == 1 else f"{turn.name}_loss"
            terms |= {name: losses.loss.detach(), **losses.terms}
        self._images_since_report += span.batch_size
        self._window.append((list(terms), torch.stack([t.float() for t in terms.values()])))

    def _codes(self, span: Span) -> Batches:
        """What the prior-only phase sees: codes of all training images where the game has them, else images."""
        self.game.eval()
        train = self.splits["train"]
        with torch.no_grad(), self.fabric.autocast(), seeded(self.seed, "codes"):
            codes = self.game.codes(train)
            source = train if codes is None else codes.noised(self.prior_phase.code_noise)
        players = self.game.players()
        for player in {name for turn in span.turns for name in turn.moves}:
            players[player].train()
        fetch = Split.batch if codes is None else type(codes).rows
        return Batches(
            source, span.batch_size, seed=derive_seed(self.seed, span.name), fetch=fetch, length=len(train),
            device=self.fabric.device,
        )  # fmt: skip

    def _report(self, span: Span, *, on_time: bool) -> None:
        terms = self._read_window()
        seconds = time.perf_counter() - self._clock
        row: dict[str, Any] = {
            "step": self.step,
            "images_seen": span.first_image + (self.step - span.start) * span.batch_size,
            "epoch": round(span.first_epoch + (self.step - span.start) / span.steps_per_epoch, 4),
            "phase": span.name,
            **terms,
            "lr": self.lr * self.schedule(span.progress(self.step - 1)),
            "images_per_second": round(self._images_since_report / max(seconds, 1e-9), 1),
            "seconds": round(self.history.seconds + seconds, 3),
        }
        begun = time.monotonic()
        save_due = self.step == span.stop or begun - self._last_save > 60 * self.save_minutes
        if self.averages and self.step == span.stop:
            assign(self.averages.parameters, self.averages.values)
        scored = on_time and span.due(self.step, self.evaluations, self.report_every)
        if scored or save_due:
            with self.averages.applied() if self.averages else nullcontext():
                self._evaluate(span, row, save_due=save_due)
                stop = scored and self.early_stop is not None and self.early_stop.observe(held_out_score(row))
            self._finish_early(span, row, stop=stop)
        self.history.append(row)
        self.on_row(row)
        shown: dict[str, Any] = {k: f"{row[k]:.2f}" for k in ("log_likelihood", "log_prior") if k in row}
        self.bar.set_postfix(shown | {"images/s": str(round(row["images_per_second"]))})
        if save_due and self.directory:
            self._save()
            self._last_save = time.monotonic()
        if scored or save_due:
            self._save_seconds = time.monotonic() - begun
        self._images_since_report, self._clock = 0, time.perf_counter()

    def _read_window(self) -> dict[str, float]:
        """Means of the terms since the last report: the only moment at which the host waits for the device."""
        names = self._window[0][0]
        values = torch.stack([row for _, row in self._window]).cpu().double()
        first = self.step - len(self._window)
        self._window = []
        if not torch.isfinite(values).all():
            step, column = (~torch.isfinite(values)).nonzero()[0].tolist()
            raise TrainingDiverged(
                f"{names[column]} is {values[step, column].item()} at step {first + step + 1}: {self._kept()}"
            )
        return dict(zip(names, values.mean(0).tolist(), strict=True))

    def _finish_early(self, span: Span, row: dict[str, Any], *, stop: bool) -> None:
        """End the phase if it is time to, and leave it with the parameters that scored best."""
        if self.early_stop is None or not (stop or self.step == span.stop):
            return
        self.stopped = stop
        if self.early_stop.since:
            self.early_stop.restore()
            self._evaluate(span, row, save_due=True)
        row["best_held_out_score"] = self.early_stop.best
        if stop:
            self.log(f"prior_only stops at step {self.step}: {self.early_stop.since} scorings were no better")

    @torch.no_grad()
    def _evaluate(self, span: Span, row: dict[str, Any], *, save_due: bool) -> None:
        """Score every split, and add what callbacks measure. The terms of training itself are running means."""
        limit = None if self.step == span.stop or self.stopped else self.evaluation_images
        with eval_mode(self.game), seeded(self.seed, "evaluation"), self.fabric.autocast():
            for name, split in self.splits.items():
                # as many training images as there are others: enough to see a gap
                most = min(limit or len(split), max(len(self.splits["test"]), 1000))
                row.update({f"{name}/{k}": v for k, v in self._score(split[:most]).items()})
            for callback in self.callbacks:
                added = callback(Report(self.game, self.step, span.name, save_due, row))
                row.update(added or {})

    def _score(self, split: Split) -> dict[str, float]:
        totals: dict[str, Tensor] = {}
        codes: list[Codes] = []
        for batch in chunks(split):
            for name, value in self.game.score(batch).items():
                totals[name] = totals.get(name, torch.zeros(())).to(value) + value * len(batch.x)
            part = self.game.codes(batch)
            if isinstance(part, Codes):
                codes.append(part)
        row = {name: (total / len(split)).item() for name, total in totals.items()}
        if codes:
            loc, scale, _ = Codes.joined(codes)
            loc, scale = loc.flatten(1), scale.flatten(1)
            deviation = (loc.var(0, correction=0) + scale.square().mean(0)).sqrt().mean().item()
            row |= {"encoder_scale": scale.mean().item(), "code_std": deviation}
            row["relative_scale"] = row["encoder_scale"] / max(deviation, 1e-30)
        return row

    def _save(self) -> None:
        for name, tensor in self.game.state_dict().items():
            if not torch.isfinite(tensor).all():
                raise TrainingDiverged(f"{name} is not finite after step {self.step}: {self._kept()}")
        moments = {name: optimizer.state_dict()["state"] for name, optimizer in self.optimizers.items()}
        state = {"step": self.step, "game": self.game.state_dict(), "optimizers": moments}
        if self.averages or self.early_stop:
            averages = self.averages.values if self.averages else []
            early_stop = self.early_stop.state() if self.early_stop else {}
            state["prior"] = {"averages": averages, "early_stop": early_stop, "stopped": self.stopped}
        assert self.directory is not None
        checkpoint.rotate_and_save(self.directory / "checkpoints", state)

    def _kept(self) -> str:
        path = None if self.directory is None else checkpoint.latest(self.directory / "checkpoints")
        kept = "no checkpoint was written yet" if path is None else "the last good checkpoint is kept"
        return f"training stops, {kept} (a smaller lr, or another seed, may help)"

    def _restore(self) -> int:
        assert self.directory is not None
        path = checkpoint.latest(self.directory / "checkpoints")
        if path is None:
            return 0
        state = checkpoint.load_to_resume(path)
        checkpoint.load_into(self.game, state.get("game", {}), path)
        for name, optimizer in self.optimizers.items():
            whole = optimizer.state_dict()
            whole["state"] = {int(index): moments for index, moments in state["optimizers"][name].items()}
            optimizer.load_state_dict(whole)
        if state["step"] > self.total_steps:
            raise UserError(
                f"checkpoint {path} is at step {state['step']}, past the {self.total_steps} asked for"
            )
        self._prior_state = state.get("prior", {})
        self.stopped = self._prior_state.get("stopped", False)
        self.log(f"resumes at step {state['step']} of {self.total_steps}, from {path.name}")
        return state["step"]
