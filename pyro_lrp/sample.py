"""``python -m pyro_lrp.sample``: pictures or arrays from a trained run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from pyro_lrp import config
from pyro_lrp.config.command import command
from pyro_lrp.core.errors import UserError
from pyro_lrp.core.randomness import seeded
from pyro_lrp.figures import posed
from pyro_lrp.figures.output import write_draw, write_strip
from pyro_lrp.figures.requests import REQUESTS, Request

_STRIPS = {**REQUESTS, "transfer": posed.transfer}
_MODES = ("prior", *_STRIPS)
_ENDINGS = {"prior": (".png", ".npz")}


@command("sample")
def main(cfg: DictConfig) -> None:
    """Draw, then write one file."""
    options = config.options(cfg)
    mode = options["mode"]
    if mode not in _MODES:
        raise UserError(f"mode={mode} is unknown; the known ones are: {', '.join(_MODES)}")
    run = config.Run.of(options)
    default = run.directory / "figures" / f"{mode}.png"
    out = default if options["out"] is None else Path(str(options["out"])).expanduser()
    endings = _ENDINGS.get(mode, (".png", ".gif", ".npz"))
    if out.suffix not in endings:
        raise UserError(f"out must end in {', '.join(endings[:-1])} or {endings[-1]}, got {out}")
    request = Request(run, options)
    write = _prior(request, out) if mode == "prior" else _strip(request)
    out.parent.mkdir(parents=True, exist_ok=True)
    for path in write(out):
        print(path)


def _prior(request: Request, out: Path) -> Any:
    run, options = request.run, request.options
    n = options["n"]
    if n is None:  # which means something to other commands
        raise UserError("n must be a whole number of at least 1, got None")
    by_example = run.condition.by_example and options["context"] is None
    if options["pose"] is not None and not run.condition.by_example:
        raise UserError(f"pose has no effect: {run.directory} is given no poses")
    if by_example and out.suffix == ".png":
        strip = posed.samples(request)
        return lambda out: write_strip(out, strip)
    context = posed.in_turn(request) if by_example else run.condition.parse(options["context"], n)
    with seeded(options["seed"], "sample"):
        draw = run.draw(n, options["temperature"], context)
    if draw.non_finite:
        print(f"{draw.non_finite} of {n} samples were not finite and are left out", file=sys.stderr)
    if not len(draw.images):
        raise UserError(f"none of the {n} samples of {run.directory} is finite: nothing is written")
    return lambda out: write_draw(out, draw)


def _strip(request: Request) -> Any:
    strip = _STRIPS[request.options["mode"]](request)
    for note in strip.notes:
        print(note, file=sys.stderr)
    return lambda out: write_strip(out, strip)


if __name__ == "__main__":
    main()
