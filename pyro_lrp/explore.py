"""``python -m pyro_lrp.explore``: a trained run in the browser.

Earlier, this was the name of :mod:`pyro_lrp.latents.views`, whose functions are still found here.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import tempfile
import time
from typing import Any

from omegaconf import DictConfig

from pyro_lrp import config
from pyro_lrp.config.command import command
from pyro_lrp.config.kinds import holds_prior
from pyro_lrp.core.errors import UserError


@command("explore")
def main(cfg: DictConfig) -> None:
    """Serve the page of a run until Ctrl-C."""
    options = config.options(cfg)
    found = importlib.util.find_spec("gradio")
    if found is None or found.origin is None:  # a mere folder of that name has no origin
        raise UserError("the page needs gradio: pip install 'pyro_lrp[explore]'")
    if holds_prior(options["run"]):
        raise UserError(
            f"run={options['run']} is a prior of codes, without networks: there are no images to explore; "
            "python -m pyro_lrp.sample draws codes from it"
        )
    with tempfile.TemporaryDirectory(prefix="pyro_lrp") as uploads:
        os.environ["GRADIO_TEMP_DIR"] = uploads  # images that are uploaded end with the page
        _serve(options)


def _serve(options: dict[str, Any]) -> None:
    from pyro_lrp.figures.explorer import Explorer
    from pyro_lrp.trainer.threads import use

    use(options["threads"])
    explorer = Explorer(config.Run.of(options), options["weights"])
    from pyro_lrp.figures.explorer.page import serve

    page = serve(explorer, options["port"])
    print(f"{page.address}  (Ctrl-C ends it)", flush=True)
    try:
        page.prepare()
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        page.close()


def __getattr__(name: str) -> Any:
    """What :mod:`pyro_lrp.latents.views` has."""
    if name.startswith("__"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("pyro_lrp.latents.views"), name)


if __name__ == "__main__":
    main()
