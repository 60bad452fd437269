"""Judges of trained models: arrays and feature functions in, numbers out.

A metric's name carries its protocol.
"""

from collections.abc import Callable
from typing import Any

from pyro_lrp.metrics.class_accuracy import class_accuracy
from pyro_lrp.metrics.classifier import Classifier, train_classifier
from pyro_lrp.metrics.classifier_distance import fd_classifier
from pyro_lrp.metrics.frechet import FeatureStatistics, frechet_distance
from pyro_lrp.metrics.reconstruction import reconstruction_mse

__all__ = [
    "METRICS",
    "Classifier",
    "FeatureStatistics",
    "class_accuracy",
    "fd_classifier",
    "frechet_distance",
    "reconstruction_mse",
    "train_classifier",
]

METRICS: dict[str, Callable[..., dict[str, dict[str, Any]]]] = {
    "class_accuracy": class_accuracy,
    "fd_classifier": fd_classifier,
    "reconstruction_mse": reconstruction_mse,
}
