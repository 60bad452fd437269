"""``python -m pyro_lrp.sample``: pictures or arrays from a trained run."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig

from pyro_lrp import config
from pyro_lrp.config.command import command
from pyro_lrp.config.kinds import holds_prior
from pyro_lrp.core.errors import UserError

_NOT_IN_NAMES = ("run", "mode", "out", "device", "threads", "allow_targets", "data", "other_data")
"""Options that do not change a picture, or that its place names already."""


@command("sample")
def main(cfg: DictConfig) -> None:
    """Compute the images, then write one file."""
    # torch is imported when there is something to compute: --help does not wait for it
    from pyro_lrp.figures.modes import ENDINGS, MODES, refuse_distance_of_even
    from pyro_lrp.figures.output import file_name, output_file
    from pyro_lrp.figures.requests import Request
    from pyro_lrp.trainer.threads import use

    options = config.options(cfg)
    if holds_prior(options["run"]):
        _sample_codes(options)
        return
    mode = options["mode"]
    if mode not in MODES:
        known = ", ".join(MODES)
        raise UserError(f"mode={mode} is unknown; the known ones are: {known}")
    changed = config.changed(options, "sample", leave_out=_NOT_IN_NAMES)
    config.refuse_without_effect(changed, MODES[mode].options, f"with mode={mode}")
    refuse_distance_of_even(changed)
    use(options["threads"])
    run = config.Run.of(options)
    _ = run.identity  # refuses what is no run, before its folder is made
    default = run.directory / "figures" / file_name(mode, changed)
    strip = mode != "prior" or run.condition.by_example
    out = output_file(options["out"], default, ENDINGS, pair=strip)
    write = MODES[mode].result(Request(run, options), out.suffix.lower())
    for path in write(out):
        print(path)


def _sample_codes(options: dict[str, Any]) -> None:
    """Draw from a prior that was fitted to codes."""
    from pyro_lrp.figures.codes import USED, write_samples
    from pyro_lrp.trainer.threads import use

    changed = config.changed(options, "sample", leave_out=_NOT_IN_NAMES)
    where = "on a prior of codes, without networks"
    if options["mode"] != "prior":
        config.refuse_without_effect(["mode"], USED, where)
    config.refuse_without_effect(changed, USED, where)
    use(options["threads"])
    print(write_samples(options, changed))


if __name__ == "__main__":
    main()
