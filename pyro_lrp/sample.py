"""``python -m pyro_lrp.sample``: pictures or arrays from a trained run."""

from __future__ import annotations

import sys
from collections.abc import Callable
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
Write = Callable[[Path], list[Path]]
_DRAW_ENDINGS = (".png", ".npz")
_STRIP_ENDINGS = (".png", ".gif", ".npz")


@command("sample")
def main(cfg: DictConfig) -> None:
    """Compute the images, then write one file."""
    options = config.options(cfg)
    mode = options["mode"]
    if mode not in _MODES:
        known = ", ".join(_MODES)
        raise UserError(f"mode={mode} is unknown; the known ones are: {known}")
    run = config.Run.of(options)
    out = _out(run, options)
    request = Request(run, options)
    if mode == "prior":
        write = _draw(request, out)
    else:
        write = _strip(request)
    out.parent.mkdir(parents=True, exist_ok=True)
    for path in write(out):
        print(path)


def _out(run: config.Run, options: dict[str, Any]) -> Path:
    """The file to write."""
    mode = options["mode"]
    out = run.directory / "figures" / f"{mode}.png"
    if options["out"] is not None:
        out = Path(str(options["out"])).expanduser()
    endings: tuple[str, ...] = _STRIP_ENDINGS
    if mode == "prior":
        endings = _DRAW_ENDINGS
    if out.suffix not in endings:
        *others, last = endings
        raise UserError(f"out must end in {', '.join(others)} or {last}, got {out}")
    return out


def _draw(request: Request, out: Path) -> Write:
    """Draw from the prior; returns the function that writes the result."""
    run = request.run
    options = request.options
    n = options["n"]
    if n is None:  # allowed by the rule for n, which other commands share
        raise UserError("n must be a whole number of at least 1, got None")
    posed.refuse_without_effect(run, options)
    by_example = run.condition.by_example and options["context"] is None
    if by_example and out.suffix == ".png":
        strip = posed.samples(request)
        return lambda path: write_strip(path, strip)
    if by_example:
        context = posed.in_turn(request)
    else:
        context = run.condition.parse(options["context"], n)
    with seeded(options["seed"], "sample"):
        draw = run.draw(n, options["temperature"], context)
    if draw.non_finite:
        print(f"{draw.non_finite} of {n} samples were not finite and are left out", file=sys.stderr)
    if not len(draw.images):
        raise UserError(f"none of the {n} samples of {run.directory} is finite: nothing is written")
    return lambda path: write_draw(path, draw)


def _strip(request: Request) -> Write:
    """Compute the strip of a mode; returns the function that writes it."""
    strip = _STRIPS[request.options["mode"]](request)
    for note in strip.notes:
        print(note, file=sys.stderr)
    return lambda path: write_strip(path, strip)


if __name__ == "__main__":
    main()
