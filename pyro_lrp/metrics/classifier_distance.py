"""``fd_classifier``: how far prior samples are from the test images, in the features of a small classifier."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from pyro_lrp.data import ImageData, chunks
from pyro_lrp.errors import UserError
from pyro_lrp.metrics.classifier import FEATURES, JUDGED, Classifier, classifier_for, judged
from pyro_lrp.metrics.frechet import FeatureStatistics
from pyro_lrp.models import Autoencoder
from pyro_lrp.randomness import seeded

__all__ = ["fd_classifier", "feature_statistics"]

_CHUNK = 500


def fd_classifier(
    autoencoder: Autoencoder,
    data: ImageData,
    *,
    n: int = 10_000,
    seed: int = 0,
    device: torch.device | str = "cpu",
    on_step: Callable[[int, int], None] = lambda step, steps: None,
) -> dict[str, dict[str, Any]]:
    """Fréchet distances to the test images, in the classifier's features, of samples and of two yardsticks.

    Reconstructions show what the decoder alone costs; training images are the floor, what real images score. A
    conditional prior is given the contexts of randomly chosen training images.

    Args:
        autoencoder: On ``device``.
        data: With labels.
        n: Prior samples, and at most so many training images.
        seed: Of their noise; the classifier's own is fixed.
        device: Where to compute.
        on_step: Called with the steps done and all steps, while the classifier is trained.

    Returns:
        For each of ``fd_classifier``, ``fd_classifier_reconstructions`` and ``fd_classifier_training`` its
        ``value``, ``protocol``, ``n`` and ``seed``.

    Raises:
        UserError: If the data have no labels, or no sample is finite.
    """
    network = classifier_for(data, device=device, on_step=on_step)
    test = data.test.to(torch.device(device))
    with seeded(seed, "evaluate", "fd_classifier"):  # after the classifier, which may be trained or cached
        context = data.train.context
        if context is not None:
            context = context[torch.randint(len(context), (n,))].to(device)
        draw = autoencoder.draw(n, context=context)
        reconstructions = [autoencoder.reconstruct(batch.x) for batch in chunks(test)]
        train = data.train[torch.randperm(len(data.train))[:n]].to(torch.device(device))
    if not len(draw.images):
        raise UserError(f"none of {n} prior samples is finite: there is nothing to judge")
    sets: dict[str, tuple[Iterable[Tensor], int]] = {
        "fd_classifier": (draw.images.split(_CHUNK), len(draw.images)),
        "fd_classifier_reconstructions": (reconstructions, len(test)),
        "fd_classifier_training": ((batch.x for batch in chunks(train)), len(train)),
    }
    protocol = {
        "network": f"surrogate: small CNN trained on {data.name}, {FEATURES} penultimate features, seed 0",
        "classifier_accuracy": round(network.accuracy.item(), 4),
        "reference": f"{len(test)} test images",
        "images": JUDGED,
        "non_finite_samples": draw.non_finite,
    }
    common = {"protocol": protocol, "seed": seed}
    reference = feature_statistics(network, (batch.x for batch in chunks(test)))
    return {
        name: {"value": feature_statistics(network, images).distance(reference), "n": count, **common}
        for name, (images, count) in sets.items()
    }


@torch.no_grad()
def feature_statistics(network: Classifier, images: Iterable[Tensor]) -> FeatureStatistics:
    """Mean and covariance of a classifier's features of images that come in batches."""
    statistics = FeatureStatistics()
    for part in images:
        statistics.update(network.features(judged(part)))
    return statistics
