"""``python -m pyro_lrp.figure``: the paper's figures of the latent space, from trained runs."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from pyro_lrp import config, figures
from pyro_lrp.config.command import command
from pyro_lrp.core.errors import UserError
from pyro_lrp.figures.paper import FIGURES
from pyro_lrp.figures.requests import Request


@command("figure")
def main(cfg: DictConfig) -> None:
    """Draw a figure and save it as .png and as .pdf."""
    options = config.options(cfg)
    number = options["number"]
    if number not in FIGURES:
        known = ", ".join(map(str, FIGURES))
        raise UserError(f"number={number} is unknown; the known ones are: {known}")
    name = options["out"] or f"figure_{number}.png"
    out = Path(str(name)).expanduser()
    if out.suffix not in (".png", ".pdf"):
        raise UserError(f"out must end in .png or .pdf, got {out}")
    runs = options["runs"]
    if not isinstance(runs, list):
        runs = [runs]
    requests = []
    for directory in runs:
        run = config.Run.of(options, str(directory))
        requests.append(Request(run, options))
    figure = FIGURES[number](requests)
    for path in figures.save_figure(figure, out):
        print(path)


if __name__ == "__main__":
    main()
