"""Reports for people: log lines, the summary, closing words."""

from __future__ import annotations

import logging
import platform
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pyro_lrp.core.arguments import command_line
from pyro_lrp.core.terminal import shows_bars
from pyro_lrp.models import Autoencoder
from pyro_lrp.trainer.bar import ScreenHandler
from pyro_lrp.trainer.loop import Trainer
from pyro_lrp.trainer.overfitting import advice, overfitting
from pyro_lrp.trainer.scoring import Report

__all__ = ["LOG", "closing_words", "log_report", "log_to", "summarize"]

LOG = logging.getLogger("pyro_lrp")
_KL = "test/kl"
_FINAL_TERMS = {
    "log p(x|z), test images": "test/log_likelihood",
    "log p(z), test codes": "test/log_prior",
    "log p(z), training codes": "train/log_prior",
    "KL(q(z|x) || p(z)), test": _KL,
}
_NATS = [
    "  a nat is 1.44 bits; all are per image, higher is better{but}, and only runs of the same data",
    "  and likelihood compare: log p(x|z) is a density of all pixels together, which may be above 0",
]
_PICTURES = {
    "real beside generated": "overview.png",
    "samples as they formed": "progress.gif",
    "curves of these terms": "curves.png",
}
_WIDTH = 104  # columns of closing words
_VERSIONS = ("pyro_lrp", "torch", "pyro-ppl", "torchvision", "lightning-fabric", "hydra-core", "numpy")


def log_report(report: Report, log: logging.Logger = LOG) -> None:
    """A line for the log file; on a screen too, where the output is no terminal and so has no progress bar."""
    row = report.row
    terms = ("log_likelihood", "log_prior")
    names = [f"{split}/{term}" for split in ("train", "test") for term in terms]
    numbers = [f"{name} {row[name]:.2f}" for name in names if name in row]
    text = "  ".join(numbers)
    log.debug("step %d  epoch %.1f  %s  %s", row["step"], row["epoch"], row["phase"], text)


@contextmanager
def log_to(
    directory: Path, *, bar: bool = True, least: int = logging.DEBUG, log: logging.Logger = LOG, label: str = ""
) -> Iterator[None]:
    """Send the log to ``train.log``, and to the screen: less of it where a progress bar can be seen.

    Args:
        directory: The run directory.
        bar: Whether there is a progress bar, if the screen can show one.
        least: The least level of the lines that the screen shows.
        log: The log.
        label: Begins each line on the screen.
    """
    log.setLevel(logging.DEBUG)
    log.propagate = False
    to_file = logging.FileHandler(directory / "train.log", encoding="utf-8")
    to_file.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    to_screen = ScreenHandler()
    to_screen.setLevel(least)
    to_screen.setFormatter(logging.Formatter(f"{label.replace('%', '%%')}%(message)s"))
    if bar and shows_bars():
        to_screen.setLevel(max(least, logging.INFO))
    log.handlers = [to_file, to_screen]
    try:
        yield
    finally:
        log.handlers = []
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
        "log_likelihood_without_error": autoencoder.likelihood.best(trainer.splits["test"].images[0].numel()),
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
    """The last lines on the screen: how it went, where the pictures are, what to try next.

    Args:
        directory: The run's directory.
        summary: The result of :func:`summarize`, and the ``prior_verdict`` in a sentence if there is one.
        options: Options that other commands need for this run, by key; None is left out.
        asking: Options that ask ``sample`` for contexts, of a conditional prior.
    """
    final = summary["final"]
    counts = [f"{name} {n:,}" for name, n in summary["parameters"].items()]
    sample = {"run": directory, "n": 100, "temperature": 0.8, **(asking or {}), **options}
    evaluate = {"run": directory, **options}
    return "\n".join([
        f"{directory}: {final.get('step', 0)} steps in {summary['seconds']:.0f} s of training",
        *_terms(summary),
        f"  parameters                  {', '.join(counts)}",
        *_pictures(directory),
        *_verdict(summary),
        "try next:",
        f"  {command_line('sample', sample)}",
        f"  {command_line('evaluate', evaluate)}",
    ])  # fmt: skip


def _terms(summary: Mapping[str, Any]) -> list[str]:
    """The final terms, and what their unit is."""
    final = summary["final"]
    lines = []
    for label, key in _FINAL_TERMS.items():
        if final.get(key) is None:  # a deterministic encoder has no KL
            continue
        unit = "nats"
        remark = ""
        if key == "test/log_likelihood":
            unit = summary["log_likelihood_unit"]
            best = summary.get("log_likelihood_without_error")  # which summaries of earlier runs do not have
            if best is not None:
                remark = f"  ({best:.2f} if reconstructions had no error)"
        lines.append(f"  {label:<28}{final[key]:>12.2f} {unit}{remark}")
    but = ""
    if final.get(_KL) is not None:
        but = " but for the KL"
    if lines:
        lines += [line.format(but=but) for line in _NATS]
    return lines


def _pictures(directory: Path) -> list[str]:
    """The pictures that there are, and the folder of previews."""
    figures = directory / "figures"
    lines = [f"  samples of the prior        {figures / 'samples.png'}"]
    for label, name in _PICTURES.items():
        if (figures / name).is_file():
            lines.append(f"  {label:<28}{figures / name}")
    lines.append(f"  previews through training   {directory / 'samples'}")
    return lines


def _verdict(summary: Mapping[str, Any]) -> list[str]:
    """Whether the prior over- or under-fits, as its codes and the curves show."""
    lines = []
    found = summary.get("prior_verdict")
    if found is not None:
        lines = textwrap.wrap(found["sentence"], _WIDTH, initial_indent="  ", subsequent_indent="    ")
    if summary.get("overfitting") is not None:
        lines += advice(summary["overfitting"])
    return lines
