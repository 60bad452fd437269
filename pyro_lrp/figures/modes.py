"""The modes of ``sample``: each turns a request into a function that writes its result to a file."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pyro_lrp.core.errors import UserError
from pyro_lrp.core.randomness import seeded
from pyro_lrp.figures import posed
from pyro_lrp.figures.classes import draw_by_class, rows_by_class
from pyro_lrp.figures.output import write_draw, write_picture, write_strip
from pyro_lrp.figures.requests import Request, edit, interpolate, reconstruct, traverse
from pyro_lrp.latents.views import Strip

__all__ = ["ENDINGS", "MODES", "Mode", "Write", "refuse_distance_of_even"]

ENDINGS = (".png", ".jpg", ".jpeg", ".pdf", ".gif", ".npz")
_MOST_NUMBERS = 2**30  # of all images that are drawn at once; 4 GiB
Write = Callable[[Path], list[Path]]
"""Writes a result to a file; returns all files that were written."""


@dataclass(frozen=True)
class Mode:
    """A mode of ``sample``.

    Attributes:
        result: Turns a request and the ending of the file into what writes it.
        options: The options that have an effect on it.
    """

    result: Callable[[Request, str], Write]
    options: tuple[str, ...]


def refuse_distance_of_even(changed: Mapping[str, Any]) -> None:
    """Refuse a distance, or its weights, for paths of even steps, which have none."""
    if changed.get("speed", "even") != "even":
        return
    for option in ("distance", "weights"):
        if option in changed:
            raise UserError(f"{option} has no effect with speed=even: it needs speed=constant")


def _prior(request: Request, ending: str) -> Write:
    """Samples of the prior: a grid, labelled rows of a prior that is given the class or the pose, or arrays."""
    if request.options["n"] is None:  # allowed by the rule for n, which other commands share
        raise UserError("n must be a whole number of at least 1, got None")
    numbers = request.options["n"] * math.prod(request.run.settings.image_shape)
    if numbers > _MOST_NUMBERS:
        raise UserError(f"n asks for images of {numbers:,} numbers, more than the limit of {_MOST_NUMBERS:,}")
    posed.refuse_without_effect(request.run, request.options)
    wanted = request.options["context"]
    arrays = ending == ".npz"
    if request.run.condition.by_example and wanted is None and not arrays:
        return partial(write_strip, strip=posed.samples(request))
    names = request.run.condition.classes(wanted)
    if names and not arrays:
        return _by_class(request, names)
    return _draw(request)


def _draw(request: Request) -> Write:
    """Samples in a grid or as arrays."""
    run = request.run
    options = request.options
    n = options["n"]
    if run.condition.by_example and options["context"] is None:
        context = posed.in_turn(request)
    else:
        context = run.condition.parse(options["context"], n)
    with seeded(options["seed"], "sample"):
        draw = run.draw(n, options["temperature"], context)
    _report_non_finite(request, draw.non_finite, len(draw.images))
    return partial(write_draw, draw=draw)


def _by_class(request: Request, names: list[str]) -> Write:
    """A picture with a labelled row for each class."""
    options = request.options
    condition = request.run.condition
    with seeded(options["seed"], "sample"):
        images, non_finite = draw_by_class(
            request.autoencoder, condition, names, options["n"], options["temperature"]
        )
    _report_non_finite(request, non_finite, sum(map(len, images.values())))
    return partial(write_picture, picture=rows_by_class(images))


def _report_non_finite(request: Request, non_finite: int, finite: int) -> None:
    """Say how many samples are left out; refuse to go on with none."""
    total = non_finite + finite
    if non_finite:
        print(f"{non_finite} of {total} samples were not finite and are left out", file=sys.stderr)
    if not finite:
        directory = request.run.directory
        raise UserError(f"none of the {total} samples of {directory} is finite: nothing is written")


def _strip(request: Request, ending: str, make: Callable[[Request], Strip]) -> Write:
    """The strip of a mode."""
    strip = make(request)
    for note in strip.notes:
        print(note, file=sys.stderr)
    return partial(write_strip, strip=strip)


_IMAGES = ("indices", "images", "context")
_PATH = ("space", "steps")
_SPEED = ("speed", "distance", "weights")
MODES = {
    "prior": Mode(_prior, ("n", "context", "pose", "temperature", "seed")),
    "reconstruct": Mode(partial(_strip, make=reconstruct), _IMAGES),
    "interpolate": Mode(partial(_strip, make=interpolate), (*_IMAGES, *_PATH, *_SPEED)),
    "traverse": Mode(partial(_strip, make=traverse), (*_IMAGES, "components", "strength", *_PATH)),
    "edit": Mode(partial(_strip, make=edit), (*_IMAGES, "attribute", "strength", *_PATH, *_SPEED)),
    "transfer": Mode(partial(_strip, make=posed.transfer), (*_IMAGES, "pose")),
}
"""The modes by name."""
