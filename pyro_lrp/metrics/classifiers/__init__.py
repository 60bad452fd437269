"""Networks that metrics train on the data set itself, once, and keep in the user's cache."""

from pyro_lrp.metrics.classifiers.attribute_classifier import (
    AttributeClassifier,
    attribute_classifier,
    attribute_classifier_for,
    attribute_names,
    attribute_record,
    train_attribute_classifier,
)
from pyro_lrp.metrics.classifiers.classifier import (
    Classifier,
    class_classifier,
    class_record,
    classifier_for,
    train_classifier,
)
from pyro_lrp.metrics.classifiers.dataset_classifier import DatasetClassifier
from pyro_lrp.metrics.classifiers.domain import domain_extractor, domain_network

__all__ = [
    "AttributeClassifier", "Classifier", "DatasetClassifier", "attribute_classifier",
    "attribute_classifier_for", "attribute_names", "attribute_record", "class_classifier", "class_record",
    "classifier_for", "domain_extractor", "domain_network", "train_attribute_classifier",
    "train_classifier",
]  # fmt: skip
