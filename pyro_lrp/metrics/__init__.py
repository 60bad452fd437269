"""Judges of trained models: tensors and feature functions in, numbers out.

A metric's name carries its protocol. :data:`METRICS` holds those that ``evaluate`` knows, each a function of a
:class:`Subject`; the functions beside it are of tensors.
"""

from pyro_lrp.latents.views import changes as perceptual_changes
from pyro_lrp.metrics import class_accuracy as _class_accuracy
from pyro_lrp.metrics import fid as _fid
from pyro_lrp.metrics import inception_score as _inception_score
from pyro_lrp.metrics import kernel_distance as _kernel_distance
from pyro_lrp.metrics import likelihood as _likelihood
from pyro_lrp.metrics import manifolds as _manifolds
from pyro_lrp.metrics import perceptual as _perceptual
from pyro_lrp.metrics import pose as _pose
from pyro_lrp.metrics import prior_gap as _prior_gap
from pyro_lrp.metrics import reconstruction as _reconstruction
from pyro_lrp.metrics import separability as _separability
from pyro_lrp.metrics.classifier import Classifier, train_classifier
from pyro_lrp.metrics.frechet import FeatureStatistics, frechet_distance
from pyro_lrp.metrics.inception_score import inception_score
from pyro_lrp.metrics.kernel_distance import kernel_distance, polynomial_mmd
from pyro_lrp.metrics.likelihood import importance_weighted_bound
from pyro_lrp.metrics.manifolds import density_and_coverage, precision_and_recall
from pyro_lrp.metrics.metric import Metric, result
from pyro_lrp.metrics.path_length import path_length, path_lengths
from pyro_lrp.metrics.separability import conditional_entropy, separability
from pyro_lrp.metrics.subject import Extractor, Subject
from pyro_lrp.metrics.two_sample import classifier_two_sample_test, copying, energy_distance

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
    "frechet_distance",
    "importance_weighted_bound",
    "inception_score",
    "kernel_distance",
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
    **_fid.METRICS,
    **_kernel_distance.METRICS,
    **_inception_score.METRICS,
    **_manifolds.METRICS,
    **_class_accuracy.METRICS,
    **_prior_gap.METRICS,
    **_separability.METRICS,
    **_perceptual.METRICS,
    **_likelihood.METRICS,
    **_reconstruction.METRICS,
    **_pose.METRICS,
}
