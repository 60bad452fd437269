"""``python -m pyro_lrp.evaluate``: judge a trained run; results join its ``evaluation.json``."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig
from tqdm.auto import tqdm

from pyro_lrp import config, rundir
from pyro_lrp.cli import command
from pyro_lrp.devices import choose_device
from pyro_lrp.errors import UserError
from pyro_lrp.metrics import METRICS


@command("evaluate")
def main(cfg: DictConfig) -> None:
    """Compute the metrics asked for, keep those already there, print what is new."""
    options = config.options(cfg)
    names = options["metrics"]
    unknown = [name for name in names if name not in METRICS]
    if options["n"] < 2:
        raise UserError("n must be at least 2: a covariance needs two samples")
    if unknown:
        raise UserError(f"metrics: {unknown[0]} is unknown; the known ones are: [{', '.join(METRICS)}]")
    run = Path(str(options["run"])).expanduser()
    autoencoder = config.load(run, allow_targets=options["allow_targets"])
    identity = rundir.read_identity(run)
    root = options["data"]["root"] or config.default_data_root(identity)
    data = config.build_data(identity, root, options["data"]["path"], options["allow_targets"])
    data = config.with_contexts(identity, data)
    device = choose_device(options["device"])
    path = run / "evaluation.json"
    results = rundir.read_json(path) if path.is_file() else {}
    for name in names:
        with tqdm(desc=name, unit="step", leave=False, disable=None if options["progress"] else True) as bar:

            def on_step(step: int, steps: int, bar: tqdm = bar) -> None:
                bar.total = steps
                bar.update(step - bar.n)

            common = {"n": options["n"], "seed": options["seed"], "device": device, "on_step": on_step}
            new = METRICS[name](autoencoder.to(device), data, **common)
        results |= new
        rundir.write_json(path, results)
        for key, result in new.items():
            print(f"{key:<32}{result['value']:>12.3f}   n = {result['n']}")
    print(path)


if __name__ == "__main__":
    main()
