"""``python -m pyro_lrp.evaluate``: evaluate a trained run; results are added to ``evaluation.json``."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from omegaconf import DictConfig
from tqdm.auto import tqdm

from pyro_lrp import config
from pyro_lrp.config.command import command
from pyro_lrp.core.errors import UserError, printable
from pyro_lrp.core.files import read_json, write_json
from pyro_lrp.metrics import METRICS, Subject, evaluation


@command("evaluate")
def main(cfg: DictConfig) -> None:
    """Compute the requested metrics, reuse stored results, and print a table of all."""
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
    names, left_out = evaluation.choose(subject, metrics)
    path = run.directory / "evaluation.json"
    stored: dict[str, Any] = read_json(path) if path.is_file() else {}
    shown: dict[str, Any] = {}
    for name in names:
        request = evaluation.request(name, subject) | {"step": run.step, "finished": run.finished}
        results = _of_request(stored, request)
        if options["overwrite"] or not results:
            try:
                with _progress(subject, name, options["progress"]):
                    computed = METRICS[name].compute(subject)
            except UserError as error:
                if metrics != "auto":
                    raise
                left_out[name] = str(error)
                continue
            results = {key: {**result, "request": request} for key, result in computed.items()}
            stored |= results
            write_json(path, stored)
        shown |= results
    print(printable(evaluation.table(shown)))
    for name, reason in left_out.items():
        print(f"not computed: {name} {reason}")
    print(path)


def _metrics(options: dict[str, Any]) -> Any:
    """The names of the requested metrics, or ``"auto"``."""
    names = options["metrics"]
    if names == "auto":
        return names
    names = [names] if isinstance(names, str) else names
    known = ", ".join(METRICS)
    for name in names:
        if name not in METRICS:
            raise UserError(f"metrics: {name} is unknown; the known ones are: auto, or of [{known}]")
    return names


def _of_request(stored: dict[str, Any], request: dict[str, Any]) -> dict[str, Any]:
    """The stored results of the same request."""
    results = {key: result for key, result in stored.items() if isinstance(result, dict)}
    return {key: result for key, result in results.items() if result.get("request") == request}


@contextmanager
def _progress(subject: Subject, name: str, shown: bool) -> Iterator[None]:  # noqa: FBT001
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


if __name__ == "__main__":
    main()
