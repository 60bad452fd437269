"""The paper's figures of the latent space, from trained runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pyro_lrp import figures
from pyro_lrp.core.errors import UserError
from pyro_lrp.core.randomness import seeded
from pyro_lrp.data import chunks
from pyro_lrp.figures import posed
from pyro_lrp.figures.output import draw_strip
from pyro_lrp.figures.requests import Request, edit, interpolate, some, traverse
from pyro_lrp.figures.words import preset
from pyro_lrp.latents import views
from pyro_lrp.latents.views import Distance, Space, decode, means
from pyro_lrp.metrics.functional import classifier_two_sample_test

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["FIGURES"]

_POINTS = 5000  # points of a cloud
_GRID = 120  # points per side of a grid of densities
_ARROWS = 14  # arrows of a force
_STEPS = 16  # images of a sequence of Fig. 8
_SEQUENCES = 50  # sequences of Fig. 8 that are decoded at once

LogDensity = Callable[[Tensor], Tensor]
Arrows = tuple[np.ndarray, np.ndarray]


def forces(requests: Sequence[Request]) -> Figure:
    """Fig. 1: contours of p(z) and q(z) of runs with two-dimensional codes, and the forces of training."""
    return figures.forces([_panel_of_forces(request) for request in requests])


def _panel_of_forces(request: Request) -> dict[str, Any]:
    """One panel of Fig. 1.

    The prior pulls codes along the gradient of log p(z) where the run regularizes them (beta > 0). The codes
    pull a learned prior along the gradient of log q(z).
    """
    _require_two_dimensions(request)
    prior = request.autoencoder.prior
    beta = request.run.settings.beta
    learned = any(parameter.requires_grad for parameter in prior.parameters())
    z, loc, scale = _posterior(request)
    with torch.no_grad(), seeded(0, "figure", "forces"):
        samples = prior().sample((len(z),)).cpu()
    low, high = _square(*_limits(z, samples))
    x, y, grid = _mesh(low, high)
    reach = 0.12 * (high - low).min().item()

    def log_p(points: Tensor) -> Tensor:
        return prior().log_prob(points.to(request.device)).cpu()

    def log_q(points: Tensor) -> Tensor:
        return _log_mixture(points, loc, scale)

    with torch.no_grad():
        density_p = log_p(grid).exp()
        density_q = log_q(grid).exp()
    panel = {
        "title": f"fixed prior, β = {beta:g}",
        "x": x,
        "y": y,
        "prior": density_p.reshape(x.shape).numpy(),
        "posterior": density_q.reshape(x.shape).numpy(),
    }
    if beta > 0:
        panel["on_codes"] = _arrows(log_p, z, reach * min(1.0, beta))
    if learned:
        panel["title"] = f"learned prior, β = {beta:g}"
        panel["on_prior"] = _arrows(log_q, samples, reach)
    return panel


def _limits(*clouds: Tensor) -> tuple[Tensor, Tensor]:
    """The lower and the upper corner of a rectangle around clouds of points, without outliers."""
    stacked = torch.stack(clouds)
    low = stacked.quantile(0.01, 1).amin(0)
    high = stacked.quantile(0.99, 1).amax(0)
    return low, high


def _square(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """The corners of the square around a rectangle: panels of one scale on both axes share one height."""
    middle = (low + high) / 2
    reach = (high - low).max() / 2
    return middle - reach, middle + reach


def latent(requests: Sequence[Request]) -> Figure:
    """Fig. 2: a two-dimensional latent space: codes in z_0, codes in z_T by class, codes, prior samples."""
    request = _only(requests)
    _require_two_dimensions(request)
    prior = request.autoencoder.prior
    if not prior.has_base or prior.context_dim:
        raise UserError("figure 2 needs a run whose prior has a base and no context")
    z, _, _ = _posterior(request)
    with torch.no_grad(), seeded(0, "figure", "latent"):
        base = prior.to_base(z.to(request.device)).cpu()
        samples = prior().sample((len(z),)).cpu()
    labels = None
    classes = None
    shown = some(request.data.test, _POINTS, "cloud").labels
    if shown is not None:
        labels = shown.numpy()
        classes = list(request.data.classes)
    return figures.latent_spaces(_latent_panels(base, z, samples, labels), classes)


def _latent_panels(base: Tensor, z: Tensor, samples: Tensor, labels: np.ndarray | None) -> list[dict[str, Any]]:
    """The panels of Fig. 2, from codes in z_0 and in z_T and prior samples in z_T."""
    accuracy = classifier_two_sample_test(samples, z).accuracy
    mean = base.mean(0).abs().max()
    variances = " and ".join(f"{variance:.2f}" for variance in base.var(0).tolist())
    limits = np.percentile(z.numpy(), (0.5, 99.5), axis=0)
    return [
        {
            "title": "(a) f(z), z ~ q(z)",
            "points": base,
            "labels": labels,
            "unit_circles": True,
            "note": f"mean within {mean:.2f} of 0,\nvariances {variances}",
            "limits": np.array([[-3.6, -3.6], [3.6, 3.6]]),
        },
        {
            "title": "(b) z ~ q(z), by class",
            "points": z,
            "labels": labels,
            "limits": limits,
        },
        {
            "title": "(c) z ~ q(z)",
            "points": z,
            "limits": limits,
        },
        {
            "title": "(d) z ~ p(z)",
            "points": samples,
            "note": f"two-sample accuracy\n{accuracy:.3f} (chance 0.5)",
            "limits": limits,
        },
    ]


def interpolation(requests: Sequence[Request]) -> Figure:
    """Fig. 4: paths between test images in z_0, with the real images at both ends."""
    request = _only(requests)
    return draw_strip(interpolate(request))


def _attributes(request: Request) -> list[Any]:
    """The attributes that were asked for: none, one, or a list."""
    wanted = request.options["attributes"]
    if wanted is None:
        return []
    if isinstance(wanted, list):
        return wanted
    return [wanted]


def edits(requests: Sequence[Request]) -> Figure:
    """Fig. 6: an attribute added to images, in z_0 and below in z_T."""
    request = _only(requests)
    names = _attributes(request) or ["Eyeglasses"]
    if len(names) > 1:
        raise UserError(f"attributes: this figure is of 1 attribute, got {len(names)}")
    space = request.options["space"] or "both"
    strip = edit(request.with_options(space=space, attribute=names[0]))
    return draw_strip(strip)


def overview(requests: Sequence[Request]) -> Figure:
    """Fig. 7: for each run, prior samples beside a traversal of its first principal component."""
    rows = []
    labels = []
    for request in requests:
        settings = request.run.settings
        walk = traverse(request.with_options(components=[0], space="latent"))
        with seeded(0, "figure", "overview"):
            context = _random_contexts(request, 4)
            samples = request.autoencoder.draw(4, context=context).images
        rows.append(torch.cat([samples.cpu(), walk.images[0].cpu()]))
        labels.append(f"{preset(settings.preset('model'))}\nβ = {settings.beta:g}")
    columns = ["", "samples", "", "", *walk.columns]
    return figures.strips(torch.stack(rows), labels, columns)


@torch.no_grad()
def change(requests: Sequence[Request]) -> Figure:
    """Fig. 8: perceptual change per step as an attribute is added: in z_0, in z_T and at constant speed."""
    request = _only(requests)
    if not request.autoencoder.prior.has_base:
        raise UserError("figure 8 compares z_0 with z_T, and this run's prior has no base")
    distance = request.distance()
    codes = request.training_codes()
    names = _attributes(request) or ["Eyeglasses", "Smiling", "Male", "Blond_Hair"]
    changes = {}
    for name in map(str, names):
        direction = request.direction(name, codes)
        changes[name] = _changes_by_path(request, name, direction, distance)
    return figures.change_bands(changes)


def _changes_by_path(
    request: Request, name: str, direction: Tensor, distance: Distance
) -> dict[str, np.ndarray]:
    """Changes from image to image along each kind of path, shape ``(sequences, steps - 1)``."""
    autoencoder = request.autoencoder
    x, context = request.without(name, request.options["n"])
    z = means(autoencoder, x, context)
    t = torch.linspace(0, 1, _STEPS, device=z.device)
    changes = {}
    for label, path in _paths(request, t, distance).items():
        parts = []
        for rows in torch.arange(len(z)).split(_SEQUENCES):
            codes = path(z[rows], z[rows] + direction, context[rows])
            images = decode(autoencoder, codes, context[rows])
            parts.append(views.changes(images, distance).cpu())
        changes[label] = torch.cat(parts).double().numpy()
    return changes


def _paths(request: Request, t: Tensor, distance: Distance) -> dict[str, Callable[..., Tensor]]:
    """The paths of Fig. 8 by label: functions of both ends and their contexts."""

    def in_base(a: Tensor, b: Tensor, context: Tensor) -> Tensor:
        space = Space(request.autoencoder, "base", context)
        return space.path(a, b, t)

    def in_latent(a: Tensor, b: Tensor, context: Tensor) -> Tensor:
        space = Space(request.autoencoder, "latent", context)
        return space.path(a, b, t)

    def at_even_speed(a: Tensor, b: Tensor, context: Tensor) -> Tensor:
        space = Space(request.autoencoder, "base", context)
        return space.at_even_speed(a, b, len(t), distance)

    return {
        "z_0": in_base,
        "z_T": in_latent,
        "z_0, even speed": at_even_speed,
    }


def _only(requests: Sequence[Request]) -> Request:
    """The request of a figure that shows one run."""
    if len(requests) != 1:
        raise UserError(f"runs: this figure is of 1 run, got {len(requests)}")
    return requests[0]


def _require_two_dimensions(request: Request) -> None:
    shape = tuple(request.autoencoder.prior.event_shape)
    if shape != (2,):
        raise UserError(f"this figure needs latent_dim=2, and the codes of this run have shape {shape}")


@torch.no_grad()
def _posterior(request: Request) -> tuple[Tensor, Tensor, Tensor]:
    """A sample, the mean and the standard deviation of q(z|x) of test images, each ``(N, 2)`` on the CPU."""
    samples = []
    locs = []
    scales = []
    test = some(request.data.test, _POINTS, "cloud").to(request.device)
    for number, batch in enumerate(chunks(test)):
        q = request.autoencoder.encode(batch.x, batch.context)
        with seeded(0, "figure", "codes", number):
            samples.append(q.sample().cpu())
        locs.append(q.mean.cpu())
        scales.append(q.stddev.cpu())
    return torch.cat(samples), torch.cat(locs), torch.cat(scales)


def _log_mixture(points: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """The log density of q(z), with posteriors widened so that narrow ones overlap."""
    width = (scale.square() + (0.15 * loc.std(0)).square()).sqrt()
    normal = torch.distributions.Normal(loc, width)
    parts = []
    for chunk in points.split(500):
        log_probs = normal.log_prob(chunk[:, None]).sum(-1)
        parts.append(log_probs.logsumexp(1) - np.log(len(loc)))
    return torch.cat(parts)


def _mesh(low: Tensor, high: Tensor) -> tuple[np.ndarray, np.ndarray, Tensor]:
    """A grid over a rectangle with a margin: both coordinates, and the points ``(_GRID ** 2, 2)``."""
    pad = 0.15 * (high - low)
    starts = (low - pad).tolist()
    ends = (high + pad).tolist()
    axes = [torch.linspace(start, end, _GRID) for start, end in zip(starts, ends, strict=True)]
    x, y = torch.meshgrid(*axes, indexing="xy")
    points = torch.stack([x.flatten(), y.flatten()], 1)
    return x.numpy(), y.numpy(), points


def _arrows(log_density: LogDensity, points: Tensor, reach: float) -> Arrows:
    """Starts and directions of arrows along the gradient of a log density.

    Args:
        log_density: The log density.
        points: Points ``(N, 2)``, from which starts are chosen at even intervals.
        reach: The length of an arrow with the median gradient; others are scaled by at most 1.5.
    """
    interval = max(1, len(points) // _ARROWS)
    start = points[::interval][:_ARROWS].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(log_density(start).sum(), start)
    length = gradient.norm(dim=1, keepdim=True).clamp_min(1e-12)
    relative = (length / length.median()).clamp(0.3, 1.5)
    direction = gradient / length * reach * relative
    return start.detach().numpy(), direction.numpy()


def _random_contexts(request: Request, n: int) -> Tensor:
    """Contexts of ``n`` random training images; of length 0 if the prior is not conditional."""
    if not request.autoencoder.prior.context_dim:
        return torch.zeros(n, 0, device=request.device)
    context = request.data.train.context
    rows = torch.randint(len(context), (n,))
    return context[rows].to(request.device)


FIGURES: dict[int, Callable[[Sequence[Request]], Figure]] = {
    1: forces,
    2: latent,
    4: interpolation,
    6: edits,
    7: overview,
    8: change,
    9: posed.diversity,
}
