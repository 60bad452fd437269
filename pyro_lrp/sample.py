"""``python -m pyro_lrp.sample``: pictures or arrays from a trained run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig
from torch import Tensor

from pyro_lrp import config, figures
from pyro_lrp.config import rundir
from pyro_lrp.config.command import command
from pyro_lrp.core.checkpoint import write_atomically
from pyro_lrp.core.errors import UserError
from pyro_lrp.core.randomness import seeded
from pyro_lrp.figures import posed
from pyro_lrp.figures.requests import TOURS, Tour
from pyro_lrp.latents.views import Strip
from pyro_lrp.models import Draw
from pyro_lrp.trainer.devices import choose_device

_TOURS = {**TOURS, "transfer": posed.transfer}
_MODES = ("prior", *_TOURS)
_ENDINGS = {"prior": (".png", ".npz")}


@command("sample")
def main(cfg: DictConfig) -> None:
    """Draw, then write one file."""
    options = config.options(cfg)
    mode = options["mode"]
    if mode not in _MODES:
        raise UserError(f"mode={mode} is unknown; the known ones are: {', '.join(_MODES)}")
    run = Path(str(options["run"])).expanduser()
    default = run / "figures" / f"{mode}.png"
    out = default if options["out"] is None else Path(str(options["out"])).expanduser()
    endings = _ENDINGS.get(mode, (".png", ".gif", ".npz"))
    if out.suffix not in endings:
        raise UserError(f"out must end in {', '.join(endings[:-1])} or {endings[-1]}, got {out}")
    write = _prior(run, options, out) if mode == "prior" else _tour(run, options)
    out.parent.mkdir(parents=True, exist_ok=True)
    for path in write(out):
        print(path)


def _prior(run: Path, options: dict[str, Any], out: Path) -> Any:
    if options["n"] is None:  # which means something to other commands
        raise UserError("n must be a whole number of at least 1, got None")
    device = choose_device(options["device"])
    meaning = config.contexts(rundir.read_identity(run))
    context: Tensor | None = None
    posed_run = meaning is not None and meaning.kind == "pose"
    if posed_run and options["context"] is None:
        tour = Tour.of(run, options, device)
        if out.suffix == ".png":
            strip = posed.samples(tour)
            return lambda out: _write_strip(out, strip)
        context = posed.in_turn(tour)
    elif options["pose"] is not None and not posed_run:
        raise UserError(f"pose has no effect: {run} is given no poses")
    else:
        context = _contexts(run, options)
    autoencoder = config.load(run, allow_targets=options["allow_targets"]).to(device)
    with seeded(options["seed"], "sample"):
        context = None if context is None else context.to(device)
        draw = autoencoder.draw(options["n"], options["temperature"], context)
    if draw.non_finite:
        print(f"{draw.non_finite} of {options['n']} samples were not finite and are left out", file=sys.stderr)
    if not len(draw.images):
        raise UserError(f"none of the {options['n']} samples of {run} is finite: nothing is written")
    return lambda out: _write_draw(out, draw)


def _contexts(run: Path, options: dict[str, Any]) -> Tensor | None:
    meaning = config.contexts(rundir.read_identity(run))
    if meaning is not None:
        return meaning.encode(options["context"], options["n"])
    if options["context"] is not None:
        raise UserError(f"context has no effect: the prior of {run} takes none")
    return None


def _write_draw(out: Path, draw: Draw) -> list[Path]:
    if out.suffix == ".png":
        figures.save_png(out, figures.grid(draw.images))
    else:
        _write_arrays(out, draw.images, draw.latents)
    return [out]


def _tour(run: Path, options: dict[str, Any]) -> Any:
    strip = _TOURS[options["mode"]](Tour.of(run, options, choose_device(options["device"])))
    for note in strip.notes:
        print(note, file=sys.stderr)
    return lambda out: _write_strip(out, strip)


def _write_strip(out: Path, strip: Strip) -> list[Path]:
    if out.suffix == ".png":
        return figures.save_figure(
            figures.strips(strip.images, strip.rows, strip.columns, groups=strip.groups), out
        )
    if out.suffix == ".gif":
        figures.save_gif(out, strip.images)
    else:
        _write_arrays(out, strip.images.flatten(0, 1), strip.latents.flatten(0, 1))
    return [out]


def _write_arrays(out: Path, images: Tensor, latents: Tensor) -> None:
    pixels, codes = images.cpu().float().numpy(), latents.flatten(1).cpu().float().numpy()

    def write(path: Path) -> None:
        with open(path, "wb") as file:
            np.savez(file, images=pixels, latents=codes)

    write_atomically(out, write)


if __name__ == "__main__":
    main()
