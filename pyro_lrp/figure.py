"""``python -m pyro_lrp.figure``: the paper's figures of the latent space, from trained runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from pyro_lrp import config
from pyro_lrp.config.command import command
from pyro_lrp.core.errors import UserError

if TYPE_CHECKING:
    from pyro_lrp.figures.requests import Request

ENDINGS = (".png", ".pdf", ".jpg", ".jpeg")


@command("figure")
def main(cfg: DictConfig) -> None:
    """Draw a figure, and save it as .png and as .pdf unless another ending is asked for."""
    # torch is imported when a figure begins: --help does not wait for it
    from pyro_lrp import figures
    from pyro_lrp.figures.output import output_file, unused
    from pyro_lrp.figures.paper import FIGURES
    from pyro_lrp.figures.style import with_styles
    from pyro_lrp.trainer.threads import use

    options = config.options(cfg)
    number = options["number"]
    if number not in FIGURES:
        known = ", ".join(map(str, FIGURES))
        raise UserError(f"number={number} is unknown; the known ones are: {known}")
    use(options["threads"])
    with with_styles(options["style"]):
        requests = _requests(options)
        default = unused(Path(f"figure_{number}.png"))
        out = output_file(options["out"], default, ENDINGS, pair=True)
        figure = FIGURES[number](requests)
        paths = figures.save_figure(figure, out)
    for path in paths:
        print(path)


def _requests(options: dict[str, Any]) -> list[Request]:
    """A request for each run; what is no run is refused before a folder is made."""
    from pyro_lrp.figures.requests import Request

    runs = options["runs"]
    if not isinstance(runs, list):
        runs = [runs]
    requests = []
    for directory in runs:
        run = config.Run.of(options, str(directory))
        _ = run.identity
        requests.append(Request(run, options))
    return requests


if __name__ == "__main__":
    main()
