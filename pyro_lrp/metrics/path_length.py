"""Perceptual path length: how much an image changes with a small step on a path between two random codes."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from pyro_lrp.core.randomness import seeded
from pyro_lrp.latents import lerp, slerp
from pyro_lrp.metrics.metric import result
from pyro_lrp.metrics.perceptual_distance import Distance, Judge, at_once, place
from pyro_lrp.metrics.subject import Results, Subject
from pyro_lrp.models import Autoencoder

__all__ = ["face_crop", "path_length", "path_lengths", "perceptual_path_length"]

Path = Callable[[Tensor, Tensor, Tensor], Tensor]

_EPSILON = 1e-4
_LEAST_CROPPED = 64  # pixels: the crop of a smaller image shows too little


def path_lengths(
    generate: Callable[[Tensor], Tensor], a: Tensor, b: Tensor, t: Tensor, distance: Distance, *,
    path: Path = slerp, epsilon: float = _EPSILON,
) -> Tensor:  # fmt: skip
    r"""Squared speeds on paths, :math:`d(G(path(a, b; t)), G(path(a, b; t + \epsilon))) / \epsilon^2`.

    A distance that goes as the square of a difference, such as LPIPS, makes them independent of the step. For
    such small ones use float64.

    Args:
        generate: Maps codes to images. It is called once, with the points at ``t`` and after them those at
            ``t + epsilon``: should it solve an equation in steps of its choice, both have the same.
        a: Where paths begin, shape ``(B, d)``.
        b: Where they end.
        t: Where on the path, from 0 to 1, shape ``(B,)``.
        distance: Of two batches of images; ``(B,)``, or with columns of several distances.
        path: :func:`~pyro_lrp.latents.slerp` or :func:`~pyro_lrp.latents.lerp`.
        epsilon: The step.

    Returns:
        Shape ``(B,)``, or that of the distances.

    References:
        Karras et al. (2019), A Style-Based Generator Architecture for GANs, section 4.1, arXiv:1812.04948.

    >>> a, b = torch.zeros(1, 3).double(), torch.ones(1, 3).double()
    >>> lengths = path_lengths(
    ...     lambda z: z, a, b, torch.zeros(1).double(), lambda x, y: (x - y).square().sum(1), path=lerp)
    >>> round(lengths.item(), 6)
    3.0
    """
    images = generate(torch.cat([path(a, b, t), path(a, b, t + epsilon)]))
    return distance(*images.chunk(2)) / epsilon**2


def path_length(values: Tensor) -> float:
    """The mean of path lengths without those below their 1st or above their 99th percentile; NaN of none.

    Args:
        values: Shape ``(n,)``.

    References:
        Karras et al. (2019), whose code takes the next lower and the next higher value as percentiles.

    >>> path_length(torch.arange(200.0))  # 0 and 199 are dropped
    99.5
    """
    if not len(values):
        return math.nan
    values = values.double()
    low, high = _percentiles(values)
    return values[(values >= low) & (values <= high)].mean().item()


def _percentiles(values: Tensor) -> tuple[Tensor, Tensor]:
    """Of float64, in which 0.99 is near enough to 99/100 for the rank of a whole number to be that number."""
    return values.quantile(0.01, interpolation="lower"), values.quantile(0.99, interpolation="higher")


def _trimmed_error(values: Tensor) -> float:
    """Standard error of :func:`path_length`: a trimmed mean's, by the winsorized variance (Tukey, 1963)."""
    if len(values) < 2:
        return math.nan
    return values.clamp(*_percentiles(values)).std().item() / (0.98 * math.sqrt(len(values)))


def face_crop(images: Tensor) -> Tensor:
    """The part of an aligned portrait that shows the face.

    Args:
        images: Square, shape ``(B, C, 8c, 8c)``.

    Returns:
        Rows ``3c`` to ``7c`` and columns ``2c`` to ``6c``, shape ``(B, C, 4c, 4c)``.

    References:
        Karras et al. (2019), whose code crops so before it measures path lengths.
    """
    c = images.shape[-2] // 8
    return images[..., 3 * c : 7 * c, 2 * c : 6 * c]


# --------------------------------------------------------------------- of a trained model


