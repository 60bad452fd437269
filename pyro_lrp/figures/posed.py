"""Figures of runs that are conditional on poses: samples by pose, transfer of appearance, and Fig. 9."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from pyro_lrp import figures
from pyro_lrp.config import Run
from pyro_lrp.core.errors import UserError
from pyro_lrp.core.randomness import seeded
from pyro_lrp.figures.requests import Request, noted
from pyro_lrp.latents.views import Strip, decode, means

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Poses", "diversity", "in_turn", "poses", "refuse_without_effect", "samples", "transfer"]


class Poses(NamedTuple):
    """Poses of test images.

    Attributes:
        indices: The indices of the test images.
        context: The poses as contexts: joints ``(P, 30)``.
    """

    indices: list[int]
    context: Tensor

    def names(self) -> list[str]:
        """A label for each pose."""
        return [f"pose of test {index}" for index in self.indices]


def refuse_without_effect(run: Run, options: Mapping[str, Any]) -> None:
    """Refuse the option ``pose`` for a run that is not conditional on poses."""
    if options["pose"] is not None:
        refuse_without_poses(run)


def refuse_without_poses(run: Run) -> None:
    """Refuse a run that is not conditional on poses."""
    if not run.condition.by_example:
        raise UserError(f"pose has no effect: {run.directory} is not conditional on poses")


def poses(request: Request, default: int) -> Poses:
    """The requested poses, by the indices of test images.

    Args:
        request: The request.
        default: The number of test images if the user names none.

    Raises:
        UserError: If the run is not conditional on poses, or there is no such test image.
    """
    refuse_without_poses(request.run)
    indices = request.options["pose"]
    if indices is None:
        indices = request.some_test_images(default)
    elif not isinstance(indices, list):
        indices = [indices]
    context = request.test_images(indices, "pose").context
    return Poses(indices, context)


def samples(request: Request) -> Strip:
    """A row for each pose: its stick figure, then samples of the prior; at least ``n`` samples in all."""
    n = request.options["n"]
    chosen = poses(request, min(8, n))
    count = len(chosen.indices)
    each = -(-n // count)
    with seeded(request.options["seed"], "sample"):
        images, codes = _draw(request, chosen.context.repeat_interleave(each, 0))
    images = images.unflatten(0, (count, each))
    codes = codes.unflatten(0, (count, each))
    sticks = _stick_figures(request, chosen.context)
    columns = ["pose", *[""] * each]
    return Strip(
        torch.cat([sticks[:, None], images], 1),
        torch.cat([codes[:, :1], codes], 1),
        chosen.names(),
        columns,
    )


def in_turn(request: Request) -> Tensor:
    """The contexts of ``n`` samples, shape ``(n, 30)``: the requested poses, repeated in turn."""
    context = poses(request, 8).context
    numbers = torch.arange(request.options["n"], device=context.device)
    return context[numbers % len(context)]


def transfer(request: Request) -> Strip:
    """The appearance of images in other poses: a row for each image, a column for each pose."""
    chosen = poses(request, 6)
    names, x, context, notes = request.images(4)
    z = means(request.autoencoder, x, context)
    codes = z[:, None].expand(-1, len(chosen.indices), -1)
    decoded = []
    for number, pose in enumerate(chosen.context):
        contexts = pose.expand(len(x), -1)
        decoded.append(decode(request.autoencoder, codes[:, number], contexts))
    corner = torch.ones_like(x[:1])
    header = torch.cat([corner, _stick_figures(request, chosen.context)])
    rows = torch.cat([x[:, None], torch.stack(decoded, 1)], 1)
    latents = torch.cat([torch.zeros_like(codes[:1]), codes])
    columns = ["appearance"]
    for index in chosen.indices:
        columns.append(f"test {index}")
    strip = Strip(
        torch.cat([header[None], rows]),
        torch.cat([latents[:, :1], latents], 1),
        ["pose", *names],
        columns,
    )
    return noted(strip, notes)


def diversity(requests: Sequence[Request]) -> Figure:
    """Fig. 9: for each pose a row of samples of each run, after the test image and its stick figure."""
    data_sets = {(request.data.name, request.data.image_shape) for request in requests}
    if len(requests) < 2 or len(data_sets) > 1:
        raise UserError("runs: figure 9 compares two runs or more, of the same data set")
    drawn = []
    for request in requests:
        chosen = poses(request, 3)
        count = len(chosen.indices)
        each = max(1, min(8, request.options["n"] // count))
        with seeded(0, "figure", "diversity"):  # the same noise for each run
            images, _ = _draw(request, chosen.context.repeat_interleave(each, 0))
        drawn.append(images.unflatten(0, (count, each)))
    test = requests[0].data.test[torch.tensor(chosen.indices)]
    real = test.batch(slice(None)).x
    sticks = _stick_figures(requests[0], chosen.context).cpu()
    rows = []
    labels = []
    for number, name in enumerate(chosen.names()):
        here = slice(number, number + 1)
        for request, images in zip(requests, drawn, strict=True):
            rows.append(torch.cat([real[here], sticks[here], images[number].cpu()]))
            labels.append(f"{name}\n{request.run.settings.preset('model')}")
    columns = ["image", "pose", "samples", *[""] * (each - 1)]
    return figures.strips(torch.stack(rows), labels, columns, groups=len(requests))


def _draw(request: Request, context: Tensor) -> tuple[Tensor, Tensor]:
    """Images and codes sampled for contexts."""
    temperature = request.options.get("temperature", 1.0)
    draw = request.autoencoder.draw(len(context), temperature, context)
    if draw.non_finite:
        raise UserError(f"{draw.non_finite} of {len(context)} samples are not finite: there is nothing to show")
    return draw.images, draw.latents


def _stick_figures(request: Request, context: Tensor) -> Tensor:
    size = request.data.image_shape[-1]
    images = request.run.condition.picture(context, size)
    assert images is not None, "poses can be drawn"
    return images
