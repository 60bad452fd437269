"""``separability``: how well linear functions of a code predict the attributes or classes of its image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from pyro_lrp.core.modules import eval_mode
from pyro_lrp.latents.codes import finite_chunks, finite_rows, seeded_chunks
from pyro_lrp.metrics.classifiers import (
    DatasetClassifier,
    attribute_classifier,
    attribute_names,
    attribute_record,
    class_classifier,
    class_record,
)
from pyro_lrp.metrics.functional.checks import check_finite
from pyro_lrp.metrics.functional.separability import (
    Separability,
    confident_half,
    separability,
    standardized,
)
from pyro_lrp.metrics.metric import Metric, attributes, labels, result
from pyro_lrp.metrics.subject import DECODED, Results, Subject, as_files

__all__ = ["METRICS"]


class _Draws(NamedTuple):
    """Finite prior samples.

    Attributes:
        images: Their images; metrics keep only the logits.
        codes: The codes in each space, float32 ``(N, d)``.
        non_finite: How many samples were left out.
    """

    images: Tensor
    codes: dict[str, Tensor]
    non_finite: int


class _Predicted(NamedTuple):
    """Codes of prior samples in each space, ``(N, d)``, and the logits of their images."""

    codes: dict[str, Tensor]
    logits: Tensor
    non_finite: int


def _attributes(subject: Subject) -> Results:
    """Separability of the attributes that an attribute classifier predicts for images of prior samples.

    The images are the same for each space: z_0 is a draw of the prior's base, z_T its image under the flow. For
    each attribute those half of the images count whose logit has the larger absolute value, which is the half
    with the larger max softmax([l, -l]). Codes are raw, as in StyleGAN, and standardised too, since the
    machine's penalty depends on their scale.
    """
    network = attribute_classifier(subject)
    drawn = _draw(subject, network, subject.count(200_000, 20_000))
    protocol = {
        **attribute_record(network, subject.data),
        **subject.given,
        "kept": "for each attribute the half with the larger |logit|",
    }
    return _results(
        subject,
        "separability",
        drawn,
        predicted=drawn.logits > 0,
        keep=confident_half(drawn.logits.abs()),
        names=attribute_names(subject.data),
        protocol=protocol,
    )


def _classes(subject: Subject) -> Results:
    """Separability of each class against the rest, as the class classifier predicts them.

    The labels of an image are 1 for the class with the largest logit and 0 for the others. Of the images of
    each such class the half with the larger max softmax counts, the same images for every label: half of all
    images would belong to the classes with the most confident predictions.
    """
    network = class_classifier(subject)
    drawn = _draw(subject, network, subject.count(200_000, 20_000))
    classes = drawn.logits.shape[1]
    predicted = one_hot(drawn.logits.argmax(1), classes).bool()
    protocol = {
        **class_record(network, subject.data),
        **subject.given,
        "labels": "each class against the rest",
        "kept": "of the images taken for each class the half with the larger max softmax",
    }
    return _results(
        subject,
        "class_separability",
        drawn,
        predicted=predicted,
        keep=_confident_of_class(drawn.logits).expand(-1, classes),
        names=[str(c) for c in range(classes)],
        protocol=protocol,
    )


def _confident_of_class(logits: Tensor) -> Tensor:
    """The half of the images of each class with the larger max softmax p, bool ``(N, 1)``.

    It compares the log-odds of p, which are finer: in float32 a confident p is 1 whatever the logits.
    """
    largest, predicted = logits.max(1, keepdim=True)
    others = logits.scatter(1, predicted, -math.inf)
    odds = largest - others.logsumexp(1, keepdim=True)
    keep = torch.zeros_like(odds, dtype=torch.bool)
    for label in predicted.unique():
        own = predicted == label
        keep[own] = confident_half(odds[own])
    return keep


@torch.no_grad()
def _draw(subject: Subject, network: DatasetClassifier, n: int) -> _Predicted:
    """Prior samples; only codes and logits are kept of them."""

    def draw(rows: slice) -> _Draws:
        return _chunk(subject, rows)

    size = subject.batch_size
    chunks = seeded_chunks(draw, n, size, subject.seed, "evaluate", "separability")
    parts: list[dict[str, Tensor]] = []
    chunks = subject.steps(chunks, n, lambda _: size)
    for chunk in finite_chunks(chunks, n):
        if len(chunk.images):
            logits = network(as_files(chunk.images))
            check_finite(logits, "the outputs of the classifier")
            parts.append({**chunk.codes, "logits": logits.cpu()})
    joined = {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
    logits = joined.pop("logits")
    return _Predicted(joined, logits, n - len(logits))


def _chunk(subject: Subject, rows: slice) -> _Draws:
    """Prior samples without those that are not finite; a prior with a base is sampled through it."""
    autoencoder = subject.autoencoder
    prior = autoencoder.prior
    context = subject.contexts(rows)
    with eval_mode(autoencoder):
        if prior.has_base:
            base = prior.base(context).sample()
            latent = prior.to_latent(base, context)
            codes = {"z0": base, "zT": latent}
        else:
            latent = prior(context).sample()
            codes = {"zT": latent}
        images = autoencoder.decode(latent, context)
    finite = finite_rows(*codes.values(), images)
    kept = {space: part[finite].flatten(1).cpu() for space, part in codes.items()}
    return _Draws(images[finite], kept, int((~finite).sum()))


def _results(
    subject: Subject,
    prefix: str,
    drawn: _Predicted,
    *,
    predicted: Tensor,
    keep: Tensor,
    names: Sequence[str],
    protocol: dict[str, Any],
) -> Results:
    """A result for each space, and for raw and standardised codes in it."""
    protocol = {
        **protocol,
        "kept_images": int(keep[:, 0].sum()),
        "machine": "LinearSVC (C = 1, squared hinge, primal), evaluated on the codes it was fitted to",
        "images": DECODED,
        "non_finite_samples": drawn.non_finite,
    }
    results: Results = {}
    for space, codes in drawn.codes.items():
        scales = {"raw": ("", codes), "standardized": ("_standardized", standardized(codes))}
        for scale, (suffix, inputs) in scales.items():
            scores = separability(inputs, predicted, keep, on_step=subject.on_step)
            record = {**protocol, "input": space, "scale": scale}
            results[f"{prefix}_{space}{suffix}"] = result(
                subject, scores.score, len(codes), record, **_details(scores, names)
            )
    return results


def _details(scores: Separability, names: Sequence[str]) -> dict[str, Any]:
    """The entries of a result besides the score."""
    notes = []
    if scores.single_class:
        notes.append(f"{len(scores.single_class)} of {len(names)} have one value only")
    if scores.not_converged:
        notes.append(f"{len(scores.not_converged)} machines did not converge")
    details: dict[str, Any] = {
        "chance": scores.chance,
        "entropies": dict(zip(names, scores.entropies.tolist(), strict=True)),
        "accuracies": dict(zip(names, scores.accuracies.tolist(), strict=True)),
        "single_class": [names[a] for a in scores.single_class],
        "not_converged": [names[a] for a in scores.not_converged],
    }
    if notes:
        details["warning"] = "; ".join(notes)
    return details


METRICS = {
    "separability": Metric(_attributes, needs=(attributes,)),
    "class_separability": Metric(_classes, needs=(labels,)),
}
