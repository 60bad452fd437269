"""``python -m pyro_lrp.train``: train one run, resume it, or report that it is done."""

from __future__ import annotations

from omegaconf import DictConfig

from pyro_lrp import config
from pyro_lrp.config import rundir
from pyro_lrp.config.command import command
from pyro_lrp.figures.training import SamplePictures
from pyro_lrp.trainer import Trainer, reporting
from pyro_lrp.trainer.reporting import LOG


@command("train")
def main(cfg: DictConfig) -> None:
    """Plan, build everything, and only then touch the run directory."""
    plan = config.plan(cfg)
    circumstances, directory = plan.circumstances, plan.directory
    allow = circumstances["allow_targets"]
    typed = {**plan.identity["data"], "root": circumstances["data.root"]}
    data = config.build_data(plan.identity, typed, allow)
    identity, data = config.settle(plan.identity, data.limited(plan.identity["data"].get("limit")))
    autoencoder = config.build_autoencoder(identity, data.image_shape, allow)
    settled = autoencoder.likelihood.prepare(circumstances["weights"])
    identity["likelihood"] |= settled
    board = reporting.TensorBoard(directory) if circumstances["logger"] == "tensorboard" else None
    trainer = Trainer(
        config.build_game(identity, autoencoder, allow), data, directory=directory, seed=identity["seed"],
        phases=config.phases(identity), prior_phase=config.prior_phase(identity), lr=identity["lr"],
        lr_of={"autoencoder.likelihood": identity["likelihood"].get("lr") or identity["lr"]},
        batch_size=identity["batch_size"], prior_batch_size=identity["prior_batch_size"],
        validation=identity["data"].get("validation", 0.0), precision=str(identity["precision"]),
        device=circumstances["device"], progress=circumstances["progress"], log=LOG.info,
        on_row=board or (lambda row: None),
        callbacks=[
            SamplePictures(directory, identity["seed"], data.train.context), reporting.log_report
        ],
        save_minutes=circumstances["trainer.save_minutes"],
        **{
            **identity["trainer"], "schedule": config.schedule(identity, allow),
            "optimizers": config.optimizers(identity),
        },
    )  # fmt: skip
    rundir.claim(directory, identity, overwrite=circumstances["overwrite"])
    with reporting.log_to(directory):
        if settled:
            LOG.info("likelihood: %s", ", ".join(f"{key} {value}" for key, value in settled.items()))
        summary = rundir.read_summary(directory)
        if summary is not None:
            LOG.info("%s is already trained: nothing is left to do (overwrite=true starts anew)", directory)
        else:
            rows = trainer.fit()
            summary = reporting.summarize(trainer, autoencoder, rows, circumstances)
            rundir.write_json(directory / "summary.json", summary)
    if board:
        board.close()
    places = {key: identity["data"].get(key) for key in config.PLACES}
    print(reporting.closing_words(directory, summary, places))


if __name__ == "__main__":
    main()
