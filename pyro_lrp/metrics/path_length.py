"""``ppl``: perceptual path length between prior samples, in the base of the prior and among codes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pyro_lrp.latents.codes import seeded_chunks
from pyro_lrp.latents.views import Space
from pyro_lrp.metrics.functional.path_lengths import EPSILON, path_length, path_length_error, path_lengths
from pyro_lrp.metrics.image_distance import (
    Distance,
    ImageDistance,
    batch_size,
    classifier_distance,
    float64_device,
    lpips_distance,
)
from pyro_lrp.metrics.metric import Metric, labels_or_attributes, result
from pyro_lrp.metrics.subject import Results, Subject
from pyro_lrp.models import Autoencoder

__all__ = ["METRICS", "face_crop", "perceptual_path_length"]

_SMALLEST_CROPPED = 64  # pixels: the crop of a smaller image shows too little
_CROPS = {
    "": "none",
    "_cropped": "the face: rows 3/8 to 7/8, columns 2/8 to 6/8, as in the paper",
}


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


@torch.no_grad()
def perceptual_path_length(subject: Subject, name: str, measure: Callable[[Subject], ImageDistance]) -> Results:
    """Path lengths between prior samples in z_0 (spherical, if the prior has a base) and in z_T (straight).

    Both spaces have the same endpoints. All numbers are float64, on a copy of the model.

    Args:
        subject: The subject; 100,000 pairs of codes by default.
        name: The name of the results: ``<name>_z0`` and ``<name>_zT``, with ``_cropped`` those of the face.
        measure: Makes the distance of images.
    """
    device = float64_device(subject)
    autoencoder = copy.deepcopy(subject.autoencoder).to(device).double().eval()
    image_distance = measure(subject)
    crops = _crops(subject, image_distance)
    n = subject.count(100_000, 2_000)

    def distance(x: Tensor, y: Tensor) -> Tensor:
        columns = [image_distance.distance(crop(x), crop(y)) for crop in crops.values()]
        return torch.stack(columns, 1)

    results = {}
    for space in subject.spaces:
        parts = _lengths(subject, autoencoder, distance, space, n)
        lengths = torch.cat([*subject.steps(parts, n)])
        for suffix, values in zip(crops, lengths.unbind(1), strict=True):
            finite = values[values.isfinite()]
            protocol = {
                **image_distance.record,
                **_protocol(autoencoder, space),
                "crop": _CROPS[suffix],
            }
            results[f"{name}_{space}{suffix}"] = result(
                subject, path_length(finite), len(finite), protocol,
                standard_error=path_length_error(finite), non_finite=n - len(finite),
            )  # fmt: skip
    return results


def _crops(subject: Subject, image_distance: ImageDistance) -> dict[str, Callable[[Tensor], Tensor]]:
    """The parts of the images that are measured, by the suffix of their results."""
    _, height, width = subject.data.image_shape
    crops: dict[str, Callable[[Tensor], Tensor]] = {"": lambda images: images}
    square = height == width and height % 8 == 0
    if image_distance.any_size and square and height >= _SMALLEST_CROPPED:
        crops["_cropped"] = face_crop
    return crops


def _lengths(
    subject: Subject, autoencoder: Autoencoder, distance: Distance, space: str, n: int
) -> Iterator[Tensor]:
    """Path lengths in chunks on the CPU; endpoints and times are the same in either space."""
    prior = autoencoder.prior
    device = float64_device(subject)

    def draw(rows: slice) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        size = rows.stop - rows.start
        context = subject.contexts(rows).to(device).double()
        if prior.has_base:
            ends = prior.base(context)
        else:
            ends = prior(context)
        a = ends.sample()
        b = ends.sample()
        t = torch.rand(size, dtype=torch.float64, device=device)
        return context, a, b, t

    labels = ("evaluate", "path_length")
    chunks = seeded_chunks(draw, n, batch_size(subject), subject.seed, *labels, by_number=True)
    for context, a, b, t in chunks:
        # points at t and after them those at t + epsilon, each with the context of its path
        twice = torch.cat([context, context])
        points = torch.cat([a, b])
        with _float64_by_default():
            if space == "zT" and prior.has_base:
                points = prior.to_latent(points, twice)
            where = Space(autoencoder, subject.spaces[space], twice)
            generate = partial(_decoded, where)
            start, end = points.flatten(1).chunk(2)
            lengths = path_lengths(generate, start, end, t, distance, path=where.curve)
        yield lengths.cpu()


def _decoded(space: Space, points: Tensor) -> Tensor:
    """Mean images of points of a space, shape ``(B, d)``."""
    autoencoder = space.autoencoder
    z = space.to_latent(points.unsqueeze(1))
    codes = z.reshape(-1, *autoencoder.prior.event_shape)
    return autoencoder.decode(codes, space.contexts(points))


@contextmanager
def _float64_by_default() -> Iterator[None]:
    """New tensors are float64: Pyro's autoregressive transforms make some of the default type."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _protocol(autoencoder: Autoencoder, space: str) -> dict[str, Any]:
    prior = autoencoder.prior
    protocol: dict[str, Any] = {
        "endpoints": "prior samples",
        "path": "straight, in z_T",
        "context": None,
        "t": "uniform on [0, 1]",
        "epsilon": EPSILON,
        "left_out": "below the 1st and above the 99th percentile",
        "images": "decoder means, neither clipped nor rounded",
        "precision": "float64",
        "error_of_the_prior's_map": 0.0,
    }
    if prior.has_base:
        protocol["endpoints"] = "samples of the prior's base"
    if prior.context_dim:
        protocol["context"] = "of test images in random order, one for both ends"
    if space == "z0":
        protocol["path"] = "spherical, in z_0"
        protocol["error_of_the_prior's_map"] = prior.tolerance
    return protocol


def _with_lpips(name: str, network: str, *, hours: bool = False) -> Metric:
    measure = partial(lpips_distance, network=network)
    compute = partial(perceptual_path_length, name=name, measure=measure)
    return Metric(compute, network=network, hours=hours)


METRICS = {
    "ppl": _with_lpips("ppl", "vgg16", hours=True),
    "ppl_squeezenet": _with_lpips("ppl_squeezenet", "squeezenet"),
    "ppl_classifier": Metric(
        partial(perceptual_path_length, name="ppl_classifier", measure=classifier_distance),
        needs=(labels_or_attributes,),
    ),
}
