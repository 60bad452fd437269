"""The paper's figures of the latent space, from trained runs; drawing is in :mod:`pyro_lrp.figures`."""

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
from pyro_lrp.figures.requests import Request, edit, interpolate, traverse
from pyro_lrp.latents import views as explore
from pyro_lrp.latents.views import Space, decode, means
from pyro_lrp.metrics.functional import classifier_two_sample_test

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["FIGURES"]

_POINTS, _GRID, _ARROWS = 5000, 120, 14  # dots of a cloud, side of a grid of densities, arrows of a force
_STEPS = 16  # images of a sequence of Fig. 8


def forces(requests: Sequence[Request]) -> Figure:
    """Fig. 1: conrequests of p(z) and q(z) of two-dimensional runs, and what training does to each."""
    return figures.forces([_panel_of_forces(request) for request in requests])


def _panel_of_forces(request: Request) -> dict[str, Any]:
    """Codes feel the prior where a run regularizes them: along the gradient of log p(z).

    A prior that learns feels the codes: where it is, along the gradient of log q(z).
    """
    _two_dimensions(request)
    prior, beta = request.autoencoder.prior, request.run.identity["beta"]
    learned = any(parameter.requires_grad for parameter in prior.parameters())
    z, loc, scale = _posterior(request)
    with torch.no_grad(), seeded(0, "figure", "forces"):
        drawn = prior().sample((len(z),)).cpu()
    both = torch.stack([z, drawn])
    low, high = both.quantile(0.01, 1).amin(0), both.quantile(0.99, 1).amax(0)
    x, y, grid = _mesh(low, high)
    reach = 0.12 * (high - low).min().item()

    def log_p(points: Tensor) -> Tensor:
        return prior().log_prob(points.to(request.device)).cpu()

    def log_q(points: Tensor) -> Tensor:
        return _log_mixture(points, loc, scale)

    with torch.no_grad():
        densities = {"prior": log_p(grid).exp(), "posterior": log_q(grid).exp()}
    return {
        "title": f"{'learned' if learned else 'fixed'} prior, β = {beta:g}",
        "x": x,
        "y": y,
        **{name: values.reshape(x.shape).numpy() for name, values in densities.items()},
        "on_codes": _arrows(log_p, z, reach * min(1.0, beta)) if beta > 0 else None,
        "on_prior": _arrows(log_q, drawn, reach) if learned else None,
    }


def latent(requests: Sequence[Request]) -> Figure:
    """Fig. 2: a two-dimensional latent space, codes in z_0 and in z_T by class, codes, and prior samples."""
    (request,) = _exactly(requests, 1)
    _two_dimensions(request)
    prior, labels = request.autoencoder.prior, request.data.test.labels
    if not prior.has_base or prior.context_dim:
        raise UserError("figure 2 needs a run whose prior has a base and no context")
    z, _, _ = _posterior(request)
    with torch.no_grad(), seeded(0, "figure", "latent"):
        base = prior.to_base(z.to(request.device)).cpu()
        samples = prior().sample((len(z),)).cpu()
    told = classifier_two_sample_test(samples, z).accuracy
    variances = " and ".join(f"{v:.2f}" for v in base.var(0).tolist())
    shown = None if labels is None else labels[: len(z)].numpy()
    limits = {"limits": np.percentile(z.numpy(), (0.5, 99.5), axis=0)}
    panels: list[dict[str, Any]] = [
        {
            "title": "(a) f(z), z ~ q(z)", "points": base, "labels": shown, "unit_circles": True,
            "note": f"mean within {base.mean(0).abs().max():.2f} of 0,\nvariances {variances}",
            "limits": np.array([[-3.6, -3.6], [3.6, 3.6]]),
        },
        {"title": "(b) z ~ q(z), by class", "points": z, "labels": shown, **limits},
        {"title": "(c) z ~ q(z)", "points": z, **limits},
        {
            "title": "(d) z ~ p(z)", "points": samples, **limits,
            "note": f"two-sample accuracy\n{told:.3f} (chance 0.5)",
        },
    ]  # fmt: skip
    classes = None if labels is None else [str(k) for k in range(int(labels.max()) + 1)]
    return figures.latent_spaces(panels, classes)


def interpolation(requests: Sequence[Request]) -> Figure:
    """Fig. 4: paths between test images in z_0, with the real images at their ends."""
    (request,) = _exactly(requests, 1)
    return _drawn(interpolate(request))


def edits(requests: Sequence[Request]) -> Figure:
    """Fig. 6: an attribute added to images, in z_0 above in z_T."""
    (request,) = _exactly(requests, 1)
    names = request.options["attributes"] or ["Eyeglasses"]
    request.options |= {"space": request.options["space"] or "both", "attribute": names[0]}
    return _drawn(edit(request))


def overview(requests: Sequence[Request]) -> Figure:
    """Fig. 7: of each run, prior samples beside a traversal of its first principal component."""
    rows, labels = [], []
    for request in requests:
        request.options |= {"components": [0], "space": "latent"}
        walk = traverse(request)
        with seeded(0, "figure", "overview"):
            context = _some_contexts(request, 4)
            samples = request.autoencoder.draw(4, context=context).images
        rows.append(torch.cat([samples.cpu(), walk.images[0].cpu()]))
        labels.append(f"{request.run.identity['presets']['model']}\nβ = {request.run.identity['beta']:g}")
    columns = ["", "samples", "", "", *walk.columns]
    return figures.strips(torch.stack(rows), labels, columns)


