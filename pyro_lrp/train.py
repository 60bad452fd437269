"""``python -m pyro_lrp.train``: train one run, resume it, or report that it is done."""

from __future__ import annotations

from omegaconf import DictConfig

from pyro_lrp import config
from pyro_lrp.config import rundir
from pyro_lrp.config.command import command
from pyro_lrp.core.files import write_json
from pyro_lrp.figures.training import SamplePictures
from pyro_lrp.trainer import reporting
from pyro_lrp.trainer.reporting import LOG


@command("train")
def main(cfg: DictConfig) -> None:
    """Plan, build everything, and only then touch the run directory."""
    plan = config.plan(cfg)
    circumstances, directory = plan.circumstances, plan.directory
    run = config.Run.planned(plan)
    settled = run.autoencoder.likelihood.prepare(circumstances["weights"])
    run.identity["likelihood"] |= settled
    board = reporting.TensorBoard(directory) if circumstances["logger"] == "tensorboard" else None
    pictures = SamplePictures(directory, run.identity["seed"], run.data.train.context)
    trainer = run.trainer(
        circumstances,
        log=LOG.info,
        on_row=board or (lambda row: None),
        callbacks=[pictures, reporting.log_report],
    )
    rundir.claim(directory, run.identity, overwrite=circumstances["overwrite"])
    with reporting.log_to(directory):
        if settled:
            LOG.info("likelihood: %s", ", ".join(f"{key} {value}" for key, value in settled.items()))
        summary = rundir.read_summary(directory)
        if summary is not None:
            LOG.info("%s is already trained: nothing is left to do (overwrite=true starts anew)", directory)
        else:
            rows = trainer.fit()
            summary = reporting.summarize(trainer, run.autoencoder, rows, circumstances)
            write_json(directory / "summary.json", summary)
    if board:
        board.close()
    places = {key: run.identity["data"].get(key) for key in config.PLACES}
    print(reporting.closing_words(directory, summary, places))


if __name__ == "__main__":
    main()
