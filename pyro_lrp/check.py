"""``python -m pyro_lrp.check``: is this prior a density? One row for each law."""

from __future__ import annotations

import itertools
import time

from omegaconf import DictConfig

from pyro_lrp import config
from pyro_lrp.config.command import command
from pyro_lrp.core.errors import UserError
from pyro_lrp.priors import Prior
from pyro_lrp.testing import prior_laws


@command("check")
def main(cfg: DictConfig) -> None:
    """Build the prior as a run would, and print its laws as they are measured."""
    plan = config.plan(cfg)
    allow = plan.circumstances["allow_targets"]
    if plan.identity["context"] is None and config.needs_context(plan.identity):
        plan.identity["context"] = "label"
    run = config.Run.planned(plan)
    identity, image_shape = run.identity, run.data.image_shape
    seeds = itertools.count(identity["seed"])

    def build() -> Prior:
        """Each time under another seed: what a reload must not depend on."""
        return config.build_autoencoder({**identity, "seed": next(seeds)}, image_shape, allow).prior

    name, start, broken = identity["presets"].get("prior"), time.perf_counter(), []
    print(f"prior={name}, latent_dim={identity['latent_dim']}")
    print(f"{'law':<72}{'figure':>10}{'limit':>10}  verdict")
    for law in prior_laws(build):
        verdict = ("holds" if law.holds else "BROKEN") + (f" ({law.note})" if law.note else "")
        print(f"{law.name:<72}{law.figure:>10.2g}{law.limit:>10.2g}  {verdict}", flush=True)
        broken += [] if law.holds else [law.name]
    if broken:
        raise UserError(f"prior={name} breaks {len(broken)} of its laws, first: {broken[0]}")
    print(f"all laws hold ({time.perf_counter() - start:.0f} s)")


if __name__ == "__main__":
    main()
