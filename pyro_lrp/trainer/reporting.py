"""Reports for people: log lines, TensorBoard, the summary, closing words."""

from __future__ import annotations

import logging
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pyro_lrp.core.arguments import command_line
from pyro_lrp.core.errors import UserError
from pyro_lrp.core.terminal import shows_bars
from pyro_lrp.models import Autoencoder
from pyro_lrp.trainer.loop import Trainer
from pyro_lrp.trainer.overfitting import advice, overfitting
from pyro_lrp.trainer.scoring import Report

__all__ = ["LOG", "TensorBoard", "closing_words", "log_report", "log_to", "summarize"]

LOG = logging.getLogger("pyro_lrp")
_FINAL_TERMS = {
    "log p(x|z), test images": "test/log_likelihood",
    "log p(z), test codes": "test/log_prior",
    "log p(z), training codes": "train/log_prior",
    "KL(q(z|x) || p(z)), test": "test/kl",
}
_VERSIONS = ("pyro_lrp", "torch", "pyro-ppl", "torchvision", "lightning-fabric", "hydra-core", "numpy")


def log_report(report: Report) -> None:
    """A line for the log file; on a screen too, where the output is no terminal and so has no progress bar."""
    row = report.row
    terms = ("log_likelihood", "log_prior")
    names = [f"{split}/{term}" for split in ("train", "test") for term in terms]
    numbers = [f"{name} {row[name]:.2f}" for name in names if name in row]
    text = "  ".join(numbers)
    LOG.debug("step %d  epoch %.1f  %s  %s", row["step"], row["epoch"], row["phase"], text)


class TensorBoard:
    """Writes rows of the metrics as scalars, to ``DIR/tensorboard``."""

    def __init__(self, directory: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise UserError("logger=tensorboard needs a package: pip install tensorboard") from error
        self.directory = directory
        self._make = SummaryWriter
        self._writer: Any = None

    def __call__(self, row: Mapping[str, Any]) -> None:
        # made late, so that a refused run touches nothing; later steps are purged
        if self._writer is None:
            folder = self.directory / "tensorboard"
            self._writer = self._make(str(folder), purge_step=row["step"])
        for name, value in row.items():
            if isinstance(value, (int, float)) and name != "step":
                self._writer.add_scalar(name, value, row["step"])

    def close(self) -> None:
        """Flush what is not yet written."""
        if self._writer is not None:
            self._writer.close()


@contextmanager
def log_to(directory: Path, *, bar: bool = True, least: int = logging.DEBUG) -> Iterator[None]:
    """Send the log to ``train.log``, and to the screen: less of it where a progress bar can be seen.

    Args:
        directory: The run directory.
        bar: Whether there is a progress bar, if the screen can show one.
        least: The least level of the lines that the screen shows.
    """
    LOG.setLevel(logging.DEBUG)
    LOG.propagate = False
    to_file = logging.FileHandler(directory / "train.log", encoding="utf-8")
    to_file.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    to_screen = logging.StreamHandler()
    to_screen.setLevel(least)
    if bar and shows_bars():
        to_screen.setLevel(max(least, logging.INFO))
    LOG.handlers = [to_file, to_screen]
    try:
        yield
    finally:
        LOG.handlers = []
        to_file.close()


def summarize(
    trainer: Trainer, autoencoder: Autoencoder, rows: list[dict[str, Any]], circumstances: dict[str, Any]
) -> dict[str, Any]:
    """The content of ``summary.json``; ``final`` is the last row with the scores of whole splits."""
    device = trainer.fabric.device
    players = trainer.game.players()
    final = rows[-1] if rows else {}
    scores, images = trainer.scoring.whole()
    last = {row["phase"]: row for row in rows}
    speeds = {phase: row["images_per_second"] for phase, row in last.items()}
    return {
        "final": {**final, **scores},
        "scored_images": images,
        "after_phase": last,
        "overfitting": overfitting(rows, _phases_of_the_prior(trainer)),
        "log_likelihood_unit": autoencoder.likelihood.unit,
        "seconds": final.get("seconds", 0.0),
        "images_per_second": speeds,
        "parameters": {name: _count(player) for name, player in players.items()},
        "prior": autoencoder.prior.record(),
        "circumstances": {
            **circumstances,
            "device": str(device),
            "device_name": _device_name(device),
            "threads": trainer.threads,
            **trainer.step_factory.used(),
            "platform": platform.platform(),
        },
        "versions": {
            "python": platform.python_version(),
            **{name: _version(name) for name in _VERSIONS},
        },
    }


def _phases_of_the_prior(trainer: Trainer) -> set[str]:
    """The names of the phases in which the prior learns."""
    return {span.name for span in trainer.spans if any("prior" in turn.moves for turn in span.turns)}


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return platform.processor() or device.type


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def closing_words(
    directory: Path,
    summary: dict[str, Any],
    options: Mapping[str, Any],
    asking: Mapping[str, Any] | None = None,
) -> str:
    """The last lines on the screen: how it went, where the picture is, what to try next.

    Args:
        directory: The run's directory.
        summary: The result of :func:`summarize`.
        options: Options that other commands need for this run, by key; None is left out.
        asking: Options that ask ``sample`` for contexts, of a conditional prior.
    """
    final = summary["final"]
    lines = []
    for label, key in _FINAL_TERMS.items():
        if final.get(key) is None:  # a deterministic encoder has no KL
            continue
        unit = "nats"
        if key == "test/log_likelihood":
            unit = summary["log_likelihood_unit"]
        lines.append(f"  {label:<28}{final[key]:>12.2f} {unit}")

    counts = [f"{name} {n:,}" for name, n in summary["parameters"].items()]
    sample = {"run": directory, "n": 100, "temperature": 0.8, **(asking or {}), **options}
    evaluate = {"run": directory, **options}
    return "\n".join([
        f"{directory}: {final.get('step', 0)} steps in {summary['seconds']:.0f} s of training",
        *lines,
        f"  parameters                  {', '.join(counts)}",
        f"  samples of the prior        {directory / 'figures' / 'samples.png'}",
        *_warning(summary),
        "try next:",
        f"  {command_line('sample', sample)}",
        f"  {command_line('evaluate', evaluate)}",
    ])  # fmt: skip


def _warning(summary: Mapping[str, Any]) -> list[str]:
    found = summary.get("overfitting")  # which summaries of earlier runs do not have
    if found is None:
        return []
    return advice(found)
