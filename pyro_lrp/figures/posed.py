"""What a run that is given poses can show: samples of poses, appearances moved to other poses, Fig. 9."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pyro_lrp import figures
from pyro_lrp.core.errors import UserError
from pyro_lrp.core.randomness import seeded
from pyro_lrp.figures.requests import Request, noted
from pyro_lrp.latents.views import Strip, decode, means

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["diversity", "in_turn", "poses", "samples", "transfer"]


def poses(request: Request, usual: int) -> tuple[list[str], Tensor]:
    """Names and joints ``(P, 30)`` of the poses asked for: test images by their number, the first by default.

    Raises:
        UserError: If the run is given no poses, or there is no such test image.
    """
    if not request.run.condition.by_example:
        raise UserError("pose has no effect: this run is given no poses")
    chosen = request.options["pose"]
    if chosen is None:
        chosen = list(range(min(usual, len(request.data.test))))
    numbers = chosen if isinstance(chosen, list) else [chosen]
    context = request.test_images(numbers, "pose").context
    return [f"pose of test {number}" for number in numbers], context


def samples(request: Request) -> Strip:
    """A row for each pose: its stick figure, and samples of the prior given it, ``n`` in all or a few more."""
    names, given = poses(request, min(8, request.options["n"]))
    each = -(-request.options["n"] // len(names))
    with seeded(request.options["seed"], "sample"):
        draw = _drawn(request, given.repeat_interleave(each, 0))
    images = draw[0].unflatten(0, (len(names), each))
    codes = draw[1].unflatten(0, (len(names), each))
    shown = torch.cat([_figures(request, given)[:, None], images], 1)
    return Strip(shown, torch.cat([codes[:, :1], codes], 1), names, ["pose", *[""] * each])


def in_turn(request: Request) -> Tensor:
    """The poses asked for, one after another, ``n`` of them: ``(n, 30)``."""
    _, given = poses(request, 8)
    return given[torch.arange(request.options["n"], device=given.device) % len(given)]


def transfer(request: Request) -> Strip:
    """The appearance of one image in the pose of another: a row for each image, a column for each pose."""
    names, given = poses(request, 6)
    titles, x, own, notes = request.images(4)
    z = means(request.autoencoder, x, own)
    codes = z[:, None].expand(-1, len(given), -1)
    made = torch.stack([decode(request.autoencoder, codes[:, p], pose.expand(len(x), -1))
                        for p, pose in enumerate(given)], 1)  # fmt: skip
    above = torch.cat([torch.ones_like(x[:1]), _figures(request, given)])
    images = torch.cat([above[None], torch.cat([x[:, None], made], 1)])
    beside = torch.cat([torch.zeros_like(codes[:1]), codes])
    beside = torch.cat([beside[:, :1], beside], 1)
    columns = ["appearance", *(name.removeprefix("pose of ") for name in names)]
    return noted(Strip(images, beside, ["pose", *titles], columns), notes)


def diversity(requests: Sequence[Request]) -> Figure:
    """Fig. 9: for each pose a row of samples of each run; before them the image of the pose, and the pose."""
    if len(requests) < 2 or len({(request.data.name, request.data.image_shape) for request in requests}) > 1:
        raise UserError("runs: figure 9 compares two runs or more, of the same data set")
    rows, labels = [], []
    per_run = []
    for request in requests:
        names, given = poses(request, 3)
        each = max(1, min(8, request.options["n"] // len(names)))
        with seeded(0, "figure", "diversity"):  # the same noise for each run
            per_run.append(
                _drawn(request, given.repeat_interleave(each, 0))[0].unflatten(0, (len(names), each))
            )
    test = requests[0].data.test
    numbers = torch.tensor([int(name.rsplit(" ", 1)[1]) for name in names])
    real, shown = test[numbers].batch(slice(None)).x, _figures(requests[0], given).cpu()
    for p, name in enumerate(names):
        for request, images in zip(requests, per_run, strict=True):
            rows.append(torch.cat([real[p : p + 1], shown[p : p + 1], images[p].cpu()]))
            labels.append(f"{name}\n{request.run.identity['presets']['model']}")
    columns = ["image", "pose", "samples", *[""] * (each - 1)]
    return figures.strips(torch.stack(rows), labels, columns, groups=len(requests))


def _drawn(request: Request, given: Tensor) -> tuple[Tensor, Tensor]:
    """Images and codes."""
    draw = request.autoencoder.draw(len(given), request.options.get("temperature", 1.0), given)
    if draw.non_finite:
        raise UserError(f"{draw.non_finite} of {len(given)} samples are not finite: there is nothing to show")
    return draw.images, draw.latents


def _figures(request: Request, given: Tensor) -> Tensor:
    shown = request.run.condition.picture(given, request.data.image_shape[-1])
    assert shown is not None, "contexts that are given by example can be shown"
    return shown
