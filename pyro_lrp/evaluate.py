"""``python -m pyro_lrp.evaluate``: evaluate a trained run; results join its ``evaluation.json``."""

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
from pyro_lrp.metrics import METRICS, Subject
from pyro_lrp.metrics.evaluation import choose, request, table


@command("evaluate")
def main(cfg: DictConfig) -> None:
    """Compute the metrics asked for, keep those already there, print a table of both."""
    options = config.options(cfg)
    _refuse_unknown(options)
    run = config.Run.of(options)
    subject = _subject(run, options)
    auto = options["metrics"] == "auto"
    names, left_out = choose(subject, options["metrics"])
    trained = {"step": run.step, "finished": run.finished}
    path = run.directory / "evaluation.json"
    results = read_json(path) if path.is_file() else {}
    shown: dict[str, Any] = {}
    for name in names:
        asked = request(name, subject) | trained
        new = {key: r for key, r in results.items() if isinstance(r, dict) and r.get("request") == asked}
        if options["overwrite"] or not new:
            try:
                with _progress(subject, name, options["progress"]):
                    new = {key: {**r, "request": asked} for key, r in METRICS[name].compute(subject).items()}
            except UserError as error:
                if not auto:
                    raise
                left_out[name] = str(error)
                continue
            results |= new
            write_json(path, results)
        shown |= new
    print(printable(table(shown)))
    for name, reason in left_out.items():
        print(f"not computed: {name} {reason}")
    print(path)


def _refuse_unknown(options: dict[str, Any]) -> None:
    if options["metrics"] != "auto":
        names = options["metrics"]
        options["metrics"] = [names] if isinstance(names, str) else names
        unknown = [name for name in options["metrics"] if name not in METRICS]
        if unknown:
            known = ", ".join(METRICS)
            raise UserError(f"metrics: {unknown[0]} is unknown; the known ones are: auto, or of [{known}]")
    if options["n"] is not None and options["n"] < 2:
        raise UserError("n must be at least 2: a covariance needs two samples")


def _subject(run: config.Run, options: dict[str, Any]) -> Subject:
    """The subject of the metrics: the run's model and data."""
    autoencoder = run.autoencoder
    if not run.finished:
        name = "nothing" if run.checkpoint_path is None else run.checkpoint_path.name
        print(f"{run.directory} is not finished; evaluating {name} (step {run.step})", file=sys.stderr)
    return Subject(
        autoencoder, run.data, run.seen, weights=options["weights"], seed=options["seed"], n=options["n"],
        k=options["k"], quick=options["metrics"] == "auto", device=run.device, directory=run.directory,
    )  # fmt: skip


@contextmanager
def _progress(subject: Subject, name: str, shown: bool) -> Iterator[None]:  # noqa: FBT001
    """A bar for a metric; it starts anew for each of its passes over images."""
    with tqdm(desc=name, leave=False, dynamic_ncols=True, disable=None if shown else True) as bar:

        def on_step(done: int, total: int) -> None:
            if total != bar.total or done < bar.n:
                bar.reset(total)
            bar.update(done - bar.n)

        subject.on_step = on_step
        start = time.monotonic()
        yield
    print(f"{name}: {time.monotonic() - start:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
