"""``class_accuracy``: whether samples given a class are of that class, to a classifier of real images."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from pyro_lrp.core.errors import UserError
from pyro_lrp.core.randomness import seeded
from pyro_lrp.metrics.classifier import JUDGED, Classifier, class_classifier, class_record
from pyro_lrp.metrics.metric import Metric, labels, result
from pyro_lrp.metrics.subject import Results, Subject, as_files

__all__ = ["METRICS", "class_accuracy", "class_contexts"]


def class_contexts(subject: Subject) -> str | None:
    """The prior is conditional on the class, and on that alone."""
    context, own = subject.data.train.context, subject.data.train.labels
    if own is None or not subject.autoencoder.prior.context_dim:
        return "needs a prior that is conditional on the class (context=label)"
    if not torch.equal(context, one_hot(own, context.shape[1]).to(context)):
        return "needs context=label, and this run's contexts are others"
    return None


@torch.no_grad()
def class_accuracy(subject: Subject) -> Results:
    """Share of samples of p(z | class), decoded, that the data set's classifier takes for that class.

    As many samples of each class, but for the remainder.

    Returns:
        ``class_accuracy``; the least of its classes, ``class_accuracy_worst_class``; and the yardstick
        ``class_accuracy_reconstructions``, of test images encoded and decoded.

    Raises:
        UserError: If a sample is not finite: its class cannot be told.
    """
    network, n = class_classifier(subject), subject.count(10_000)
    classes = subject.data.train.context.shape[1]
    wanted = torch.arange(n) % classes
    right = torch.cat([*_samples(subject, network, wanted, classes)])
    by_class = torch.stack([right[wanted == c].double().mean() for c in range(min(classes, n))])
    test = subject.some(subject.data.test, n, "test")
    assert test.labels is not None, "it needs labels"
    told = [network(as_files(x)).argmax(1).cpu() for x in subject.images("reconstructions", n)]
    found = torch.cat(told) == test.labels
    values = {
        "class_accuracy": (right.double().mean(), n),
        "class_accuracy_worst_class": (by_class.min(), n),
        "class_accuracy_reconstructions": (found.double().mean(), len(test)),
    }
    protocol = {**class_record(network, subject.data), "images": JUDGED}
    return {name: result(subject, value.item(), count, protocol) for name, (value, count) in values.items()}


def _samples(subject: Subject, network: Classifier, wanted: Tensor, classes: int) -> list[Tensor]:
    """Whether a sample of each class that is wanted is taken for it, in chunks."""
    parts = []
    for number, part in enumerate(subject.steps(wanted.split(subject.at_once), len(wanted))):
        context = one_hot(part, classes).float().to(subject.device)
        with seeded(subject.seed, "evaluate", "class_accuracy", number):
            draw = subject.autoencoder.draw(len(part), context=context)
        if draw.non_finite:
            raise UserError(f"{draw.non_finite} of {len(part)} samples are not finite: no class can be told")
        parts.append(network(as_files(draw.images)).argmax(1).cpu() == part)
    return parts


METRICS = {"class_accuracy": Metric(class_accuracy, needs=(labels, class_contexts))}
