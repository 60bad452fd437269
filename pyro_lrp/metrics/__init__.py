"""Judges of trained models: arrays and feature functions in, numbers out.

A metric's name carries its protocol.
"""

from collections.abc import Callable
from typing import Any

from pyro_lrp.metrics.classifier import Classifier, train_classifier
from pyro_lrp.metrics.classifier_distance import fd_classifier
from pyro_lrp.metrics.frechet import FeatureStatistics, frechet_distance

__all__ = [
    "METRICS",
    "Classifier",
    "FeatureStatistics",
    "fd_classifier",
    "frechet_distance",
    "train_classifier",
]

METRICS: dict[str, Callable[..., dict[str, dict[str, Any]]]] = {"fd_classifier": fd_classifier}
