"""``python -m pyro_lrp.train``: train a run, resume it, or report that it is complete.

``pyro_lrp.train("data=digits", "beta=0")`` does the same in Python.
"""

from __future__ import annotations

import logging
import shlex
import shutil
import sys
import textwrap
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from pyro_lrp import config
from pyro_lrp.config.alike import groups_alike, joint
from pyro_lrp.config.command import WIDTH, Command
from pyro_lrp.core.errors import UserError

if TYPE_CHECKING:  # torch is imported when a run begins: --help does not wait for it
    from pyro_lrp.data import ImageData
    from pyro_lrp.trainer import Trainer

SUMMARY = "summary.json"
_JUDGED = 100  # steps, and images of a split, at least, for a word on whether the prior fits


class Training(Command):
    """The command: a configuration is planned, and trained or resumed."""

    def __init__(self) -> None:
        super().__init__("train", _train_one)

    def member(self, cfg: DictConfig, *, parallel: bool) -> str:
        """Train a member of a sweep, or find that it is trained."""
        plan = config.plan(cfg)
        begun = time.monotonic()
        if (plan.directory / SUMMARY).is_file():
            run_plan(plan, least=logging.WARNING, words=False)
            return f"{plan.directory} is trained"
        run_plan(plan, least=logging.INFO if parallel else logging.DEBUG, words=False)
        seconds = time.monotonic() - begun
        return f"{plan.directory} is trained now, in {seconds:.0f} s"

    def joint_plan(self, cfg: DictConfig) -> config.Plan | None:
        """The plan of a member that asks to be trained as one with others."""
        plan = config.plan(cfg)
        return plan if joint(plan) else None

    def together(self, plans: Mapping[str, config.Plan]) -> Iterator[tuple[str, Exception | None]]:
        """Train members of one shape as one computation, group after group; a member that is alone is left."""
        for names in groups_alike(plans):
            if len(names) > 1:
                listed = textwrap.shorten(", ".join(names), WIDTH, placeholder=" ...")
                print(f"{len(names)} members as one computation: {listed}", flush=True)
                yield from _train_together({name: plans[name] for name in names}).items()

    def directory(self, cfg: DictConfig) -> Path:
        """The run directory of a member."""
        return config.plan(cfg).directory

    def seems_complete(self, cfg: DictConfig) -> bool:
        """Whether there is a summary of the run, and results of the metrics that were asked for."""
        plan = config.plan(cfg)
        anew = plan.circumstances["overwrite"] or plan.circumstances["extend"]
        if anew or not (plan.directory / SUMMARY).is_file():
            return False
        metrics = plan.circumstances["evaluate_with"]
        if metrics is None:
            return True
        from pyro_lrp.config.evaluating import has_results

        return has_results(plan.directory, metrics)

    def finish(self, directories: list[Path]) -> None:
        """Print the table of a sweep, and the command that makes a report of it."""
        if not directories:
            return
        from pyro_lrp import reports

        collection = reports.collect(directories)
        if not collection.runs:
            return
        table = reports.summarize(collection)
        print(reports.terminal(table, shutil.get_terminal_size((WIDTH, 24)).columns))
        parents = dict.fromkeys(str(directory.parent) for directory in directories)
        words = ["python", "-m", "pyro_lrp.report", *parents]
        print(f"curves and samples:\n  {shlex.join(words)}")


def _train_one(cfg: DictConfig) -> None:
    """Train or resume the run of a configuration."""
    plan = config.plan(cfg)
    if plan.circumstances["parallel"]:
        raise UserError("parallel=batched is for the members of a sweep, such as -m seed=0,1,2")
    run_plan(plan)


main = Training()


def train(*overrides: str, config_dir: str | Path | None = None) -> config.Run:
    """Train a run from Python, as the command does, or resume it.

    Args:
        *overrides: What is typed after the command: ``"data=digits"``, ``"beta=0"``, ``"progress=false"``.
        config_dir: A folder of your own configuration files, as of the flag ``--config-dir``.

    Returns:
        The trained run.

    Raises:
        UserError: Where the command would print an error.
    """
    return run_plan(config.compose_train(*overrides, config_dir=config_dir))


