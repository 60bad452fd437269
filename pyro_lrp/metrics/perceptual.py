"""Perceptual differences: between samples of one prior, and along a path between two images."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pyro_lrp.core.modules import eval_mode
from pyro_lrp.core.randomness import seeded
from pyro_lrp.latents.codes import finite_rows, seeded_chunks
from pyro_lrp.latents.views import Space, changes, decode, means
from pyro_lrp.metrics.conditional import true_images
from pyro_lrp.metrics.image_distance import (
    ImageDistance,
    batch_size,
    classifier_distance,
    float64_device,
    lpips_distance,
)
from pyro_lrp.metrics.metric import Metric, enough_images, labels_or_attributes, result, standard_error
from pyro_lrp.metrics.path_length import METRICS as PATH_LENGTHS
from pyro_lrp.metrics.subject import DECODED, Results, Subject, as_files

__all__ = ["METRICS", "lpips_diversity", "perceptual_change"]

_STEPS = 16  # images of a path


# --------------------------------------------------------------------- diversity


@torch.no_grad()
def lpips_diversity(subject: Subject, name: str, measure: Callable[[Subject], ImageDistance]) -> Results:
    """Mean LPIPS of pairs of prior samples: 19 pairs for each of 100 contexts, or 1,900 without contexts.

    Both images of a pair have the context of one test image. For a synthetic data set, which can draw further
    images of a context, ``<name>_truth`` is the score of such pairs: that of a perfect model.

    Args:
        subject: The subject; ``n`` is the number of contexts, ``k`` the number of pairs of each.
        name: The name of the result.
        measure: Makes the distance of images.

    References:
        Zhu et al. (2017), Toward Multimodal Image-to-Image Translation, arXiv:1711.11586, for the score;
        Huang et al. (2018), Multimodal Unsupervised Image-to-Image Translation, arXiv:1804.04732, for pairs.
    """
    image_distance = measure(subject)
    pairs = subject.repeats(19)
    groups = subject.count(100)
    contexts = torch.zeros(groups, 0)
    test = subject.some(subject.data.test, groups, "lpips_diversity")
    if subject.conditional:
        groups = len(test)
        contexts = test.context
    rows = torch.arange(groups).repeat_interleave(pairs)
    protocol = {
        **image_distance.record,
        "pairs": "of prior samples",
        "contexts": None,
        "images": DECODED,
    }
    if not subject.conditional:
        distances = _between_samples(subject, image_distance, contexts[rows])
        return {name: _mean(subject, distances, 1, protocol)}
    protocol |= {
        "pairs": f"{pairs} for each context, sharing it",
        "contexts": f"of {groups} test images",
    }
    distances = _between_samples(subject, image_distance, contexts[rows])
    # pairs of one context are not independent
    results = {name: _mean(subject, distances, pairs, protocol)}
    if subject.data.truth is not None:
        distances = _between_true_images(subject, image_distance, rows)
        protocol |= {"pairs": "of the data set's own images of these contexts", "images": "as drawn"}
        results[f"{name}_truth"] = _mean(subject, distances, pairs, protocol)
    return results


def _between_samples(subject: Subject, image_distance: ImageDistance, contexts: Tensor) -> Tensor:
    """Distances of pairs of prior samples, one pair for each row of contexts."""

    def draw(rows: slice) -> tuple[Tensor, Tensor]:
        context = contexts[rows].to(subject.device)
        return _samples(subject, context), _samples(subject, context)

    n = len(contexts)
    labels = ("evaluate", "lpips_diversity")
    draws = seeded_chunks(draw, n, batch_size(subject), subject.seed, *labels, by_number=True)
    parts = []
    for x, y in subject.steps(draws, n, lambda pair: len(pair[0])):
        parts.append(_distances(subject, image_distance, x, y))
    return torch.cat(parts)


def _between_true_images(subject: Subject, image_distance: ImageDistance, rows: Tensor) -> Tensor:
    """Distances of pairs of the data set's own images, which share the contexts of test images."""
    test = subject.some(subject.data.test, subject.count(100), "lpips_diversity")
    parts = []
    for number, part in enumerate(rows.split(batch_size(subject))):
        x = true_images(subject, test, part, "diversity", number, 0)
        y = true_images(subject, test, part, "diversity", number, 1)
        parts.append(_distances(subject, image_distance, x, y))
    return torch.cat(parts)


def _samples(subject: Subject, context: Tensor) -> Tensor:
    """Mean images of prior samples; some may not be finite."""
    autoencoder = subject.autoencoder
    with eval_mode(autoencoder):
        z = autoencoder.prior(context).sample()
        return autoencoder.decode(z, context)


def _distances(subject: Subject, image_distance: ImageDistance, x: Tensor, y: Tensor) -> Tensor:
    """Distances of pairs of images, float64 on the CPU; NaN if an image is not finite."""
    device = float64_device(subject)
    finite = finite_rows(x, y).to(device)
    distances = image_distance.distance(as_files(x).to(device), as_files(y).to(device))
    return torch.where(finite, distances, torch.nan).cpu().double()


