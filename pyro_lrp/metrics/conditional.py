"""Agreement of samples with the context they are given: ``class_accuracy`` and ``pose_recovery``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from pyro_lrp.core.errors import UserError
from pyro_lrp.core.modules import eval_mode
from pyro_lrp.core.randomness import derive_seed, seeded
from pyro_lrp.data import Batch, Split, chunks
from pyro_lrp.latents.codes import seeded_chunks
from pyro_lrp.metrics.classifiers import Classifier, class_classifier, class_record
from pyro_lrp.metrics.functional.checks import check_finite
from pyro_lrp.metrics.metric import Metric, labels, result
from pyro_lrp.metrics.subject import DECODED, Results, Subject, as_files
from pyro_lrp.people import GroundTruth

__all__ = ["METRICS", "class_accuracy", "class_contexts", "pose_recovery", "true_images"]

_NEAR = 4 / 64  # of the side of an image: how far a marker may lie from its place in the pose


# --------------------------------------------------------------------- classes


def class_contexts(subject: Subject) -> str | None:
    """The prior is conditional on the class, and on nothing else."""
    train = subject.data.train.labelled()
    if train.labels is None or not len(train) or not subject.conditional:
        return "needs a prior that is conditional on the class (context=label)"
    classes = len(subject.data.classes)
    same = train.context.shape[1] == classes
    if not same or not torch.equal(train.context, one_hot(train.labels, classes).to(train.context)):
        return "needs context=label, and this run's contexts are others"
    return None


@torch.no_grad()
def class_accuracy(subject: Subject) -> Results:
    """The share of samples of p(z | class) whose decoded image a classifier assigns to that class.

    There are as many samples of each class, up to a remainder.

    Returns:
        ``class_accuracy``; the smallest share of a class, ``class_accuracy_worst_class``; and
        ``class_accuracy_reconstructions`` for comparison, of encoded and decoded test images.

    Raises:
        UserError: If a sample is not finite.
    """
    network = class_classifier(subject)
    n = subject.count(10_000)
    classes = subject.data.train.context.shape[1]
    target = torch.arange(n) % classes
    correct = _predict_samples(subject, network, target, classes) == target
    by_class = []
    for c in range(min(classes, n)):
        by_class.append(correct[target == c].double().mean())
    test = subject.some(subject.data.test, n, "test")
    assert test.labels is not None, "required above"
    images = subject.images("reconstructions", n)
    predicted = [_classes_of(network, x) for x in images]
    has_label = test.labels >= 0
    reconstructed = (torch.cat(predicted) == test.labels)[has_label]
    values = {
        "class_accuracy": (correct.double().mean(), n),
        "class_accuracy_worst_class": (torch.stack(by_class).min(), n),
        "class_accuracy_reconstructions": (reconstructed.double().mean(), len(reconstructed)),
    }
    protocol = {**class_record(network, subject.data), "images": DECODED}
    results = {}
    for name, (share, count) in values.items():
        results[name] = result(subject, share.item(), count, protocol)
    return results


def _predict_samples(subject: Subject, network: Classifier, target: Tensor, classes: int) -> Tensor:
    """The predicted class of a sample of each target class, shape ``(n,)``."""

    def predict(rows: slice) -> Tensor:
        context = one_hot(target[rows], classes).float().to(subject.device)
        draw = subject.autoencoder.draw(len(context), context=context)
        if draw.non_finite:
            raise UserError(f"{draw.non_finite} of {len(context)} samples are not finite: they have no class")
        return _classes_of(network, draw.images)

    n = len(target)
    labels = ("evaluate", "class_accuracy")
    parts = seeded_chunks(predict, n, subject.batch_size, subject.seed, *labels, by_number=True)
    return torch.cat([*subject.steps(parts, n)])


def _classes_of(network: Classifier, images: Tensor) -> Tensor:
    """The predicted class of each image, shape ``(B,)``.

    Raises:
        UserError: If the network's outputs are not finite: the largest of them would be a class all the same.
    """
    logits = network(as_files(images)).cpu()
    check_finite(logits, "the outputs of the classifier")
    return logits.argmax(1)


# --------------------------------------------------------------------- poses


def marked_joints(subject: Subject) -> str | None:
    """The model is given poses, and the data set marks joints so that a detector finds them."""
    if subject.data.truth is None or not subject.conditional:
        return "needs a run that is given poses, of a data set that marks joints, such as data=posed_figures"
    return None


def true_images(subject: Subject, split: Split, rows: Tensor, *labels: str | int) -> Tensor:
    """Further images of a synthetic data set, which share the contexts of some of its images.

    Args:
        subject: The subject; its data set draws images of a context.
        split: Images of the data set.
        rows: Which of them, shape ``(B,)``.
        labels: Names of the random stream.

    Returns:
        Images in [0, 1], shape ``(B, C, H, W)``.
    """
    truth = subject.data.truth
    assert truth is not None, "asked only of synthetic data"
    seed = derive_seed(subject.seed, "evaluate", *labels)
    joints = split.extras["joints"][rows].cpu()
    return truth.draw(joints, seed) / 255


@torch.no_grad()
def pose_recovery(subject: Subject) -> Results:
    """The share of markers within 4 pixels (of 64) of their place, among those detected in real images.

    The model gets the pose of each test image and draws one sample (2,000 by default). Results are
    ``pose_recovery`` (samples), ``_reconstructions``, ``_real`` (the test images themselves, the best possible)
    and ``_of_another_pose`` (samples compared with the pose of the next image, the score of chance).

    Raises:
        UserError: If no marker is detected in the test images.
    """
    truth = subject.data.truth
    assert truth is not None, "required above"
    test = subject.some(subject.data.test, subject.count(2_000), "pose_recovery")
    assert "joints" in test.extras, "the data set marks them"
    expected = truth.expected(test.extras["joints"].cpu())
    places = _detected(subject, truth, test)
    side = subject.data.image_shape[-1]
    visible = _hits(places["_real"], expected, side)
    if not visible.any():
        raise UserError("pose_recovery: no marker is detected in the test images, so none can be recovered")
    places["_of_another_pose"] = places[""].roll(1, 0)
    protocol = _protocol(truth, side)
    results = {}
    for name, where in places.items():
        hits = _hits(where, expected, side) & visible
        n = int(visible.sum())
        share = hits.sum().item() / n
        results[f"pose_recovery{name}"] = result(
            subject, share, n, protocol,
            standard_error=(share * (1 - share) / n) ** 0.5,
            by_marker=_by_marker(truth, hits, visible),
        )  # fmt: skip
    return results


def _detected(subject: Subject, truth: GroundTruth, test: Split) -> dict[str, Tensor]:
    """Detected places of the markers in pixels, ``(N, M, 2)``, by the suffix of the result."""
    parts: dict[str, list[Tensor]] = {"": [], "_reconstructions": [], "_real": []}
    batches = subject.steps(chunks(test), len(test), lambda batch: len(batch.x))
    for number, batch in enumerate(batches):
        with seeded(subject.seed, "evaluate", "pose_recovery", number):
            images = _images(subject, batch)
        for name, some in images.items():
            places = truth.find(as_files(some.nan_to_num()).cpu())
            parts[name].append(places)
    return {name: torch.cat(some) for name, some in parts.items()}


def _images(subject: Subject, batch: Batch) -> dict[str, Tensor]:
    """Samples for the poses of a batch, its reconstructions and its images, by the suffix of the result."""
    autoencoder = subject.autoencoder
    x = batch.x.to(subject.device)
    context = batch.context.to(subject.device)
    with eval_mode(autoencoder):
        z = autoencoder.prior(context).sample()
        samples = autoencoder.decode(z, context)
        reconstructions = autoencoder.reconstruct(x, context)
    return {"": samples, "_reconstructions": reconstructions, "_real": x}


def _hits(places: Tensor, expected: Tensor, side: int) -> Tensor:
    """Which markers are detected near their place, bool ``(N, M)``."""
    distance = (places - expected).norm(dim=-1)
    return (distance <= _NEAR * side).nan_to_num().bool()


def _by_marker(truth: GroundTruth, hits: Tensor, visible: Tensor) -> dict[str, float]:
    """The share of hits among visible markers, for each marker."""
    shares = {}
    for number, name in enumerate(truth.markers):
        seen = visible[:, number].sum().item()
        shares[name] = hits[:, number].sum().item() / max(1, seen)
    return shares


def _protocol(truth: GroundTruth, side: int) -> dict[str, Any]:
    return {
        "markers": list(truth.markers),
        "within_pixels": _NEAR * side,
        "of": "markers that the same detector finds there in the real image",
        "images": DECODED,
    }


METRICS = {
    "class_accuracy": Metric(class_accuracy, needs=(labels, class_contexts)),
    "pose_recovery": Metric(pose_recovery, needs=(marked_joints,)),
}
