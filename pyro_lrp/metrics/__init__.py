"""Metrics of trained models.

:data:`METRICS` holds the metrics that the command ``evaluate`` computes, and :func:`evaluate` in Python: each a
function of a :class:`Subject`, under a name that carries its protocol. The functions in
:mod:`pyro_lrp.metrics.functional` map tensors to numbers.
"""

from pyro_lrp.latents.views import changes as perceptual_changes
from pyro_lrp.metrics import conditional as _conditional
from pyro_lrp.metrics import distances as _distances
from pyro_lrp.metrics import interpolation as _interpolation
from pyro_lrp.metrics import likelihood as _likelihood
from pyro_lrp.metrics import outliers as _outliers
from pyro_lrp.metrics import perceptual as _perceptual
from pyro_lrp.metrics import prior_gap as _prior_gap
from pyro_lrp.metrics import reconstruction as _reconstruction
from pyro_lrp.metrics import separability as _separability
from pyro_lrp.metrics.classifiers import Classifier, train_classifier
from pyro_lrp.metrics.evaluate import evaluate
from pyro_lrp.metrics.functional import (
    FeatureStatistics,
    classifier_two_sample_test,
    conditional_entropy,
    copying,
    density_and_coverage,
    energy_distance,
    frechet_distance,
    importance_weighted_bound,
    inception_score,
    kernel_distance,
    path_length,
    path_lengths,
    polynomial_mmd,
    precision_and_recall,
    separability,
)
from pyro_lrp.metrics.metric import Metric, result
from pyro_lrp.metrics.outliers import outlier_scores
from pyro_lrp.metrics.subject import Extractor, Subject

__all__ = [
    "METRICS",
    "Classifier",
    "Extractor",
    "FeatureStatistics",
    "Metric",
    "Subject",
    "classifier_two_sample_test",
    "conditional_entropy",
    "copying",
    "density_and_coverage",
    "energy_distance",
    "evaluate",
    "frechet_distance",
    "importance_weighted_bound",
    "inception_score",
    "kernel_distance",
    "outlier_scores",
    "path_length",
    "path_lengths",
    "perceptual_changes",
    "polynomial_mmd",
    "precision_and_recall",
    "result",
    "separability",
    "train_classifier",
]

METRICS: dict[str, Metric] = {
    **_distances.METRICS,
    **_conditional.METRICS,
    **_prior_gap.METRICS,
    **_interpolation.METRICS,
    **_separability.METRICS,
    **_perceptual.METRICS,
    **_likelihood.METRICS,
    **_outliers.METRICS,
    **_reconstruction.METRICS,
}
