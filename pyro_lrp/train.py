"""``python -m pyro_lrp.train``: train a run, resume it, or report that it is complete.

``pyro_lrp.train("data=digits", "beta=0")`` does the same in Python.
"""

from __future__ import annotations

import logging
import shlex
import shutil
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from pyro_lrp import config
from pyro_lrp.config.command import WIDTH, Command

if TYPE_CHECKING:  # torch is imported when a run begins: --help does not wait for it
    from pyro_lrp.trainer import Trainer

SUMMARY = "summary.json"


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
    run_plan(config.plan(cfg))


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
    from pyro_lrp.config import rundir
    from pyro_lrp.figures.training import SamplePictures
    from pyro_lrp.trainer import reporting
    from pyro_lrp.trainer.reporting import LOG

    progress = plan.circumstances["progress"] and least == logging.DEBUG
    circumstances = {**plan.circumstances, "progress": progress}
    run = config.Run.planned(plan)
    _refuse_uncomputable_metrics(run, circumstances)
    likelihood = run.prepare_likelihood(circumstances["weights"])
    pictures = SamplePictures(run.directory, run.settings.seed, run.data.train.context, run.condition)
    trainer = run.trainer(
        circumstances,
        log=LOG.info,
        callbacks=[pictures, reporting.log_report],
    )
    trainer.saver.identity = rundir.stamp(run.identity)
    if trainer.processes.rank:
        _follow(trainer)
        return run
    board = None
    if circumstances["logger"] == "tensorboard":
        board = reporting.TensorBoard(run.directory)
        trainer.on_row = board
    with (
        run.claimed(overwrite=circumstances["overwrite"], extend=circumstances["extend"]),
        reporting.log_to(run.directory, bar=progress, least=least),
    ):
        if likelihood:
            LOG.info("likelihood: %s", ", ".join(f"{key} {value}" for key, value in likelihood.items()))
        for note in run.data.notes:
            LOG.info("data: %s", note)
        summary = _train(run, trainer, plan.circumstances)
    if board:
        board.close()
    if words:
        asking = run.condition.example()
        print(reporting.closing_words(run.directory, summary, _options(run), asking))
    trained = config.Run(
        run.directory.absolute(),
        device=circumstances["device"],
        places=run.typed,
        allow_targets=run.typed_targets,
    )
    _evaluate(trained, circumstances)
    return trained


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


def _train(run: config.Run, trainer: Trainer, circumstances: dict[str, Any]) -> dict[str, Any]:
    """Train the run unless it is complete; returns its summary."""
    from pyro_lrp.config import rundir
    from pyro_lrp.trainer import reporting
    from pyro_lrp.trainer.reporting import LOG

    summary = rundir.read_summary(run.directory)
    trainer.processes.shared(summary is None)  # the others wait to be told
    if summary is not None:
        LOG.info("%s is already trained: nothing is left to do (overwrite=true starts anew)", run.directory)
        return summary
    rows = trainer.fit()
    summary = reporting.summarize(trainer, run.autoencoder, rows, circumstances)
    rundir.write_summary(run.directory, summary)
    return summary


class _Callable(ModuleType):
    """The class of this module, which makes ``pyro_lrp.train(...)`` a call of :func:`train`.

    The package's attribute ``train`` is this module once it is imported, and must be callable then too.
    """

    def __call__(self, *overrides: str, config_dir: str | Path | None = None) -> config.Run:
        return train(*overrides, config_dir=config_dir)


sys.modules[__name__].__class__ = _Callable

if __name__ == "__main__":
    main()
