"""Scores of tensors: features, predictions or codes in, numbers out."""

from pyro_lrp.metrics.functional.frechet import FeatureStatistics, frechet_distance, frechet_error
from pyro_lrp.metrics.functional.importance import Bound, importance_weighted_bound, refine
from pyro_lrp.metrics.functional.inception_score import inception_score
from pyro_lrp.metrics.functional.kernel_distance import kernel_distance, polynomial_mmd
from pyro_lrp.metrics.functional.manifolds import density_and_coverage, precision_and_recall
from pyro_lrp.metrics.functional.path_lengths import path_length, path_length_error, path_lengths
from pyro_lrp.metrics.functional.separability import (
    Separability,
    conditional_entropy,
    confident_half,
    separability,
)
from pyro_lrp.metrics.functional.two_sample import (
    Copying,
    Moments,
    TwoSample,
    classifier_two_sample_test,
    copying,
    energy_distance,
    mean_distance,
    moments,
)

__all__ = [
    "Bound", "Copying", "FeatureStatistics", "Moments", "Separability", "TwoSample",
    "classifier_two_sample_test", "conditional_entropy", "confident_half", "copying",
    "density_and_coverage", "energy_distance", "frechet_distance", "frechet_error",
    "importance_weighted_bound", "inception_score", "kernel_distance", "mean_distance", "moments",
    "path_length", "path_length_error", "path_lengths", "polynomial_mmd", "precision_and_recall",
    "refine", "separability",
]  # fmt: skip
