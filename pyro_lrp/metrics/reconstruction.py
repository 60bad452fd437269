"""``reconstruction_mse``: how well codes keep the test images, compared with the best constant image."""

from __future__ import annotations

import torch

from pyro_lrp.metrics.metric import Metric, result
from pyro_lrp.metrics.subject import Results, Subject

__all__ = ["METRICS", "reconstruction_mse"]


def reconstruction_mse(subject: Subject) -> Results:
    """Mean squared error per pixel value, for test images in [0, 1] (10,000 by default).

    An image is encoded by one sample of q(z|x). ``constant_image_mse`` is the error of the mean of these images
    in place of each reconstruction, the best constant.
    """
    n = subject.count(10_000)
    size = subject.size("test", n)
    total = torch.zeros((), dtype=torch.float64)
    sums = torch.zeros(2, 1, dtype=torch.float64)
    images = subject.images("test", n)
    reconstructions = subject.images("reconstructions", n)
    pairs = zip(images, reconstructions, strict=True)
    for x, reconstruction in subject.steps(pairs, size, lambda pair: len(pair[0])):
        x = x.double()
        error = reconstruction.double() - x
        total += error.square().sum().cpu()
        moments = [x.sum(0).flatten(), x.square().sum(0).flatten()]
        sums = sums + torch.stack(moments).cpu()
    mean, square = sums / size
    values = {
        "reconstruction_mse": total.item() / (size * len(mean)),
        "constant_image_mse": (square - mean.square()).mean().item(),
    }
    protocol = {"images": f"test images of {subject.data.name}, in [0, 1]"}
    return {name: result(subject, value, size, protocol) for name, value in values.items()}


METRICS = {"reconstruction_mse": Metric(reconstruction_mse)}
