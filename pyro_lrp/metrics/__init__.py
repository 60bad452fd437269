"""Judges of trained models: arrays and feature functions in, numbers out.

A metric's name carries its protocol.
"""

from pyro_lrp.metrics.classifier import Classifier, train_classifier
from pyro_lrp.metrics.frechet import FeatureStatistics, frechet_distance

__all__ = ["Classifier", "FeatureStatistics", "frechet_distance", "train_classifier"]
