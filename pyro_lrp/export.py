"""``python -m pyro_lrp.export``: a trained run as a folder to share.

``pyro_lrp.Run("runs/x/seed_0").export("FOLDER")`` does the same in Python.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from pyro_lrp.config.command import run_plain
from pyro_lrp.core.arguments import listed
from pyro_lrp.core.errors import UserError, printable

if TYPE_CHECKING:  # torch is imported when there is work: --help does not wait for it
    from pyro_lrp.config import Run

HELP = """\
Write a trained run as a folder to share: weights, configuration, results, programs and a model card.

  python -m pyro_lrp.export run=DIR out=FOLDER [programs=[pt2,onnx]] [allow_targets=[]]

  run=DIR            a run directory, wherever it lies, or hf:OWNER/NAME
  out=FOLDER         a folder that does not exist, or is empty
  programs=[pt2,onnx]
                     formats in which decoder and sampler are written as programs that need no code of this
                     library: those of torch.export and ONNX; [] for none. ONNX needs three packages:
                     pip install 'pyro_lrp[export]'. Each is compared with the library's images; where a
                     prior admits none, the card says why
  allow_targets=[]   modules of your own that the run's configuration names

Written: README.md, a model card for the Hugging Face hub, with the run's own numbers and their protocols;
its license is yours to choose. figures/samples.png, config.yaml, checkpoints/last.safetensors without the
state of the optimizers, evaluation.json, summary.json, metrics.jsonl, trained_on.npz, programs/. No path of
this machine is in them. The folder is a run directory: sample, evaluate, report and pyro_lrp.load take it.

To put it on the hub: hf upload OWNER/NAME FOLDER. Then anyone who has the extra 'hub' loads it by
pyro_lrp.load("hf:OWNER/NAME").
"""

_KEYS = ("run", "out", "programs", "allow_targets")


def main() -> None:
    """The command."""
    run_plain("export", HELP, lambda arguments: _export(parse(arguments)))


def parse(arguments: Sequence[str]) -> dict[str, str]:
    """The options of the command, by key.

    Raises:
        UserError: If one is unknown, or ``run`` or ``out`` is missing.
    """
    options = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals or key.startswith("-"):
            raise UserError(f"{argument} is no argument: expected key=value; see --help")
        if key not in _KEYS:
            raise UserError(f"unknown key {key}; the known ones are {', '.join(_KEYS)}; see --help")
        options[key] = value
    for key in ("run", "out"):
        if not options.get(key):
            raise UserError(f"say {key}=..., as in python -m pyro_lrp.export run=DIR out=FOLDER; see --help")
    return options


def _export(options: dict[str, str]) -> None:
    from pyro_lrp import config
    from pyro_lrp.sharing import FORMATS

    programs = list(FORMATS)
    if "programs" in options:
        programs = listed(options["programs"])
    run = config.Run(options["run"], allow_targets=listed(options.get("allow_targets", "")))
    folder = export(run, options["out"], programs, log=lambda line: print(printable(line), flush=True))
    files = [path for path in folder.rglob("*") if path.is_file()]
    megabytes = sum(path.stat().st_size for path in files) / 1e6
    print(f"{folder}: {len(files)} files, {megabytes:.1f} MB")
    print(f"choose a license and complete {folder / 'README.md'}; then: hf upload OWNER/NAME {folder}")


def export(run: Run, folder: str | Path, *arguments: Any, **options: Any) -> Path:
    """Write a run as a folder to share; see :func:`pyro_lrp.sharing.export`."""
    from pyro_lrp import sharing

    return sharing.export(run, folder, *arguments, **options)


class _Callable(ModuleType):
    """The class of this module, which makes ``pyro_lrp.export(...)`` a call of :func:`export`."""

    def __call__(self, run: Run, folder: str | Path, *arguments: Any, **options: Any) -> Path:
        return export(run, folder, *arguments, **options)


sys.modules[__name__].__class__ = _Callable

if __name__ == "__main__":
    main()
