"""``python -m pyro_lrp.check``: test whether a prior, planned or learned, is a density; a row for each law."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, open_dict

from pyro_lrp import config
from pyro_lrp.config.command import command
from pyro_lrp.config.kinds import holds_prior
from pyro_lrp.core.errors import UserError

if TYPE_CHECKING:  # torch is imported when a check begins: --help does not wait for it
    from pyro_lrp.priors import Prior


class Checked(NamedTuple):
    """A prior to check.

    Attributes:
        words: What it is called.
        build: Builds one with a seed: reloading a prior must not depend on its initial parameters.
        learned: Its learned parameters, or None.
        seed: The first seed.
    """

    words: str
    build: Callable[[int], Prior]
    learned: dict[str, Any] | None
    seed: int


@command("check")
def main(cfg: DictConfig) -> None:
    """Print the result of each law of a prior as soon as it is known."""
    from pyro_lrp.testing import prior_laws

    directory = _popped_run(cfg)
    if directory is None:
        checked = _planned(cfg)
    else:
        _refuse_others()
        checked = _learned(directory, cfg)
    seeds = itertools.count(checked.seed)

    def build() -> Prior:
        seed = next(seeds)
        prior = checked.build(seed)
        if checked.learned is not None and seed == checked.seed:
            prior.load_state_dict(checked.learned)
        return prior

    name = checked.words
    start = time.perf_counter()
    broken = []
    print(name)
    print(f"{'law':<72}{'figure':>10}{'limit':>10}  verdict")
    for law in prior_laws(build):
        verdict = "holds"
        if not law.holds:
            verdict = "BROKEN"
            broken.append(law.name)
        if law.note:
            verdict += f" ({law.note})"
        print(f"{law.name:<72}{law.figure:>10.2g}{law.limit:>10.2g}  {verdict}", flush=True)
    if broken:
        raise UserError(f"{name} breaks {len(broken)} of its laws, first: {broken[0]}")
    seconds = time.perf_counter() - start
    print(f"all laws hold ({seconds:.0f} s)")


def _popped_run(cfg: DictConfig) -> str | None:
    """The value of ``run``, which is no key of a training."""
    with open_dict(cfg):
        run = cfg.pop("run")
    if run is None:
        return None
    return str(run)


def _planned(cfg: DictConfig) -> Checked:
    """The prior that ``train`` would build."""
    from pyro_lrp.config.identity import Identity

    plan = config.plan(cfg)
    if Identity(plan.identity).lacks_context:
        plan.identity["context"] = "label"
    run = config.Run.planned(plan)
    return _of_run(run, run.data.image_shape, plan.circumstances["allow_targets"], None)


def _learned(directory: str, cfg: DictConfig) -> Checked:
    """The prior of a run, or of a folder of ``fit``."""
    allow_targets = [*cfg.allow_targets]
    if not holds_prior(directory):
        run = config.Run(directory, allow_targets=allow_targets)
        learned = run.autoencoder.prior.state_dict()
        return _of_run(run, run.settings.image_shape, run.allow_targets, learned)
    from pyro_lrp import fitting
    from pyro_lrp.fitting.folder import builder

    fitted = fitting.load(directory, allow_targets)
    words = f"{' '.join(fitted.overrides)}, of {directory}"
    return Checked(words, builder(fitted, allow_targets), fitted.prior.state_dict(), fitted.seed)


def _of_run(run: Any, image_shape: Sequence[int], allow_targets: Sequence[str], learned: Any) -> Checked:
    """The prior of a run: it may compute with the networks, so the whole model is built."""

    def build(seed: int) -> Prior:
        identity = {**run.identity, "seed": seed}
        return config.build_autoencoder(identity, image_shape, allow_targets).prior

    words = f"prior={run.settings.preset('prior')}, latent_dim={run.settings.latent_dim}"
    return Checked(words, build, learned, run.settings.seed)


def _refuse_others() -> None:
    """Refuse what a run decides itself."""
    for override in HydraConfig.get().overrides.task:
        if not override.startswith(("run=", "allow_targets=")):
            raise UserError(f"{override} has no effect: run=DIR has its own prior")


if __name__ == "__main__":
    main()
