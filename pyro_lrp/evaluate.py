"""``python -m pyro_lrp.evaluate``: judge a trained run; results join its ``evaluation.json``."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from tqdm.auto import tqdm

from pyro_lrp import config
from pyro_lrp.config import rundir
from pyro_lrp.config.command import command
from pyro_lrp.core import checkpoint
from pyro_lrp.core.errors import UserError, printable
from pyro_lrp.features import sha256
from pyro_lrp.metrics import METRICS, Subject
from pyro_lrp.trainer.devices import choose_device


@command("evaluate")
def main(cfg: DictConfig) -> None:
    """Compute the metrics asked for, keep those already there, print a table of both."""
    options = config.options(cfg)
    _refuse_unknown(options)
    run = Path(str(options["run"])).expanduser()
    subject, trained = _subject(run, options)
    auto = options["metrics"] == "auto"
    names, left_out = _choose(subject, options["metrics"])
    path = run / "evaluation.json"
    results = rundir.read_json(path) if path.is_file() else {}
    shown: dict[str, Any] = {}
    for name in names:
        asked = _request(name, subject) | trained
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
            rundir.write_json(path, results)
        shown |= new
    print(printable(_table(shown)))
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


def _subject(run: Path, options: dict[str, Any]) -> tuple[Subject, dict[str, Any]]:
    """Whom to judge, and how far it was trained."""
    allow = options["allow_targets"]
    device = choose_device(options["device"])
    autoencoder = config.load(run, allow_targets=allow).to(device)
    saved = checkpoint.latest(run / "checkpoints")
    assert saved is not None, "it was loaded"
    trained = {"step": checkpoint.load(saved)["step"], "finished": rundir.read_summary(run) is not None}
    if not trained["finished"]:
        print(f"{run} is not finished: judged is {saved.name}, of step {trained['step']}", file=sys.stderr)
    identity = rundir.read_identity(run)
    data = config.build_data(identity, config.places(identity, options["data"]), allow)
    data = config.with_contexts(identity, data)
    seen, _ = data.limited(identity["data"].get("limit")).hold_out(identity["data"].get("validation", 0.0))
    subject = Subject(
        autoencoder, data, seen, weights=options["weights"], seed=options["seed"], n=options["n"],
        k=options["k"], quick=options["metrics"] == "auto", device=device, directory=run,
    )  # fmt: skip
    return subject, trained


def _choose(subject: Subject, metrics: str | list[str]) -> tuple[list[str], dict[str, str]]:
    """The metrics to compute, and of ``auto`` those that cannot be, with what each needs.

    Raises:
        UserError: If one that was asked for by name cannot be computed.
    """
    if metrics == "auto":
        reasons = {name: metric.not_by_itself(subject) for name, metric in METRICS.items()}
        return [name for name, said in reasons.items() if not said], {k: v for k, v in reasons.items() if v}
    for name in metrics:
        said = METRICS[name].lacks(subject)
        if said:
            raise UserError(f"metrics: {name} {said}")
    return list(metrics), {}


def _request(name: str, subject: Subject) -> dict[str, Any]:
    """What a result must have been asked with to be kept instead of computed anew."""
    network = METRICS[name].network
    file = None if network is None else subject.weights.get(network)
    weights = {} if network is None else {"weights": "official" if file is None else sha256(network, file)}
    counts = {"n": subject.n, "k": subject.k, "quick": subject.quick}
    return {"metric": name, **counts, "seed": subject.seed, **weights}


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


def _table(results: dict[str, Any]) -> str:
    width = max(map(len, results), default=0) + 2
    lines = []
    for key, found in results.items():
        spread = found.get("standard_error", found.get("standard_deviation"))
        notes = ["surrogate"] if "surrogate" in found["protocol"] else []
        notes += [found["warning"]] if "warning" in found else []
        if found["value"] is None:
            number = f"{'not finite':>12}"
        else:
            number = f"{found['value']:>12.4g}"
        plus = "" if spread is None else f" ± {spread:.2g}"
        lines.append(f"{key:<{width}}{number}{plus:<10}  n = {found['n']:<8}{'; '.join(notes)}".rstrip())
    return "\n".join(lines + [f"{key}: {r['verdict']}" for key, r in results.items() if "verdict" in r])


if __name__ == "__main__":
    main()
