"""Evaluating a trained run: the metrics that were asked for join its ``evaluation.json``."""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from tqdm.auto import tqdm

from pyro_lrp.config import rundir
from pyro_lrp.config.run import Run
from pyro_lrp.core.errors import TRACEBACK, UserError, printable
from pyro_lrp.core.files import read_json
from pyro_lrp.metrics import METRICS, Metric
from pyro_lrp.metrics.evaluation import Evaluation, choose, missing, table, verdicts

__all__ = ["evaluate_into", "evaluate_run", "has_results", "refuse_incomplete"]

FILE = "evaluation.json"


def has_results(directory: Path, metrics: str | list[str]) -> bool:
    """Whether a look at the results of a run finds one of each metric, by whatever request.

    Args:
        directory: The run directory.
        metrics: Names of metrics; of ``"auto"``, any result of such a request.
    """
    path = directory / FILE
    if not path.is_file():
        return False
    results = [result for result in read_json(path).values() if isinstance(result, dict)]
    requests = [result.get("request") or {} for result in results]
    if metrics == "auto":
        return any(request.get("quick") for request in requests)
    there = {request.get("metric") for request in requests}
    return there.issuperset(metrics)


def evaluate_run(
    run: Run,
    metrics: str | list[str],
    *,
    key: str = "metrics",
    weights: Mapping[str, Any],
    seed: int = 0,
    n: int | None = None,
    k: int | None = None,
    progress: bool = True,
    overwrite: bool = False,
) -> None:
    """Compute metrics of a run, reuse stored results, and print a table of all.

    Args:
        run: The run.
        metrics: Names of metrics, or ``"auto"``.
        key: The key that names them, for messages.
        weights: Files of pretrained networks, by name; None for the official download.
        seed: Seed of all noise.
        n: Samples, or images, of a metric; None for the metric's own number.
        k: Repetitions for each of them; None for the metric's own number.
        progress: Whether to show progress bars.
        overwrite: Whether to compute again what is there.

    Raises:
        UserError: If a metric that is named has no result, ``auto`` has none, or the file cannot be written.
    """
    quick = metrics == "auto"
    subject = run.subject(weights=weights, seed=seed, n=n, k=k, quick=quick)
    if run.checkpoint_path and not run.finished:
        name = run.checkpoint_path.name
        print(f"{run.directory} is not finished; evaluating {name} (step {run.step})", file=sys.stderr)
    names, left_out = choose(subject, metrics)
    if not quick:
        _print_missing(left_out, sys.stderr)  # now: the others may take hours
    evaluation = evaluate_into(
        run.directory, subject, names, _stamp(run), left_out, progress=progress, overwrite=overwrite
    )
    refuse_incomplete(evaluation, left_out, key, by_itself=quick)


def evaluate_into(
    directory: Path,
    subject: Any,
    names: Iterable[str],
    stamp: dict[str, Any],
    left_out: dict[str, str],
    *,
    progress: bool,
    overwrite: bool,
    metrics: Mapping[str, Metric] = METRICS,
) -> Evaluation:
    """Compute metrics, reuse those that a folder holds, add them to its ``evaluation.json``, and print a table.

    Args:
        directory: The folder.
        subject: What the metrics are functions of.
        names: Which of them.
        stamp: Further entries that a stored result must have.
        left_out: What is not computed, and why.
        progress: Whether to show progress bars.
        overwrite: Whether to compute again what is there.
        metrics: The metrics by name.
    """

    @contextmanager
    def bar(name: str) -> Iterator[None]:
        with _progress(subject, name, shown=progress):
            yield

    with rundir.evaluating(directory):
        evaluation = Evaluation(subject, directory / FILE, stamp, overwrite=overwrite, metrics=metrics)
        try:
            for name in names:
                evaluation.compute(name, bar)
        finally:  # an interruption too shows what is there
            _show(evaluation, left_out)
    return evaluation


def _stamp(run: Run) -> dict[str, Any]:
    """What a stored result depends upon besides its metric: the training step, and images not the run's."""
    stamp: dict[str, Any] = {"step": run.step, "finished": run.finished}
    if run.changed:
        stamp["data"] = run.fingerprint
    return stamp


def _show(evaluation: Evaluation, left_out: dict[str, str]) -> None:
    """Print the table of results, and what was not computed."""
    if evaluation.shown:
        print(printable(table(evaluation.shown)))
    _print_missing(left_out | evaluation.failed, sys.stdout, evaluation.metrics)
    if os.environ.get(TRACEBACK):
        for error in evaluation.errors.values():
            traceback.print_exception(error)
    if evaluation.shown and not evaluation.unwritten:
        print(evaluation.path)
    for sentence in verdicts(evaluation.shown):  # last, where it is seen
        print(printable(sentence))


def _print_missing(reasons: dict[str, str], stream: TextIO, metrics: Mapping[str, Metric] = METRICS) -> None:
    for line in missing(reasons, metrics):
        print(printable(line), file=stream)


def refuse_incomplete(evaluation: Evaluation, left_out: dict[str, str], key: str, *, by_itself: bool) -> None:
    """Raise an error if a named metric has no result, ``auto`` has none, or the file is not written."""
    if evaluation.unwritten:
        reason = evaluation.unwritten.strerror
        raise UserError(f"{evaluation.path} cannot be written ({reason}): the results are in the table alone")
    missing = ", ".join(left_out | evaluation.errors)
    if missing and not by_itself:
        raise UserError(f"{key}: {missing} could not be computed: the lines above say why")
    if not evaluation.shown:
        raise UserError("no metric could be computed: the lines above say why")


@contextmanager
def _progress(subject: Any, name: str, *, shown: bool) -> Iterator[None]:
    """Show a progress bar for a metric; it restarts for each pass over images."""
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