def run_plan(plan: config.Plan, *, least: int = logging.DEBUG, words: bool = True) -> config.Run:
    """Build the run of a plan, and write to its directory only when that succeeded; returns the trained run.

    Args:
        plan: The plan.
        least: The least level of the lines of the log that the screen shows. Steps are ``logging.DEBUG``.
        words: Whether to print closing words.

    Returns:
        The trained run.
    """
    from pyro_lrp.trainer import reporting
    from pyro_lrp.trainer.reporting import LOG

    prepared = _Prepared(plan, LOG, progress=plan.circumstances["progress"] and least == logging.DEBUG)
    run = prepared.run
    if prepared.trainer.processes.rank:
        _follow(prepared.trainer)
        return run
    with prepared.claimed(least=least):
        summary = prepared.train()
    if words:
        asking = run.condition.example()
        print(reporting.closing_words(run.directory, summary, _options(run), asking))
    return prepared.evaluated()


class _Prepared:
    """A run that is ready to be trained; nothing is written before :meth:`claimed`.

    Args:
        plan: Its plan.
        log: Receives its lines.
        progress: Whether to show how training goes on.
        data: Its data set, if it was read before.
    """

    def __init__(
        self, plan: config.Plan, log: logging.Logger, *, progress: bool, data: ImageData | None = None
    ) -> None:
        from pyro_lrp.figures.training import SamplePictures
        from pyro_lrp.trainer import reporting
        from pyro_lrp.trainer.loggers import make_logger

        self.plan = plan
        self.log = log
        self.circumstances = {**plan.circumstances, "progress": progress}
        self.run = config.Run.planned(plan, data)
        run = self.run
        _refuse_uncomputable_metrics(run, self.circumstances)
        self.likelihood = run.prepare_likelihood(self.circumstances["weights"])
        self.logger = make_logger(self.circumstances["logger"], run.directory)
        pictures = SamplePictures(
            run.directory,
            run.settings.seed,
            run.data.train.context,
            run.condition,
            on_picture=partial(self.logger.picture, "samples"),
        )
        self.trainer = run.trainer(
            self.circumstances,
            log=log.info,
            callbacks=[pictures, partial(reporting.log_report, log=log)],
            on_row=self.logger.row,
        )

    @contextmanager
    def claimed(self, *, least: int, label: str = "") -> Iterator[None]:
        """Hold the run directory within the block, write the log there, and begin it with notes on the data.

        Args:
            least: The least level of the lines of the log that the screen shows.
            label: Begins each of them.
        """
        from pyro_lrp.trainer import reporting

        asked = self.circumstances
        bar = asked["progress"]
        with (
            closing(self.logger),
            self.run.claimed(overwrite=asked["overwrite"], extend=asked["extend"]),
            reporting.log_to(self.run.directory, bar=bar, least=least, log=self.log, label=label),
        ):
            if self.likelihood:
                words = ", ".join(f"{key} {value}" for key, value in self.likelihood.items())
                self.log.info("likelihood: %s", words)
            for note in self.run.data.notes:
                self.log.info("data: %s", note)
            yield

    @property
    def summary(self) -> dict[str, Any] | None:
        """The summary of a run that is trained already."""
        from pyro_lrp.config import rundir

        return rundir.read_summary(self.run.directory)

    def train(self) -> dict[str, Any]:
        """Train the run unless it is complete; returns its summary."""
        summary = self.summary
        self.trainer.processes.shared(summary is None)  # the others wait to be told
        if summary is not None:
            directory = self.run.directory
            self.log.info(
                "%s is already trained: nothing is left to do (overwrite=true starts anew)", directory
            )
            return summary
        self.logger.begin(self.run.identity)
        self.trainer.fit()
        return self.conclude()

    def conclude(self) -> dict[str, Any]:
        """Draw and sum up what came out of a training, and write that; returns the summary."""
        from pyro_lrp.core.files import write_json
        from pyro_lrp.figures.training import draw_training
        from pyro_lrp.trainer import reporting

        run = self.run
        trainer = self.trainer
        rows = trainer.history.rows
        summary = reporting.summarize(trainer, run.autoencoder, rows, self.plan.circumstances)
        summary["prior_verdict"] = _verdict(run, trainer)
        picture = draw_training(run.directory, trainer.game, trainer.splits["test"], run.settings.seed)
        self.logger.picture("overview", trainer.step, picture)
        write_json(run.directory / SUMMARY, summary)
        return summary

    def evaluated(self) -> config.Run:
        """The trained run, once the metrics that were asked for are computed."""
        run = self.run
        trained = config.Run(
            run.directory.absolute(),
            device=self.circumstances["device"],
            places=run.typed,
            allow_targets=run.typed_targets,
        )
        _evaluate(trained, self.circumstances)
        return trained


