"""``reconstruction_mse``: how well codes keep the test images, beside the best that knows no image."""

from __future__ import annotations

import torch

from pyro_lrp.metrics.metric import Metric, result
from pyro_lrp.metrics.subject import Results, Subject

__all__ = ["METRICS", "reconstruction_mse"]


def reconstruction_mse(subject: Subject) -> Results:
    """Mean squared error per pixel value, of images in [0, 1], over test images (10,000 by default).

    An image is encoded by one sample of q(z|x). Beside it ``constant_image_mse``: of the mean of these images
    in place of each, the best constant.
    """
    n = subject.count(10_000)
    total, sums = torch.zeros((), dtype=torch.float64), torch.zeros(2, 1, dtype=torch.float64)
    size = subject.size("test", n)
    pairs = zip(subject.images("test", n), subject.images("reconstructions", n), strict=True)
    for x, made in subject.steps(pairs, size, lambda pair: len(pair[0])):
        x = x.double()
        total += (made.double() - x).square().sum().cpu()
        sums = sums + torch.stack([x.sum(0).flatten(), x.square().sum(0).flatten()]).cpu()
    mean, square = sums / size
    values = {
        "reconstruction_mse": total.item() / (size * len(mean)),
        "constant_image_mse": (square - mean.square()).mean().item(),
    }
    protocol = {"images": f"test images of {subject.data.name}, in [0, 1]"}
    return {name: result(subject, value, size, protocol) for name, value in values.items()}


METRICS = {"reconstruction_mse": Metric(reconstruction_mse)}
