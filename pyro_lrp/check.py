"""``python -m pyro_lrp.check``: test whether a prior is a density; one row for each law."""

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from pyro_lrp import config
from pyro_lrp.config.command import command
from pyro_lrp.core.errors import UserError

if TYPE_CHECKING:  # torch is imported when a check begins: --help does not wait for it
    from pyro_lrp.priors import Prior


@command("check")
def main(cfg: DictConfig) -> None:
    """Build the prior as ``train`` would, and print the result of each law as soon as it is known."""
    from pyro_lrp.config.identity import Identity
    from pyro_lrp.testing import prior_laws

    plan = config.plan(cfg)
    allow_targets = plan.circumstances["allow_targets"]
    if Identity(plan.identity).lacks_context:
        plan.identity["context"] = "label"
    run = config.Run.planned(plan)
    image_shape = run.data.image_shape
    seeds = itertools.count(run.settings.seed)

    def build() -> Prior:
        """Build the prior with a new seed: reloading a prior must not depend on its initial parameters."""
        identity = {**run.identity, "seed": next(seeds)}
        autoencoder = config.build_autoencoder(identity, image_shape, allow_targets)
        return autoencoder.prior

    name = run.settings.preset("prior")
    start = time.perf_counter()
    broken = []
    print(f"prior={name}, latent_dim={run.settings.latent_dim}")
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
        raise UserError(f"prior={name} breaks {len(broken)} of its laws, first: {broken[0]}")
    seconds = time.perf_counter() - start
    print(f"all laws hold ({seconds:.0f} s)")


if __name__ == "__main__":
    main()