@torch.no_grad()
def perceptual_path_length(subject: Subject, name: str, judge: Callable[[Subject], Judge]) -> Results:
    """Path lengths between prior samples in z_0 (round, if the prior has a base) and in z_T (straight).

    Both have the same endpoints. All is computed in float64, on a copy of the model.

    Args:
        subject: Under judgement; 100,000 pairs of codes by default.
        name: Of the results: ``<name>_z0`` and ``<name>_zT``, and with ``_cropped`` of the face alone.
        judge: Whose distance.
    """
    autoencoder = copy.deepcopy(subject.autoencoder).to(place(subject)).double().eval()
    found, n = judge(subject), subject.count(100_000, 2_000)
    crops = _crops(subject, found)

    def distance(x: Tensor, y: Tensor) -> Tensor:
        return torch.stack([found.distance(crop(x), crop(y)) for crop in crops.values()], 1)

    results = {}
    for space in ("z0", "zT") if autoencoder.prior.has_base else ("zT",):
        sizes = torch.ones(n).split(at_once(subject))
        parts = [
            _lengths(subject, autoencoder, distance, space, number, len(size))
            for number, size in enumerate(subject.steps(sizes, n))
        ]
        for suffix, values in zip(crops, torch.cat(parts).unbind(1), strict=True):
            kept = values[values.isfinite()]
            protocol = {**found.record, **_protocol(autoencoder, space), "crop": _WORDS[suffix]}
            results[f"{name}_{space}{suffix}"] = result(
                subject, path_length(kept), len(kept), protocol,
                standard_error=_trimmed_error(kept), non_finite=n - len(kept),
            )  # fmt: skip
    return results


_WORDS = {"": "none", "_cropped": "the face: rows 3/8 to 7/8, columns 2/8 to 6/8, as in the paper"}


def _crops(subject: Subject, judge: Judge) -> dict[str, Callable[[Tensor], Tensor]]:
    """By the suffix of their results."""
    _, height, width = subject.data.image_shape
    crops: dict[str, Callable[[Tensor], Tensor]] = {"": lambda images: images}
    if judge.any_size and height == width and height % 8 == 0 and height >= _LEAST_CROPPED:
        crops["_cropped"] = face_crop
    return crops


def _lengths(
    subject: Subject, autoencoder: Autoencoder, distance: Distance, space: str, number: int, size: int
) -> Tensor:
    """Of one chunk, on the CPU; endpoints and times are the same in either space."""
    prior, device = autoencoder.prior, place(subject)
    with seeded(subject.seed, "evaluate", "path_length", number):
        context = subject.contexts(size)
        context = context.to(device).double()
        given = prior.base(context) if prior.has_base else prior(context)
        a, b = (given.sample() for _ in range(2))
        t = torch.rand(size, dtype=torch.float64, device=device)
    twice = torch.cat([context, context])

    def generate(points: Tensor) -> Tensor:
        z = points.reshape(-1, *prior.event_shape)
        return autoencoder.decode(prior.to_latent(z, twice) if space == "z0" else z, twice)

    path = slerp if space == "z0" else lerp
    with _doubles():
        if space == "zT" and prior.has_base:
            a, b = prior.to_latent(torch.cat([a, b]), twice).chunk(2)
        return path_lengths(generate, a.flatten(1), b.flatten(1), t, distance, path=path).cpu()


@contextmanager
def _doubles() -> Iterator[None]:
    """New tensors are float64: Pyro's autoregressive transforms make some of the default type."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _protocol(autoencoder: Autoencoder, space: str) -> dict[str, Any]:
    prior = autoencoder.prior
    return {
        "endpoints": "samples of the prior's base" if prior.has_base else "prior samples",
        "path": "spherical, in z_0" if space == "z0" else "straight, in z_T",
        "context": "of random training images, one for both ends" if prior.context_dim else None,
        "t": "uniform on [0, 1]",
        "epsilon": _EPSILON,
        "left_out": "below the 1st and above the 99th percentile",
        "images": "decoder means, neither clipped nor rounded",
        "precision": "float64",
        "error_of_the_prior's_map": prior.tolerance if space == "z0" else 0.0,
    }
