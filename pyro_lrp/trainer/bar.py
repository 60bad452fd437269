"""The progress line of a training."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tqdm.auto import tqdm

from pyro_lrp.trainer.phases import Span

__all__ = ["ProgressLine", "ScreenHandler", "number", "speed"]

_SYMBOLS = {
    "log_likelihood": "log p(x|z)",
    "log_prior": "log p(z)",
    "fit_loss": "prior's loss",
    "loss": "loss",
}
"""The terms that are shown, in order of preference, in the field's symbols."""

_NUMBERS = 2  # that are shown
_LEAST_BAR = 2  # columns; what does not fit beside such a bar is left out
_FRAME = len(" || ETA ")


class ProgressLine(tqdm):
    """A line with phase, epoch, a bar, the time that is left, images per second, and two terms.

    In 80 columns all of it fits; in fewer, the speed is left out first. It is invisible where there is no
    terminal.

    Args:
        spans: The phases.
        done: Steps that are done.
        visible: Whether to show it.

    Attributes:
        terms: What is shown of the last report, by symbol.
        images_per_second: The speed since the report before it.
        phase: Its phase; None before the first report.
    """

    spans: Sequence[Span] = ()  # tqdm's constructor draws the line
    terms: Mapping[str, float] = {}  # noqa: RUF012
    images_per_second: float = 0.0
    phase: str | None = None

    def __init__(self, spans: Sequence[Span], done: int, *, visible: bool) -> None:
        self.spans = spans
        self._scored: dict[str, float] = {}
        super().__init__(
            total=spans[-1].stop,
            initial=done,
            disable=None if visible else True,
            dynamic_ncols=True,
            mininterval=0.5,
            leave=False,
            bar_format="{where} |{bar}| ETA {remaining}{numbers}",
        )

    def show(self, row: Mapping[str, Any]) -> None:
        """Show a row of the metrics from now on."""
        if self.disable:
            return
        self._scored |= {name: value for name, value in row.items() if name.startswith(("val", "test/"))}
        self.terms = _terms(row, self._scored)
        self.phase = row["phase"]
        self.images_per_second = row["images_per_second"]
        self.refresh()

    @property
    def format_dict(self) -> dict[str, Any]:
        """The fields of ``bar_format``."""
        fields = super().format_dict
        width = fields["ncols"]
        if width is not None:
            width -= _FRAME + len(_remaining(fields)) + _LEAST_BAR
        for where, numbers in self._variants():
            text = "".join(f"  {one}" for one in numbers)
            if width is None or len(where) + len(text) <= width:
                break
        return {**fields, "where": where, "numbers": text}

    def _variants(self) -> Iterator[tuple[str, list[str]]]:
        """The texts before and behind the bar, the longest ones first."""
        phase, epoch = self._position()
        terms = []
        pace = []
        if self.phase == phase:
            terms = [f"{symbol} {number(value)}" for symbol, value in self.terms.items()]
            pace = [f"{speed(self.images_per_second)} images/s"]
        yield f"{phase}, epoch {epoch}", pace + terms
        yield f"{phase} {epoch}", pace + terms
        yield f"{phase} {epoch}", terms
        yield f"{phase} {epoch}", terms[:1]
        yield phase, []

    def _position(self) -> tuple[str, str]:
        """The name of the present phase, and its epoch of how many."""
        ahead = [span for span in self.spans if self.n < span.stop]
        span = [*ahead, self.spans[-1]][0]
        epoch = min((self.n - span.start) // span.steps_per_epoch + 1, span.epochs)
        return span.name, f"{epoch}/{span.epochs}"


def _terms(row: Mapping[str, Any], scored: Mapping[str, float]) -> dict[str, float]:
    """Two terms of training batches by symbol; beside a single one, the same of images that are held out."""
    names = [name for name in _SYMBOLS if name in row]
    if len(names) > 1 and "loss" in names:
        names.remove("loss")
    shown = {_SYMBOLS[name]: row[name] for name in names[:_NUMBERS]}
    if len(shown) == _NUMBERS:
        return shown
    for split, label in (("validation", "val"), ("test", "test")):
        values = [scored[f"{split}/{name}"] for name in names if f"{split}/{name}" in scored]
        if values:
            return {**shown, label: values[0]}
    return shown


def _remaining(fields: Mapping[str, Any]) -> str:
    """The time that is left, as the line will have it."""
    done = fields["n"] - fields["initial"]
    rate = fields["rate"]
    if rate is None and fields["elapsed"]:
        rate = done / fields["elapsed"]
    if not rate:
        return "?"
    return tqdm.format_interval((fields["total"] - fields["n"]) / rate)


def number(value: float) -> str:
    """A number of at most six signs, unless it is very large.

    >>> number(-59.2273), number(-739.21), number(-12345.6)
    ('-59.23', '-739.2', '-12346')
    """
    decimals = 2
    if abs(value) >= 100:
        decimals = 1
    if abs(value) >= 1000:
        decimals = 0
    return f"{value:.{decimals}f}"


def speed(images_per_second: float) -> str:
    """A number of images per second.

    >>> speed(3.21), speed(950.0), speed(18775.9)
    ('3.2', '950', '19k')
    """
    if images_per_second < 10:
        return f"{images_per_second:.1f}"
    if images_per_second < 10_000:
        return f"{images_per_second:.0f}"
    return f"{images_per_second / 1000:.0f}k"


class ScreenHandler(logging.StreamHandler):
    """Writes lines of the log to the screen, above the progress line."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        with tqdm.external_write_mode(file=self.stream):
            super().emit(record)
