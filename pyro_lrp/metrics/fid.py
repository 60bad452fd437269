"""Fréchet distances of samples to the test images, each under the protocol that its name carries."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pyro_lrp.metrics.extractors import EXTRACTORS
from pyro_lrp.metrics.metric import Metric, labels_or_attributes, result
from pyro_lrp.metrics.subject import Results, Subject, as_files

__all__ = ["METRICS", "as_jpeg", "frechet_distances", "singular", "stretched"]


def stretched(images: Tensor) -> Tensor:
    """Each image stretched to [0, 1] by its own least and largest value; a constant image stays as it is.

    What the code of Dai and Wipf (2019) does to generated images, and to no others.

    >>> stretched(torch.tensor([0.25, 0.5, 0.75]).reshape(1, 1, 1, 3)).flatten().tolist()
    [0.0, 0.5, 1.0]
    """
    low, high = images.flatten(1).aminmax(dim=1)
    low, high = (bound[:, None, None, None] for bound in (low, high))
    flat = high == low
    return torch.where(flat, images, (images - low) / torch.where(flat, 1.0, high - low))


def as_jpeg(images: Tensor) -> Tensor:
    """The images written as JPEG (Pillow's quality of 75) and read back, as Dai and Wipf (2019) do."""
    return torch.stack([_through_jpeg(image) for image in as_files(images).cpu()]).to(images.device)


def _through_jpeg(image: Tensor) -> Tensor:
    array = (image * 255).round().byte().permute(1, 2, 0).numpy()
    file = io.BytesIO()
    Image.fromarray(array.squeeze(-1) if array.shape[-1] == 1 else array).save(file, "JPEG", quality=75)
    read = np.asarray(Image.open(file))
    return torch.from_numpy(read.reshape(array.shape).copy()).permute(2, 0, 1).float() / 255


@dataclass(frozen=True)
class _Protocol:
    """How images are prepared before the network sees them."""

    real: Callable[[Tensor], Tensor]
    made: Callable[[Tensor], Tensor]
    words: str


_CLEAN = _Protocol(as_files, as_files, "clipped to [0, 1], rounded to uint8")
_DAI_WIPF = _Protocol(as_files, stretched, "generated: each stretched to [0, 1] by its own minimum and maximum")
_JPEG = _Protocol(as_jpeg, stretched, f"{_DAI_WIPF.words}; real: through JPEG of quality 75")


def frechet_distances(subject: Subject, name: str, network: str, protocol: _Protocol) -> Results:
    """Fréchet distances to the test images of prior samples and of two floors that no prior can pass.

    The floors: reconstructions of the test images (what the decoder costs), and training images (what real
    images score).

    Args:
        subject: Under judgement; 10,000 images and samples by default.
        name: Of the results.
        network: One of :data:`~pyro_lrp.metrics.extractors.EXTRACTORS`.
        protocol: How images are prepared.

    References:
        Heusel et al. (2017), GANs Trained by a Two Time-Scale Update Rule, arXiv:1706.08500.
    """
    extractor, n = EXTRACTORS[network](subject), subject.count(10_000)
    reference = subject.statistics(extractor, "test", n, protocol.real)
    sets = {
        name: ("samples", protocol.made),
        f"{name}_reconstructions": ("reconstructions", protocol.made),
        f"{name}_training": ("training", protocol.real),
    }
    results = {}
    for key, (of, prepare) in sets.items():
        statistics = subject.statistics(extractor, of, n, prepare)
        said: dict[str, Any] = {
            **extractor.record,
            "images": protocol.words,
            "reference": f"{reference.n} test images of {subject.data.name}",
        }
        if of == "samples":
            said["non_finite_samples"] = subject.non_finite
        few = singular(min(statistics.n, reference.n), extractor.dim)
        value = statistics.distance(reference)
        results[key] = result(subject, value, statistics.n, said, **({"warning": few} if few else {}))
    return results


def singular(n: int, dim: int) -> str | None:
    """What is wrong with a covariance of ``dim`` features from ``n`` images, if there are too few."""
    if n > dim:
        return None
    return f"{n} images give a singular covariance of {dim} features: the distance is biased upwards"


METRICS = {
    "fid": Metric(
        partial(frechet_distances, name="fid", network="inception", protocol=_CLEAN),
        network="inception", hours=True,
    ),
    "fid_dai_wipf": Metric(
        partial(frechet_distances, name="fid_dai_wipf", network="inception", protocol=_DAI_WIPF),
        network="inception", hours=True,
    ),
    "fid_dai_wipf_jpeg": Metric(
        partial(frechet_distances, name="fid_dai_wipf_jpeg", network="inception", protocol=_JPEG),
        network="inception", hours=True,
    ),
    "fd_classifier": Metric(
        partial(frechet_distances, name="fd_classifier", network="classifier", protocol=_CLEAN),
        needs=(labels_or_attributes,),
    ),
}  # fmt: skip
