"""What the results of metrics mean: their group, which values are better, their names in the field's words."""

from __future__ import annotations

from fnmatch import fnmatchcase

__all__ = ["GROUPS", "arrow", "better", "group", "title"]

_DIRECTIONS = (  # the first pattern that fits decides; an unknown metric has no direction
    ("*_training", None),  # of the data set's images, not of a model
    ("*_truth", None),
    ("*_real", None),
    ("*_of_another_pose", None),
    ("fid*", "smaller"),
    ("fd_*", "smaller"),
    ("kid*", "smaller"),
    ("kd_*", "smaller"),
    ("ppl*", "smaller"),
    ("reconstruction_mse", "smaller"),
    ("separability*", "smaller"),
    ("class_separability*", "smaller"),
    ("interpolation_distance*", "smaller"),
    ("inception_score", "larger"),
    ("is_*", "larger"),
    ("precision*", "larger"),
    ("recall*", "larger"),
    ("density*", "larger"),
    ("coverage*", "larger"),
    ("class_accuracy*", "larger"),
    ("pose_recovery*", "larger"),
    ("log_likelihood_bound", "larger"),
)
_ARROWS = {"smaller": "↓", "larger": "↑", None: " "}

_IN_GROUP = {
    "samples beside test images": (
        "fid*", "fd_*", "kid*", "kd_*", "inception_score", "is_*", "precision*", "recall*", "density*",
        "coverage*", "lpips_diversity*", "diversity_*", "class_accuracy*", "pose_recovery*",
    ),
    "prior beside codes": ("prior_gap*", "active_units*", "log_likelihood", "log_likelihood_normal"),
    "latent space": (
        "interpolation_distance*", "separability*", "class_separability*", "ppl*", "perceptual_change*",
    ),
    "likelihood and reconstruction": ("log_likelihood_bound*", "elbo", "scores", "*_mse"),
}  # fmt: skip
_OTHERS = "others"
GROUPS = (*_IN_GROUP, _OTHERS)
"""The groups of a table, in order."""

_TITLES = (  # the longest beginning that fits decides; what is left of the name says of what, or where
    ("fid_dai_wipf_jpeg", "FID (protocol of Dai and Wipf's code, JPEG)"),
    ("fid_dai_wipf", "FID (protocol of Dai and Wipf's code)"),
    ("fid", "FID"),
    ("fd_classifier", "FID (classifier features)"),
    ("kid", "KID"),
    ("kd_classifier", "KID (classifier features)"),
    ("inception_score", "Inception score"),
    ("is_classifier", "Inception score (classifier)"),
    ("class_separability", "linear separability of classes"),
    ("separability", "linear separability"),
    ("ppl_classifier", "perceptual path length (classifier features)"),
    ("ppl_squeezenet", "perceptual path length (SqueezeNet)"),
    ("ppl", "perceptual path length (VGG16)"),
    ("lpips_diversity_squeezenet", "LPIPS diversity (SqueezeNet)"),
    ("lpips_diversity", "LPIPS diversity (AlexNet)"),
    ("diversity_classifier", "diversity (classifier features)"),
    ("perceptual_change_squeezenet", "variation of perceptual change (SqueezeNet)"),
    ("perceptual_change", "variation of perceptual change (VGG16)"),
    ("interpolation_distance_codes", "Fréchet distance of codes, decoded"),
    ("interpolation_distance", "Fréchet distance of decoded midpoints"),
    ("prior_gap_nll_difference", "−log p(z), test less training codes [nats]"),
    ("prior_gap_nll_training", "−log p(z), training codes [nats]"),
    ("prior_gap_nll_test", "−log p(z), test codes [nats]"),
    ("prior_gap_rate", "rate [bits per dimension]"),
    ("prior_gap_c2st", "classifier two-sample test, accuracy"),
    ("prior_gap_energy_distance", "energy distance of codes"),
    ("prior_gap_fd", "Fréchet distance (classifier features)"),
    ("log_likelihood_bound", "bound on log p(x) [nats]"),
    ("elbo", "ELBO [nats]"),
    ("reconstruction_mse", "reconstruction error (MSE per pixel)"),
    ("constant_image_mse", "MSE of the best constant image"),
    ("test/log_likelihood", "log p(x|z), test images [nats]"),
    ("test/log_prior", "log p(z), test codes [nats]"),
    ("test/kl", "KL(q(z|x) || p(z)), test images [nats]"),
)
_REST = {
    "_reconstructions": "reconstructions",
    "_training": "training images",
    "_samples": "samples",
    "_resampled": "decoded training codes",
    "_classifier": "classifier features",
    "_encoder": "proposal q(z|x)",
    "_z0": "in z_0",
    "_zT": "in z_T",
    "_z0_standardized": "in z_0, standardised",
    "_zT_standardized": "in z_T, standardised",
}


def better(metric: str) -> str | None:
    """Which values of a metric are better, ``"smaller"`` or ``"larger"``; None if that is not known.

    >>> better("fd_classifier"), better("recall"), better("test/kl"), better("fid_training")
    ('smaller', 'larger', None, None)
    """
    for pattern, direction in _DIRECTIONS:
        if fnmatchcase(metric, pattern):
            return direction
    return None


def arrow(metric: str) -> str:
    """An arrow towards better values of a metric; a blank if they are not known."""
    return _ARROWS[better(metric)]


def group(metric: str) -> str:
    """The one of :data:`GROUPS` that a metric belongs to.

    >>> group("ppl_classifier_z0"), group("brightness")
    ('latent space', 'others')
    """
    for name, patterns in _IN_GROUP.items():
        if any(fnmatchcase(metric, pattern) for pattern in patterns):
            return name
    return _OTHERS


def title(metric: str) -> str:
    """The name of a metric in the field's words, for the axes of figures.

    >>> title("fd_classifier"), title("fid_reconstructions"), title("recall_classifier")
    ('FID (classifier features)', 'FID, reconstructions', 'recall (classifier features)')
    """
    for beginning, words in _TITLES:
        rest = metric.removeprefix(beginning)
        if metric == beginning:
            return words
        if metric.startswith(f"{beginning}_"):
            return f"{words}, {_REST.get(rest, rest.strip('_').replace('_', ' '))}"
    stem = metric.removesuffix("_classifier")
    words = stem.replace("_", " ")
    if stem != metric:
        return f"{words} (classifier features)"
    return words
