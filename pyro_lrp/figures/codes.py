"""Samples of a prior that was fitted to codes, as arrays."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pyro_lrp.core.errors import UserError
from pyro_lrp.core.files import write_atomically
from pyro_lrp.core.randomness import seeded
from pyro_lrp.figures.output import file_name, output_file
from pyro_lrp.fitting.folder import contexts, opened

__all__ = ["USED", "write_samples"]

_MOST_NUMBERS = 2**30  # of all codes that are drawn at once; 4 GiB
USED = ("n", "context", "temperature", "seed", "out")
"""Options of the command ``sample`` that have an effect."""

_ENDINGS = (".npy", ".npz")


def write_samples(options: Mapping[str, Any], changed: Mapping[str, Any]) -> Path:
    """Draw codes, and write them to ``out``: an array, or ``codes`` in an ``.npz`` file.

    Args:
        options: Those of the command ``sample``.
        changed: Those whose values are not the usual ones: they are part of the file's name.

    Returns:
        The file.
    """
    fitted = opened(options)
    n = options["n"]
    if n * math.prod(fitted.shape) > _MOST_NUMBERS:
        raise UserError(f"n={n} asks for codes of more than {_MOST_NUMBERS:,} numbers")
    context = contexts(fitted, options["context"], n)
    default = Path(options["run"]).expanduser() / Path(file_name("samples", changed)).with_suffix(".npy")
    out = output_file(options["out"], default, _ENDINGS, pair=False)
    with seeded(options["seed"], "sample", "codes"):
        codes = fitted.sample(n, context, options["temperature"]).cpu().numpy()

    def write(path: Path) -> None:
        with open(path, "wb") as file:
            if out.suffix.lower() == ".npz":
                np.savez(file, codes=codes)
            else:
                np.save(file, codes)

    write_atomically(out, write)
    return out