def _mean(subject: Subject, distances: Tensor, group: int, protocol: dict[str, Any]) -> dict[str, Any]:
    """The mean of the finite distances; groups of ``group`` consecutive distances are independent."""
    finite = distances[distances.isfinite()]
    means = distances.reshape(-1, group).nanmean(1)
    return result(
        subject, finite.mean().item(), len(finite), dict(protocol),
        standard_error=standard_error(means[means.isfinite()]),
        non_finite=len(distances) - len(finite),
    )  # fmt: skip


# --------------------------------------------------------------------- change along a path


@torch.no_grad()
def perceptual_change(subject: Subject, name: str, network: str) -> Results:
    """LPIPS between adjacent images of paths of 16 images, in z_0 (spherical) and z_T (straight).

    Paths lead from the posterior mean of one test image to that of another. The medians of a path of constant
    speed are the same at every step.

    Args:
        subject: The subject; 5,000 pairs of test images by default.
        name: The name of the results, ``<name>_z0`` (if the prior has a base) and ``<name>_zT``.
        network: The trunk of LPIPS.

    Returns:
        Results whose value is the coefficient of variation of the 15 medians. ``median``, ``low`` and ``high``
        are the median and the 5th and 95th percentile of each step.
    """
    image_distance = lpips_distance(subject, network)
    n = subject.count(5_000, 200)
    pairs = _pairs(subject, n)
    size = batch_size(subject)
    results = {}
    for space in subject.spaces:
        parts = []
        for pair in subject.steps(pairs.split(max(1, size // _STEPS)), n):
            images = _sequence(subject, pair, space).to(float64_device(subject))
            steps = changes(images, image_distance.distance, size)
            parts.append(steps.cpu().double())
        steps = torch.cat(parts)
        finite = steps[steps.isfinite().all(1)]
        protocol = {**image_distance.record, **_change_protocol(subject, space)}
        summary = _summary(finite) | {"non_finite": n - len(finite)}
        value = summary.pop("value")
        results[f"{name}_{space}"] = result(subject, value, len(finite), protocol, **summary)
    return results


def _pairs(subject: Subject, n: int) -> Tensor:
    """Numbers of pairs of different test images, shape ``(n, 2)``."""
    images = len(subject.data.test)
    with seeded(subject.seed, "evaluate", "perceptual_change"):
        first = torch.randint(images, (n,))
        shift = torch.randint(1, max(2, images), (n,))
    return torch.stack([first, (first + shift) % images], 1)


def _sequence(subject: Subject, pair: Tensor, space: str) -> Tensor:
    """Images of paths between pairs of test images ``(S, 2)``, shape ``(S, 16, C, H, W)``."""
    autoencoder = subject.autoencoder
    batch = subject.data.test[pair.T.flatten()].batch(slice(None))
    contexts = batch.context.to(subject.device)
    a, b = means(autoencoder, batch.x.to(subject.device), contexts).chunk(2)
    context = contexts[: len(pair)]  # that of the first image, on the whole path
    t = torch.linspace(0, 1, _STEPS, dtype=a.dtype, device=a.device)
    codes = Space(autoencoder, subject.spaces[space], context).path(a, b, t)
    return decode(autoencoder, codes, context)


def _summary(steps: Tensor) -> dict[str, Any]:
    """The value and the percentiles of steps, shape ``(S, T - 1)``."""
    if not len(steps):
        empty = [None] * steps.shape[1]
        return {"value": float("nan"), "median": empty, "low": empty, "high": empty}
    shares = torch.tensor([0.05, 0.5, 0.95], dtype=steps.dtype)
    low, median, high = steps.quantile(shares, dim=0)
    variation = median.std(correction=0) / median.mean()
    return {
        "value": variation.item(),
        "median": median.tolist(),
        "low": low.tolist(),
        "high": high.tolist(),
    }


def _change_protocol(subject: Subject, space: str) -> dict[str, Any]:
    paths = {"z0": "spherical, in z_0", "zT": "straight, in z_T"}
    context = None
    if subject.conditional:
        context = "of the first image"
    return {
        "endpoints": f"posterior means of two random test images of {subject.data.name}",
        "path": paths[space],
        "context": context,
        "steps": _STEPS - 1,
        "value": "standard deviation over mean of the steps' medians",
        "low_high": "5th and 95th percentile",
        "images": "decoder means, neither clipped nor rounded nor cropped",
    }


# --------------------------------------------------------------------- by name


def _diversity(name: str, network: str) -> Metric:
    measure = partial(lpips_distance, network=network)
    return Metric(partial(lpips_diversity, name=name, measure=measure), network=network)


def _change(name: str, network: str) -> Metric:
    compute = partial(perceptual_change, name=name, network=network)
    return Metric(compute, needs=(enough_images(2),), network=network)


METRICS = {
    **PATH_LENGTHS,
    "lpips_diversity": _diversity("lpips_diversity", "alexnet"),
    "lpips_diversity_squeezenet": _diversity("lpips_diversity_squeezenet", "squeezenet"),
    "diversity_classifier": Metric(
        partial(lpips_diversity, name="diversity_classifier", measure=classifier_distance),
        needs=(labels_or_attributes,),
    ),
    "perceptual_change": _change("perceptual_change", "vgg16"),
    "perceptual_change_squeezenet": _change("perceptual_change_squeezenet", "squeezenet"),
}
