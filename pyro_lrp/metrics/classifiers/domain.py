"""The network of a subject's own domain, a surrogate for networks that are trained on photographs."""

from __future__ import annotations

from typing import Any

from pyro_lrp.metrics.classifiers.attribute_classifier import attribute_classifier, attribute_record
from pyro_lrp.metrics.classifiers.classifier import class_classifier, class_record
from pyro_lrp.metrics.classifiers.dataset_classifier import DatasetClassifier
from pyro_lrp.metrics.subject import Extractor, Subject

__all__ = ["domain_extractor", "domain_network"]

_SURROGATE = "a network trained here: distances compare models with each other, never with published FIDs"


def domain_network(subject: Subject) -> tuple[DatasetClassifier, dict[str, Any]]:
    """The classifier of the subject's data set and the entries of a protocol.

    Without class labels it is the attribute classifier.

    Raises:
        UserError: If there are neither labels nor attributes.
    """
    if subject.has_labels:
        classifier = class_classifier(subject)
        record = class_record(classifier, subject.data)
        return classifier, record | {"surrogate": _SURROGATE}
    tagger = attribute_classifier(subject)
    record = attribute_record(tagger, subject.data)
    return tagger, record | {"surrogate": _SURROGATE}


def domain_extractor(subject: Subject) -> Extractor:
    """The penultimate features of :func:`domain_network`.

    An attribute classifier has no ``logits``: attributes do not exclude each other, so they are no classes.
    """

    def load() -> Extractor:
        network, record = domain_network(subject)
        logits = None
        if subject.has_labels:
            logits = network.head
        return Extractor(
            name="classifier",
            key=f"{network.kind}_{record['weights_sha256']}",
            features=network.features,
            dim=network.head.in_features,
            record=record,
            logits=logits,
        )

    return subject.memo(("domain_extractor",), load)