@torch.no_grad()
def change(requests: Sequence[Request]) -> Figure:
    """Fig. 8: perceptual change from step to step as an attribute is added, in z_0, z_T and at even speed."""
    (request,) = _exactly(requests, 1)
    if not request.autoencoder.prior.has_base:
        raise UserError("figure 8 compares z_0 with z_T, and this run's prior has no base")
    request.options["speed"] = "constant"  # asks for the distance
    distance = request.distance()
    assert distance is not None, "the speed is constant"
    codes = request.training_codes()
    found: dict[str, dict[str, np.ndarray]] = {}
    for name in request.options["attributes"] or ["Eyeglasses", "Smiling", "Male", "Blond_Hair"]:
        direction = request.direction(str(name), codes)
        x, context = request.without(str(name), request.options["n"])
        z = means(request.autoencoder, x, context)
        by_space = {}
        t = torch.linspace(0, 1, _STEPS, device=z.device)
        for label, path in _paths(request, t, distance).items():
            parts = []
            for rows in torch.arange(len(z)).split(50):
                own = context[rows]
                images = decode(request.autoencoder, path(z[rows], z[rows] + direction, own), own)
                parts.append(explore.changes(images, distance).cpu())
            by_space[label] = torch.cat(parts).double().numpy()
        found[str(name)] = by_space
    return figures.change_bands(found)


def _paths(request: Request, t: Tensor, distance: explore.Distance) -> dict[str, Callable[..., Tensor]]:
    ae = request.autoencoder
    return {
        "z_0": lambda a, b, context: Space(ae, "base", context).path(a, b, t),
        "z_T": lambda a, b, context: Space(ae, "latent", context).path(a, b, t),
        "z_0, even speed": lambda a, b, context: Space(ae, "base", context).at_even_speed(
            a, b, len(t), distance
        ),
    }


def _drawn(strip: explore.Strip) -> Figure:
    return figures.strips(strip.images, strip.rows, strip.columns, groups=strip.groups)


def _exactly(requests: Sequence[Request], count: int) -> Sequence[Request]:
    if len(requests) != count:
        raise UserError(f"runs: this figure is of {count} run, got {len(requests)}")
    return requests


def _two_dimensions(request: Request) -> None:
    found = tuple(request.autoencoder.prior.event_shape)
    if found != (2,):
        raise UserError(f"this figure needs latent_dim=2, and the codes of this run have shape {found}")


@torch.no_grad()
def _posterior(request: Request) -> tuple[Tensor, Tensor, Tensor]:
    """Of test images: a sample of q(z|x), its mean and deviation, ``(N, 2)`` on the CPU."""
    parts: list[list[Tensor]] = []
    for number, batch in enumerate(chunks(request.data.test[:_POINTS].to(request.device))):
        q = request.autoencoder.encode(batch.x, batch.context)
        with seeded(0, "figure", "codes", number):
            parts.append([t.cpu() for t in (q.sample(), q.mean, q.stddev)])
    z, loc, scale = (torch.cat(column) for column in zip(*parts, strict=True))
    return z, loc, scale


def _log_mixture(points: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """Log q(z): the mean of the posteriors, widened so that narrow ones run together."""
    width = (scale.square() + (0.15 * loc.std(0)).square()).sqrt()
    parts = []
    for some in points.split(500):
        normal = torch.distributions.Normal(loc, width)
        parts.append(normal.log_prob(some[:, None]).sum(-1).logsumexp(1) - np.log(len(loc)))
    return torch.cat(parts)


def _mesh(low: Tensor, high: Tensor) -> tuple[np.ndarray, np.ndarray, Tensor]:
    pad = 0.15 * (high - low)
    axes = [torch.linspace(float(a), float(b), _GRID) for a, b in zip(low - pad, high + pad, strict=True)]
    x, y = torch.meshgrid(*axes, indexing="xy")
    return x.numpy(), y.numpy(), torch.stack([x.flatten(), y.flatten()], 1)


def _arrows(
    log_density: Callable[[Tensor], Tensor], points: Tensor, reach: float
) -> tuple[np.ndarray, np.ndarray]:
    """Where arrows start, evenly chosen among points, and what they point along, none longer than ``reach``."""
    start = points[:: max(1, len(points) // _ARROWS)][:_ARROWS].clone().requires_grad_()
    (along,) = torch.autograd.grad(log_density(start).sum(), start)
    length = along.norm(dim=1, keepdim=True).clamp_min(1e-12)
    along = along / length * reach * (length / length.median()).clamp(0.3, 1.5)
    return start.detach().numpy(), along.numpy()


def _some_contexts(request: Request, n: int) -> Tensor:
    if not request.autoencoder.prior.context_dim:
        return torch.zeros(n, 0, device=request.device)
    context = request.data.train.context
    return context[torch.randint(len(context), (n,))].to(request.device)


FIGURES: dict[int, Callable[[Sequence[Request]], Figure]] = {
    1: forces, 2: latent, 4: interpolation, 6: edits, 7: overview, 8: change, 9: posed.diversity,
}  # fmt: skip
