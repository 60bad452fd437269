"""``python -m pyro_lrp.train``: train one run, resume it, or report that it is done."""

from __future__ import annotations

import logging
import math
import platform
import sys
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from pyro_lrp import config, figures, rundir
from pyro_lrp.errors import UserError
from pyro_lrp.models import Autoencoder
from pyro_lrp.randomness import seeded
from pyro_lrp.trainer import Report, Trainer

_LOG = logging.getLogger("pyro_lrp")
_PICTURED = 64
_VERSIONS = ("pyro_lrp", "torch", "pyro-ppl", "torchvision", "lightning-fabric", "hydra-core", "numpy")


@config.command("train")
def main(cfg: DictConfig) -> None:
    """Plan, build everything, and only then touch the run directory."""
    plan = config.plan(cfg)
    circumstances, directory = plan.circumstances, plan.directory
    allow = circumstances["allow_targets"]
    data = config.build_data(plan.identity, circumstances["data.root"], allow_targets=allow)
    identity = {**plan.identity, "image_shape": list(data.image_shape)}
    autoencoder = config.build_autoencoder(identity, data.image_shape, allow)
    on_row, close = _logger(circumstances["logger"], directory)
    trainer = Trainer(
        config.build_game(identity, autoencoder, allow), data, directory=directory, seed=identity["seed"],
        phases=config.phases(identity), lr=identity["lr"],
        lr_of={"autoencoder.likelihood": identity["likelihood"].get("lr") or identity["lr"]},
        batch_size=identity["batch_size"], prior_batch_size=identity["prior_batch_size"],
        validation=identity["data"]["validation"], precision=str(identity["precision"]),
        device=circumstances["device"], progress=circumstances["progress"], log=_LOG.info, on_row=on_row,
        callbacks=[_SamplePictures(autoencoder, directory, identity["seed"]), _log_report],
        save_minutes=circumstances["trainer.save_minutes"],
        **{**identity["trainer"], "schedule": config.schedule(identity)},
    )  # fmt: skip
    rundir.claim(directory, identity, overwrite=circumstances["overwrite"])
    _log_to(directory)
    summary = rundir.read_summary(directory)
    if summary is not None:
        _LOG.info("%s is already trained: nothing is left to do (overwrite=true starts anew)", directory)
    else:
        _LOG.info("%s: %d steps on %s", directory, trainer.total_steps, trainer.fabric.device)
        rows = trainer.fit()
        summary = _summary(trainer, rows, autoencoder, circumstances)
        rundir.write_json(directory / "summary.json", summary)
    close()
    print(_closing_words(directory, summary))


class _SamplePictures:
    """Draws the prior, always with the same noise: a picture when one is due, and how far samples stray."""

    def __init__(self, autoencoder: Autoencoder, directory: Path, seed: int) -> None:
        self.autoencoder, self.directory, self.seed = autoencoder, directory, seed

    def __call__(self, report: Report) -> Mapping[str, float]:
        with seeded(self.seed, "pictures"):
            draw = self.autoencoder.draw(1000)
        if report.picture_due and len(draw.images):
            picture = figures.grid(draw.images[:_PICTURED])
            figures.save_png(self.directory / "samples" / f"step_{report.step:07d}_{report.phase}.png", picture)
            figures.save_png(self.directory / "figures" / "samples.png", picture)
        largest = draw.latents.abs().max().item() if len(draw.latents) else math.inf
        return {"samples/non_finite": draw.non_finite, "samples/max_abs_z": largest}


def _log_report(report: Report) -> None:
    """A line for the log file; on a screen too, where the output is no terminal and so has no progress bar."""
    row = report.row
    shown = {
        k: row[k] for k in ("train/log_likelihood", "train/log_prior", "test/log_likelihood", "test/log_prior")
    }
    text = "  ".join(f"{name} {value:.2f}" for name, value in shown.items())
    _LOG.debug("step %d  epoch %.1f  %s  %s", row["step"], row["epoch"], row["phase"], text)


def _logger(kind: str, directory: Path) -> tuple[Callable[[Mapping[str, Any]], None], Callable[[], None]]:
    if kind == "none":
        return lambda row: None, lambda: None
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UserError("logger=tensorboard needs the package tensorboard: pip install tensorboard") from error
    writers: list[SummaryWriter] = []

    def on_row(row: Mapping[str, Any]) -> None:
        if not writers:  # made late, so that a refused run touches nothing; steps seen before are purged
            writers.append(SummaryWriter(str(directory / "tensorboard"), purge_step=row["step"]))
        for name, value in row.items():
            if isinstance(value, (int, float)) and name != "step":
                writers[0].add_scalar(name, value, row["step"])

    return on_row, lambda: [writer.close() for writer in writers] and None


def _log_to(directory: Path) -> None:
    _LOG.setLevel(logging.DEBUG)
    _LOG.propagate = False
    to_file = logging.FileHandler(directory / "train.log", encoding="utf-8")
    to_file.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    to_screen = logging.StreamHandler()
    to_screen.setLevel(logging.INFO if sys.stderr.isatty() else logging.DEBUG)
    _LOG.handlers = [to_file, to_screen]


def _summary(
    trainer: Trainer, rows: list[dict[str, Any]], autoencoder: Autoencoder, circumstances: dict[str, Any]
) -> dict[str, Any]:
    players = trainer.game.players()
    device = trainer.fabric.device
    last = {phase: row for row in rows for phase in [row["phase"]]}
    return {
        "final": rows[-1] if rows else {},
        "after_phase": last,
        "seconds": rows[-1]["seconds"] if rows else 0.0,
        "images_per_second": {phase: row["images_per_second"] for phase, row in last.items()},
        "parameters": {name: sum(p.numel() for p in player.parameters()) for name, player in players.items()},
        "circumstances": {**circumstances, "device": str(device), "device_name": _device_name(device),
                          "threads": torch.get_num_threads(), "platform": platform.platform()},
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in _VERSIONS}},
    }  # fmt: skip


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or device.type


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _closing_words(directory: Path, summary: dict[str, Any]) -> str:
    final = summary["final"]
    labels = {
        "log p(x|z), test images": "test/log_likelihood",
        "log p(z), test codes": "test/log_prior",
        "log p(z), training codes": "train/log_prior",
    }
    lines = [
        f"  {label:<28}{final[key]:>12.2f} nats" for label, key in labels.items() if final.get(key) is not None
    ]
    counts = ", ".join(f"{name} {n:,}" for name, n in summary["parameters"].items())
    return "\n".join([
        f"{directory}: {final.get('step', 0)} steps in {summary['seconds']:.0f} s of training",
        *lines,
        f"  parameters                  {counts}",
        f"  samples of the prior        {directory / 'figures' / 'samples.png'}",
        "try next:",
        f"  python -m pyro_lrp.sample run={directory} n=100 temperature=0.8",
        f"  python -m pyro_lrp.evaluate run={directory}",
    ])  # fmt: skip


if __name__ == "__main__":
    main()
