"""``python -m pyro_lrp.evaluate``: evaluate a trained run; results are added to ``evaluation.json``."""

from __future__ import annotations

import sys
from typing import Any

from omegaconf import DictConfig

from pyro_lrp import config
from pyro_lrp.config.command import command
from pyro_lrp.config.kinds import holds_prior
from pyro_lrp.core.errors import UserError, printable


@command("evaluate")
def main(cfg: DictConfig) -> None:
    """Compute the requested metrics, reuse stored results, and print a table of all."""
    from pyro_lrp.config.evaluating import evaluate_run
    from pyro_lrp.metrics.evaluation import known_metrics
    from pyro_lrp.trainer.threads import use

    options = config.options(cfg)
    if options["n"] is not None and options["n"] < 2:
        raise UserError("n must be at least 2: a covariance needs two samples")
    use(options["threads"])
    if holds_prior(options["run"]):
        _evaluate_codes(options)
        return
    for key in ("codes", "context", "held_out"):
        if options[key] is not None:
            raise UserError(f"{key} is for a folder of fit; data.path= says where the images of a run are")
    metrics = known_metrics(options["metrics"], "metrics")
    chosen = {key: options[key] for key in ("weights", "seed", "n", "k", "progress", "overwrite", "out")}
    evaluate_run(config.Run.of(options), metrics, **chosen)


def _evaluate_codes(options: dict[str, Any]) -> None:
    """Evaluate a prior that was fitted to codes."""
    from pyro_lrp.fitting.folder import evaluate_folder

    evaluate_folder(options, log=lambda line: print(printable(line), file=sys.stderr))


if __name__ == "__main__":
    main()