def _train_together(plans: Mapping[str, config.Plan]) -> dict[str, Exception | None]:
    """Train runs of one shape and one data set as one computation; returns what went wrong, by name.

    Args:
        plans: By name.
    """
    from pyro_lrp.trainer.together import Together, keep_weights_in_tensors

    first = next(iter(plans.values()))
    data = config.planned_data(first)
    errors: dict[str, Exception | None] = {}
    prepared: dict[str, _Prepared] = {}
    with ExitStack() as stack:
        for name, plan in plans.items():
            try:
                one = _Prepared(plan, logging.Logger(name), progress=False, data=data)
                stack.enter_context(one.claimed(least=logging.WARNING, label=f"{name} | "))
            except (UserError, OSError) as error:
                errors[name] = error
                continue
            prepared[name] = one
        left = {name: one.trainer for name, one in prepared.items() if one.summary is None}
        for name in left:
            prepared[name].logger.begin(prepared[name].run.identity)
        if left:
            keep_weights_in_tensors([trainer.game for trainer in left.values()])
            say = partial(print, flush=True)
            together = Together(left, progress=first.circumstances["progress"], log=say)
            together.fit()
            errors |= together.errors
        going_well = [name for name in prepared if name not in errors]
        for name in going_well:
            if name in left:
                prepared[name].conclude()
    for name in going_well:
        prepared[name].evaluated()
        errors[name] = None
    return {name: errors[name] for name in plans}


def _follow(trainer: Trainer) -> None:
    """Train with the first process, which alone writes and prints, if it finds that something is left to do."""
    from pyro_lrp.core.stopping import Stopped

    with suppress(Stopped):
        if trainer.processes.shared(None):
            trainer.fit()


def _refuse_uncomputable_metrics(run: config.Run, circumstances: dict[str, Any]) -> None:
    """Refuse metrics that the model or the data of a planned run do not admit."""
    metrics = circumstances["evaluate_with"]
    if metrics is None:
        return
    from pyro_lrp.metrics import Subject
    from pyro_lrp.metrics.evaluation import refuse_uncomputable

    weights = circumstances["weights"]
    subject = Subject(run.autoencoder, run.data, weights=weights, directory=run.directory)
    refuse_uncomputable(subject, metrics, "evaluate_with")


def _evaluate(run: config.Run, circumstances: dict[str, Any]) -> None:
    """Compute the metrics that were asked for with the training, as the command ``evaluate`` would."""
    metrics = circumstances["evaluate_with"]
    if metrics is None:
        return
    from pyro_lrp.config.evaluating import evaluate_run
    from pyro_lrp.trainer.threads import use

    use(circumstances["threads"])
    evaluate_run(
        run,
        metrics,
        key="evaluate_with",
        weights=circumstances["weights"],
        progress=circumstances["progress"],
    )


def _options(run: config.Run) -> dict[str, Any]:
    """The options that other commands need for this run; none if they are remembered."""
    if run.remembered:
        return {}
    places = {f"data.{key}": place for key, place in run.typed.items()}
    return {**places, "allow_targets": list(run.typed_targets) or None}


def _verdict(run: config.Run, trainer: Trainer) -> dict[str, str] | None:
    """Whether the prior over- or under-fits; None where too few codes, or too many parts of one, can say so."""
    from pyro_lrp.core.modules import eval_mode
    from pyro_lrp.core.randomness import untouched_generators
    from pyro_lrp.metrics import Subject
    from pyro_lrp.metrics.prior_gap import verdict_in_codes

    fewest = min(trainer.step, len(trainer.splits["train"]), len(trainer.splits["test"]))
    if fewest < _JUDGED or len(run.autoencoder.sites) > 1:
        return None
    device = trainer.fabric.device
    subject = Subject(run.autoencoder, run.data, trainer.splits["train"], quick=True, device=device)
    try:
        with eval_mode(run.autoencoder), untouched_generators():
            found = verdict_in_codes(subject)
    except UserError:  # few samples are finite, which the metrics say
        return None
    return {"culprit": found.culprit, "sentence": found.sentence}


class _Callable(ModuleType):
    """The class of this module, which makes ``pyro_lrp.train(...)`` a call of :func:`train`.

    The package's attribute ``train`` is this module once it is imported, and must be callable then too.
    """

    def __call__(self, *overrides: str, config_dir: str | Path | None = None) -> config.Run:
        return train(*overrides, config_dir=config_dir)


sys.modules[__name__].__class__ = _Callable

if __name__ == "__main__":
    main()
