"""``python -m pyro_lrp.evaluate``: evaluate a trained run; results are added to ``evaluation.json``."""

from __future__ import annotations

from omegaconf import DictConfig

from pyro_lrp import config
from pyro_lrp.config.command import command
from pyro_lrp.core.errors import UserError


@command("evaluate")
def main(cfg: DictConfig) -> None:
    """Compute the requested metrics, reuse stored results, and print a table of all."""
    from pyro_lrp.config.evaluating import evaluate_run
    from pyro_lrp.metrics.evaluation import known_metrics
    from pyro_lrp.trainer.threads import use

    options = config.options(cfg)
    metrics = known_metrics(options["metrics"], "metrics")
    if options["n"] is not None and options["n"] < 2:
        raise UserError("n must be at least 2: a covariance needs two samples")
    use(options["threads"])
    chosen = {key: options[key] for key in ("weights", "seed", "n", "k", "progress", "overwrite")}
    evaluate_run(config.Run.of(options), metrics, **chosen)


if __name__ == "__main__":
    main()
