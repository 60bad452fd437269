"""``python -m pyro_lrp.sample``: pictures or arrays from a trained run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig
from torch import Tensor

from pyro_lrp import config, figures, rundir
from pyro_lrp.checkpoint import write_atomically
from pyro_lrp.cli import command
from pyro_lrp.devices import choose_device
from pyro_lrp.errors import UserError
from pyro_lrp.models import Draw
from pyro_lrp.randomness import seeded

_MODES = ("prior",)


@command("sample")
def main(cfg: DictConfig) -> None:
    """Draw, then write one file."""
    options = config.options(cfg)
    if options["mode"] not in _MODES:
        raise UserError(f"mode={options['mode']} is unknown; the known ones are: {', '.join(_MODES)}")
    run = Path(str(options["run"])).expanduser()
    default = run / "figures" / f"{options['mode']}.png"
    out = default if options["out"] is None else Path(str(options["out"])).expanduser()
    if out.suffix not in (".png", ".npz"):
        raise UserError(f"out must end in .png or .npz, got {out}")
    device = choose_device(options["device"])
    context = _contexts(run, options)
    autoencoder = config.load(run, allow_targets=options["allow_targets"]).to(device)
    with seeded(options["seed"], "sample"):
        context = None if context is None else context.to(device)
        draw = autoencoder.draw(options["n"], options["temperature"], context)
    if draw.non_finite:
        print(f"{draw.non_finite} of {options['n']} samples were not finite and are left out", file=sys.stderr)
    if not len(draw.images):
        raise UserError(f"none of the {options['n']} samples of {run} is finite: nothing is written")
    _write(out, draw)
    print(out)


def _contexts(run: Path, options: dict[str, Any]) -> Tensor | None:
    meaning = config.contexts(rundir.read_identity(run))
    if meaning is not None:
        return meaning.encode(options["context"], options["n"])
    if options["context"] is not None:
        raise UserError(f"context has no effect: the prior of {run} takes none")
    return None


def _write(out: Path, draw: Draw) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.suffix == ".png":
        figures.save_png(out, figures.grid(draw.images))
        return
    images, latents = draw.images.cpu().float().numpy(), draw.latents.flatten(1).cpu().float().numpy()

    def write(path: Path) -> None:
        with open(path, "wb") as file:
            np.savez(file, images=images, latents=latents)

    write_atomically(out, write)


if __name__ == "__main__":
    main()
