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
    """Draw one figure, as .png and as .pdf."""
    options = config.options(cfg)
    number = options["number"]
    if number not in FIGURES:
        raise UserError(f"number={number} is unknown; the known ones are: {', '.join(map(str, FIGURES))}")
    out = Path(str(options["out"] or f"figure_{number}.png")).expanduser()
    if out.suffix not in (".png", ".pdf"):
        raise UserError(f"out must end in .png or .pdf, got {out}")
    runs = options["runs"] if isinstance(options["runs"], list) else [options["runs"]]
    requests = [Request(config.Run.of(options, str(run)), dict(options)) for run in runs]
    for path in figures.save_figure(FIGURES[number](requests), out):
        print(path)


if __name__ == "__main__":
    main()
