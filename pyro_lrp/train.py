"""``python -m pyro_lrp.train``: train a run, resume it, or report that it is complete.

``pyro_lrp.train("data=digits", "beta=0")`` does the same in Python.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from pyro_lrp import config
from pyro_lrp.config.command import command

if TYPE_CHECKING:  # torch is imported when a run begins: --help does not wait for it
    from pyro_lrp.trainer import Trainer


@command("train")
def main(cfg: DictConfig) -> None:
    """The command."""
    run_plan(config.plan(cfg))


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


def run_plan(plan: config.Plan) -> config.Run:
    """Build the run of a plan, and write to its directory only when that succeeded; returns the trained run."""
    from pyro_lrp.figures.training import SamplePictures
    from pyro_lrp.trainer import reporting
    from pyro_lrp.trainer.reporting import LOG

    circumstances = plan.circumstances
    run = config.Run.planned(plan)
    likelihood = run.prepare_likelihood(circumstances["weights"])
    board = None
    if circumstances["logger"] == "tensorboard":
        board = reporting.TensorBoard(run.directory)
    pictures = SamplePictures(run.directory, run.settings.seed, run.data.train.context, run.condition)
    trainer = run.trainer(
        circumstances,
        log=LOG.info,
        on_row=board or (lambda row: None),
        callbacks=[pictures, reporting.log_report],
    )
    with (
        run.claimed(overwrite=circumstances["overwrite"], extend=circumstances["extend"]),
        reporting.log_to(run.directory, bar=circumstances["progress"]),
    ):
        if likelihood:
            LOG.info("likelihood: %s", ", ".join(f"{key} {value}" for key, value in likelihood.items()))
        for note in run.data.notes:
            LOG.info("data: %s", note)
        summary = _train(run, trainer, circumstances)
    if board:
        board.close()
    asking = run.condition.example()
    print(reporting.closing_words(run.directory, summary, _options(run), asking))
    return config.Run(
        run.directory.absolute(),
        device=circumstances["device"],
        places=run.typed,
        allow_targets=run.typed_targets,
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
    from pyro_lrp.core.files import write_json
    from pyro_lrp.trainer import reporting
    from pyro_lrp.trainer.reporting import LOG

    summary = rundir.read_summary(run.directory)
    if summary is not None:
        LOG.info("%s is already trained: nothing is left to do (overwrite=true starts anew)", run.directory)
        return summary
    rows = trainer.fit()
    summary = reporting.summarize(trainer, run.autoencoder, rows, circumstances)
    write_json(run.directory / "summary.json", summary)
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
