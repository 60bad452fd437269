"""``python -m pyro_lrp.evaluate``: evaluate a trained run; results are added to ``evaluation.json``."""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

from omegaconf import DictConfig

from pyro_lrp import config
from pyro_lrp.config.command import TRACEBACK, command
from pyro_lrp.core.errors import UserError, printable

if TYPE_CHECKING:  # torch is imported when an evaluation begins: --help does not wait for it
    from pyro_lrp.metrics import Subject
    from pyro_lrp.metrics.evaluation import Evaluation


@command("evaluate")
def main(cfg: DictConfig) -> None:
    """Compute the requested metrics, reuse stored results, and print a table of all."""
    from pyro_lrp.metrics.evaluation import Evaluation, choose

    options = config.options(cfg)
    metrics = _metrics(options)
    if options["n"] is not None and options["n"] < 2:
        raise UserError("n must be at least 2: a covariance needs two samples")
    run = config.Run.of(options)
    chosen = {key: options[key] for key in ("weights", "seed", "n", "k")}
    subject = run.subject(**chosen, quick=metrics == "auto")
    if run.checkpoint_path and not run.finished:
        name = run.checkpoint_path.name
        print(f"{run.directory} is not finished; evaluating {name} (step {run.step})", file=sys.stderr)
    names, left_out = choose(subject, metrics)
    if metrics != "auto":
        _print_missing(left_out, sys.stderr)  # now: the others may take hours
    evaluation = Evaluation(
        subject,
        run.directory / "evaluation.json",
        _stamp(run),
        overwrite=options["overwrite"],
    )

    @contextmanager
    def progress(name: str) -> Iterator[None]:
        with _progress(subject, name, options["progress"]):
            yield

    try:
        for name in names:
            evaluation.compute(name, progress)
    finally:  # an interruption too shows what is there
        _show(evaluation, left_out)
    _refuse_incomplete(evaluation, left_out, metrics)


def _stamp(run: config.Run) -> dict[str, Any]:
    """What a stored result depends upon besides its metric: the training step, and images not the run's."""
    stamp: dict[str, Any] = {"step": run.step, "finished": run.finished}
    if run.changed:
        stamp["data"] = run.fingerprint
    return stamp


def _metrics(options: dict[str, Any]) -> Any:
    """The names of the requested metrics, or ``"auto"``."""
    from pyro_lrp.metrics.evaluation import METRICS

    names = options["metrics"]
    if names == "auto":
        return names
    names = [names] if isinstance(names, str) else names
    known = ", ".join(METRICS)
    for name in names:
        if name not in METRICS:
            raise UserError(f"metrics: {name} is unknown; the known ones are: auto, or of [{known}]")
    return names


def _show(evaluation: Evaluation, left_out: dict[str, str]) -> None:
    """Print the table of results, and what was not computed."""
    from pyro_lrp.metrics.evaluation import table

    if evaluation.shown:
        print(printable(table(evaluation.shown)))
    _print_missing(left_out | evaluation.failed, sys.stdout)
    if os.environ.get(TRACEBACK):
        for error in evaluation.errors.values():
            traceback.print_exception(error)
    if evaluation.shown and not evaluation.unwritten:
        print(evaluation.path)


def _print_missing(reasons: dict[str, str], stream: TextIO) -> None:
    for name, reason in reasons.items():
        print(printable(f"not computed: {name} {reason}"), file=stream)


def _refuse_incomplete(evaluation: Evaluation, left_out: dict[str, str], metrics: Any) -> None:
    """Raise an error if a named metric has no result, ``auto`` has none, or the file is not written."""
    if evaluation.unwritten:
        reason = evaluation.unwritten.strerror
        raise UserError(f"{evaluation.path} cannot be written ({reason}): the results are in the table alone")
    missing = ", ".join(left_out | evaluation.errors)
    if metrics != "auto" and missing:
        raise UserError(f"metrics: {missing} could not be computed: the lines above say why")
    if not evaluation.shown:
        raise UserError("no metric could be computed: the lines above say why")


@contextmanager
def _progress(subject: Subject, name: str, shown: bool) -> Iterator[None]:  # noqa: FBT001
    """Show a progress bar for a metric; it restarts for each pass over images."""
    from tqdm.auto import tqdm

    disable = None if shown else True  # with None, tqdm is silent unless stderr is a terminal
    with tqdm(desc=name, leave=False, dynamic_ncols=True, disable=disable) as bar:

        def on_step(done: int, total: int) -> None:
            if total != bar.total or done < bar.n:
                bar.reset(total)
            bar.update(done - bar.n)

        subject.on_step = on_step
        start = time.monotonic()
        yield
    seconds = time.monotonic() - start
    print(f"{name}: {seconds:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
