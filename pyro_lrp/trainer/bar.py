"""The progress bar of a training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tqdm.auto import tqdm

__all__ = ["progress_bar", "show"]


def progress_bar(total: int, done: int, *, visible: bool) -> tqdm:
    """A bar of ``total`` steps, of which ``done`` are done; never visible where there is no terminal."""
    disable = None if visible else True
    return tqdm(
        total=total,
        initial=done,
        disable=disable,
        unit="step",
        dynamic_ncols=True,
        mininterval=0.5,
        leave=False,
    )


def show(bar: tqdm, row: Mapping[str, Any]) -> None:
    """Show a row of the metrics beside the bar."""
    names = ("log_likelihood", "log_prior")
    shown: dict[str, Any] = {name: f"{row[name]:.2f}" for name in names if name in row}
    shown["images/s"] = str(round(row["images_per_second"]))
    bar.set_postfix(shown)
