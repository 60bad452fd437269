"""``python -m pyro_lrp.fit``: a learned prior for codes that an autoencoder elsewhere made."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from pyro_lrp.config.command import run_plain
from pyro_lrp.core.arguments import listed
from pyro_lrp.core.errors import UserError, printable

HELP = """\
Fit a prior to codes that an autoencoder elsewhere made: no images and no network are needed.

  python -m pyro_lrp.fit codes=FILE [prior=auto|NAME] [seconds=60] [key=value ...]

  codes=FILE        .npy, .npz, .pt (tensors alone) or .safetensors: floats (N, d), or maps (N, C, H, W). Of
                    several arrays the one called codes; labels or context beside it are taken as well
  context=FILE      what the prior is conditional on: numbers (N, k), or class labels (N,); or labels=FILE
  held_out=FILE     further codes, to judge by. Default: a tenth of the codes, at most 5,000
  prior=auto        mixtures, flow matching and flows compete; the one whose samples are nearest to held-out
                    codes wins. Or a file of conf/prior, or prior/NAME.yaml of yours with --config-dir DIR
  prior.KEY=        its arguments, such as prior.components=50
  seconds=60        for learning and judging
  out=FOLDER        where the prior goes. Default: runs/fit/NAME, for codes in NAME.npy
  n=1000            samples, in FOLDER/samples.npy
  seed=0 device=auto|cpu|cuda|mps threads=auto|N
  allow_targets=[]  modules of your own that the prior's configuration names

The folder is one for sample (of codes), evaluate and check, as in evaluate run=runs/fit/NAME. In Python:

  fitted = pyro_lrp.fit(codes, seconds=60)        # or pyro_lrp.load("runs/fit/NAME")
  fitted.sample(100), fitted.log_prob(codes), print(fitted), fitted.prior
"""

_KEYS = (
    "codes", "context", "labels", "held_out", "prior", "seconds", "out", "n", "seed", "device", "threads",
    "allow_targets",
)  # fmt: skip


class Typed(NamedTuple):
    """The arguments of the command.

    Attributes:
        options: By key.
        prior: The prior and its arguments, as typed.
        config_dir: The folder of ``--config-dir``.
    """

    options: dict[str, str]
    prior: list[str]
    config_dir: str | None


def main() -> None:
    """The command."""
    run_plain("fit", HELP, lambda arguments: _fit(parse(arguments)))


def parse(arguments: Sequence[str]) -> Typed:
    """The arguments of the command, sorted.

    Raises:
        UserError: If one is unknown, or no codes are named.
    """
    options: dict[str, str] = {}
    prior = []
    config_dir = None
    rest = iter(arguments)
    for argument in rest:
        key, equals, value = argument.partition("=")
        if argument == "--config-dir":
            config_dir = next(rest, None)
        elif key == "--config-dir":
            config_dir = value
        elif not equals or key.startswith("-"):
            raise UserError(f"{argument} is no argument: expected key=value; see --help")
        elif key == "prior" or key.startswith("prior."):
            prior.append(argument)
        elif key in _KEYS:
            options[key] = value
        else:
            raise UserError(f"unknown key {key}; the known ones are {', '.join(_KEYS)}; see --help")
    if "labels" in options:
        if "context" in options:
            raise UserError("labels and context: give one of them")
        options["context"] = options.pop("labels")
    if "codes" not in options:
        raise UserError("which codes? say codes=FILE; see --help")
    return Typed(options, prior, config_dir)


def _fit(typed: Typed) -> None:
    """Read the codes, fit, write the folder, print the table."""
    import numpy as np

    from pyro_lrp import fitting  # torch is imported here: --help does not wait for it
    from pyro_lrp.fitting.folder import remember_codes

    options = typed.options
    files = fitting.read_codes(options)
    prior: Any = typed.prior or "auto"
    if "prior=auto" in prior:
        if len(prior) > 1:
            raise UserError(f"{prior[-1]} needs a prior: say prior=NAME instead of prior=auto")
        prior = "auto"
    n = _whole(options, "n", 1000)
    folder = _made(Path(options.get("out") or Path("runs", "fit", Path(options["codes"]).stem)))
    allow_targets = listed(options.get("allow_targets", ""))
    threads = options.get("threads", "auto")
    fitted = fitting.fit(
        files.codes,
        files.context,
        prior,
        _number(options, "seconds", 60.0),
        held_out=files.held_out,
        held_out_context=files.held_out_context,
        seed=_whole(options, "seed", 0),
        device=options.get("device", "auto"),
        threads=None if threads == "auto" else _whole(options, "threads", 1),
        config_dir=typed.config_dir,
        allow_targets=allow_targets,
        log=lambda line: print(printable(line), flush=True),
    )
    path = fitted.save(folder)
    remember_codes(fitted, options, allow_targets)
    (folder / "table.txt").write_text(f"{fitted}\n", encoding="utf-8")
    print(f"\n{printable(str(fitted))}\n{path}")
    if n and not fitted.context_dim:
        np.save(folder / "samples.npy", fitted.sample(n).cpu().numpy())
        print(folder / "samples.npy")


def _made(folder: Path) -> Path:
    """A folder that exists, before a minute is spent on what goes into it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"out={folder} cannot be made ({error.strerror}): choose another folder") from error
    return folder


def _whole(options: dict[str, str], key: str, default: int) -> int:
    value = _number(options, key, default)
    if value < 0 or value != int(value):
        raise UserError(f"{key}: expected a whole number of at least 0, got {options[key]}")
    return int(value)


def _number(options: dict[str, str], key: str, default: float) -> float:
    try:
        return float(options.get(key, default))
    except ValueError:
        raise UserError(f"{key}: expected a number, got {options[key]}") from None


class _Callable(ModuleType):
    """The class of this module, which makes ``pyro_lrp.fit(...)`` a call of :func:`pyro_lrp.fitting.fit`."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        from pyro_lrp.fitting import fit

        return fit(*arguments, **options)


sys.modules[__name__].__class__ = _Callable

if __name__ == "__main__":
    main()
