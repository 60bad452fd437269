"""``python -m pyro_lrp.evaluate``: judge a trained run; results join its ``evaluation.json``."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor
from tqdm.auto import tqdm

from pyro_lrp import config, rundir
from pyro_lrp.cli import command
from pyro_lrp.data import ImageData, chunks
from pyro_lrp.devices import choose_device
from pyro_lrp.errors import UserError
from pyro_lrp.metrics.classifier import FEATURES, Classifier, classifier_for
from pyro_lrp.metrics.frechet import FeatureStatistics
from pyro_lrp.models import Autoencoder
from pyro_lrp.randomness import seeded

_CHUNK = 500


@command("evaluate")
def main(cfg: DictConfig) -> None:
    """Compute the metrics asked for, keep those already there, print what is new."""
    options = config.options(cfg)
    names = options["metrics"]
    unknown = [name for name in names if name not in METRICS] if isinstance(names, list) else [names]
    if unknown:
        raise UserError(f"metrics: {unknown[0]} is unknown; the known ones are: [{', '.join(METRICS)}]")
    run = Path(str(options["run"])).expanduser()
    autoencoder = config.load(run, allow_targets=options["allow_targets"])
    identity = rundir.read_identity(run)
    root = options["data"]["root"] or config.default_data_root(identity)
    data = config.build_data(identity, root, options["data"]["path"], options["allow_targets"])
    device = choose_device(options["device"])
    path = run / "evaluation.json"
    results = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    for name in names:
        new = METRICS[name](autoencoder.to(device), data, device, options)
        results |= new
        rundir.write_json(path, results)
        for key, result in new.items():
            print(f"{key:<32}{result['value']:>12.3f}   n = {result['n']}")
    print(path)


@torch.no_grad()
def fd_classifier(
    autoencoder: Autoencoder, data: ImageData, device: torch.device, options: dict[str, Any]
) -> dict[str, Any]:
    """Fréchet distances to the test images, in the classifier's features, of samples and of two yardsticks.

    Reconstructions show what the decoder alone costs; training images are the floor, what real images score.
    """
    n, seed = options["n"], options["seed"]
    with tqdm(
        desc="classifier", disable=None if options["progress"] else True, leave=False, unit="step"
    ) as bar:

        def on_step(step: int, steps: int) -> None:
            bar.total = steps
            bar.update(step - bar.n)

        with torch.enable_grad():
            network = classifier_for(data, seed=0, device=device, on_step=on_step)
    test = data.test.to(device)
    with seeded(
        seed, "evaluate", "fd_classifier"
    ):  # after the classifier, which may or may not be trained first
        draw = autoencoder.draw(n)
        reconstructions = [autoencoder.reconstruct(batch.x) for batch in chunks(test)]
        train = data.train[torch.randperm(len(data.train))[:n]].to(device)
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
        "images": "decoder means, clipped to [0, 1], rounded to uint8",
        "non_finite_samples": draw.non_finite,
    }
    reference = _statistics(network, (b.x for b in chunks(test)))
    return {
        name: {
            "value": _statistics(network, images).distance(reference),
            "protocol": protocol,
            "n": count,
            "seed": seed,
        }
        for name, (images, count) in sets.items()
    }


def _statistics(network: Classifier, images: Iterable[Tensor]) -> FeatureStatistics:
    statistics = FeatureStatistics()
    for part in images:
        statistics.update(network.features((part.clamp(0, 1) * 255).round() / 255))
    return statistics


METRICS: dict[str, Callable[..., dict[str, Any]]] = {"fd_classifier": fd_classifier}


if __name__ == "__main__":
    main()
