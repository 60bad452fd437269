"""What a run that is given poses can show: samples of poses, appearances moved to other poses, Fig. 9."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pyro_lrp import figures
from pyro_lrp.core.errors import UserError
from pyro_lrp.core.randomness import seeded
from pyro_lrp.figures.requests import Tour, noted
from pyro_lrp.latents.views import Strip, decode, means
from pyro_lrp.people.poses import JOINTS, stick_figures

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["diversity", "in_turn", "poses", "samples", "transfer"]


def poses(tour: Tour, usual: int) -> tuple[list[str], Tensor]:
    """Names and joints ``(P, 30)`` of the poses asked for: test images by their number, the first by default.

    Raises:
        UserError: If the run is given no poses, or there is no such test image.
    """
    if tour.identity["context"] is None or tour.identity["context"]["kind"] != "pose":
        raise UserError("pose has no effect: this run is given no poses")
    count = len(tour.data.test)
    chosen = tour.options["pose"]
    chosen = list(range(min(usual, count))) if chosen is None else chosen
    chosen = chosen if isinstance(chosen, list) else [chosen]
    outside = [number for number in chosen if not 0 <= number < count]
    if outside:
        last = count - 1
        raise UserError(f"pose: {outside[0]} is outside the test images of {tour.data.name}, 0 to {last}")
    context = tour.data.test[torch.tensor(chosen)].context
    assert context is not None, "its kind is pose"
    return [f"pose of test {number}" for number in chosen], context.to(tour.device)


def samples(tour: Tour) -> Strip:
    """A row for each pose: its stick figure, and samples of the prior given it, ``n`` in all or a few more."""
    names, given = poses(tour, min(8, tour.options["n"]))
    each = -(-tour.options["n"] // len(names))
    with seeded(tour.options["seed"], "sample"):
        draw = _drawn(tour, given.repeat_interleave(each, 0))
    images = draw[0].unflatten(0, (len(names), each))
    codes = draw[1].unflatten(0, (len(names), each))
    shown = torch.cat([_figures(tour, given)[:, None], images], 1)
    return Strip(shown, torch.cat([codes[:, :1], codes], 1), names, ["pose", *[""] * each])


def in_turn(tour: Tour) -> Tensor:
    """The poses asked for, one after another, ``n`` of them: ``(n, 30)``."""
    _, given = poses(tour, 8)
    return given[torch.arange(tour.options["n"], device=given.device) % len(given)]


def transfer(tour: Tour) -> Strip:
    """The appearance of one image in the pose of another: a row for each image, a column for each pose."""
    names, given = poses(tour, 6)
    titles, x, own, notes = tour.images(4)
    z = means(tour.autoencoder, x, own)
    codes = z[:, None].expand(-1, len(given), -1)
    made = torch.stack([decode(tour.autoencoder, codes[:, p], pose.expand(len(x), -1))
                        for p, pose in enumerate(given)], 1)  # fmt: skip
    above = torch.cat([torch.ones_like(x[:1]), _figures(tour, given)])
    images = torch.cat([above[None], torch.cat([x[:, None], made], 1)])
    beside = torch.cat([torch.zeros_like(codes[:1]), codes])
    beside = torch.cat([beside[:, :1], beside], 1)
    columns = ["appearance", *(name.removeprefix("pose of ") for name in names)]
    return noted(Strip(images, beside, ["pose", *titles], columns), notes)


def diversity(tours: Sequence[Tour]) -> Figure:
    """Fig. 9: for each pose a row of samples of each run; before them the image of the pose, and the pose."""
    if len(tours) < 2 or len({(tour.data.name, tour.data.image_shape) for tour in tours}) > 1:
        raise UserError("runs: figure 9 compares two runs or more, of the same data set")
    rows, labels = [], []
    per_run = []
    for tour in tours:
        names, given = poses(tour, 3)
        each = max(1, min(8, tour.options["n"] // len(names)))
        with seeded(0, "figure", "diversity"):  # the same noise for each run
            per_run.append(_drawn(tour, given.repeat_interleave(each, 0))[0].unflatten(0, (len(names), each)))
    test = tours[0].data.test
    numbers = torch.tensor([int(name.rsplit(" ", 1)[1]) for name in names])
    real, shown = test[numbers].batch(slice(None)).x, _figures(tours[0], given).cpu()
    for p, name in enumerate(names):
        for tour, images in zip(tours, per_run, strict=True):
            rows.append(torch.cat([real[p : p + 1], shown[p : p + 1], images[p].cpu()]))
            labels.append(f"{name}\n{tour.identity['presets']['model']}")
    columns = ["image", "pose", "samples", *[""] * (each - 1)]
    return figures.strips(torch.stack(rows), labels, columns, groups=len(tours))


def _drawn(tour: Tour, given: Tensor) -> tuple[Tensor, Tensor]:
    """Images and codes."""
    draw = tour.autoencoder.draw(len(given), tour.options.get("temperature", 1.0), given)
    if draw.non_finite:
        raise UserError(f"{draw.non_finite} of {len(given)} samples are not finite: there is nothing to show")
    return draw.images, draw.latents


def _figures(tour: Tour, given: Tensor) -> Tensor:
    return stick_figures(given.reshape(-1, len(JOINTS), 2), tour.data.image_shape[-1])
