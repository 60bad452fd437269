"""``class_accuracy``: whether samples given a class are of that class, to a classifier of real images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from pyro_lrp.data import ImageData, chunks
from pyro_lrp.errors import UserError
from pyro_lrp.metrics.classifier import JUDGED, classifier_for, judged
from pyro_lrp.models import Autoencoder
from pyro_lrp.randomness import seeded

__all__ = ["class_accuracy"]

_CHUNK = 500


@torch.no_grad()
def class_accuracy(
    autoencoder: Autoencoder,
    data: ImageData,
    *,
    n: int = 10_000,
    seed: int = 0,
    device: torch.device | str = "cpu",
    on_step: Callable[[int, int], None] = lambda step, steps: None,
) -> dict[str, dict[str, Any]]:
    """Share of samples of p(z | class), decoded, that the data set's classifier takes for that class.

    Args:
        autoencoder: On ``device``, with a prior that is conditional on the class.
        data: With labels, and with ``context=label``.
        n: Samples, the same number of each class but for the remainder.
        seed: Of their noise; the classifier's own is fixed.
        device: Where to compute.
        on_step: Called with the steps done and all steps, while the classifier is trained.

    Returns:
        For ``class_accuracy``, the least of its classes (``class_accuracy_worst_class``), and the yardstick
        ``class_accuracy_reconstructions``, their ``value``, ``protocol``, ``n`` and ``seed``.

    Raises:
        UserError: If the prior is not conditional on the class.
    """
    context = data.train.context
    if data.train.labels is None or context is None or autoencoder.prior.context_dim is None:
        raise UserError("class_accuracy needs a run whose prior is conditional on the class (context=label)")
    classes = context.shape[1]
    if not torch.equal(context.argmax(1), data.train.labels):
        raise UserError("class_accuracy needs context=label, and this run's contexts are others")
    with torch.enable_grad():
        network = classifier_for(data, device=device, on_step=on_step)
    wanted = torch.arange(n, device=device) % classes
    with seeded(seed, "evaluate", "class_accuracy"):
        parts = torch.nn.functional.one_hot(wanted, classes).float().split(_CHUNK)
        draws = [autoencoder.draw(len(part), context=part) for part in parts]
        test = data.test.to(torch.device(device))
        found = [network(judged(autoencoder.reconstruct(b.x))).argmax(1) == b.label for b in chunks(test)]
    lost = sum(draw.non_finite for draw in draws)
    if lost:
        raise UserError(f"{lost} of {n} samples are not finite, so that classes cannot be told")
    right = torch.cat([network(judged(d.images)).argmax(1) for d in draws]) == wanted
    by_class = torch.stack([right[wanted == c].double().mean() for c in range(min(classes, n))])
    protocol = {
        "network": f"small CNN trained on {data.name}, seed 0",
        "classifier_accuracy": round(network.accuracy.item(), 4),
        "images": JUDGED,
    }
    common = {"protocol": protocol, "seed": seed}
    return {
        "class_accuracy": {"value": right.double().mean().item(), "n": n, **common},
        "class_accuracy_worst_class": {"value": by_class.min().item(), "n": n, **common},
        "class_accuracy_reconstructions": {
            "value": torch.cat(found).double().mean().item(), "n": len(test), **common
        },
    }  # fmt: skip
