"""The verdict of ``prior_gap``: whether the decoder or the prior limits the samples of a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from pyro_lrp.metrics.functional.two_sample import Copying, TwoSample

__all__ = ["COPIES", "OF_A_RUN", "OF_A_TRAINING", "Advice", "Evidence", "Verdict", "verdict"]

COPIES = 0.6  # both probabilities of copying exceed it if about every fifth sample is a copy
_STANDARD_ERRORS = 5  # by which they also exceed 0.5
_LARGE_GAP = 0.1  # nats per dimension between training and test codes that deserve a remark


class Advice(NamedTuple):
    """Remedies, in words that follow "try".

    Attributes:
        under_fits: For a prior that under-fits.
        over_fits: For one that over-fits.
        no_distances: Why the decoder cannot be judged where there are no distances of images.
    """

    under_fits: str
    over_fits: str
    no_distances: str


OF_A_RUN = Advice(
    "more prior_epochs, a richer prior (prior=mixture, prior=flow_matching), or prior_code_noise",
    "fewer parameters, prior_weight_decay, prior_code_noise, or more data",
    "without labels or attributes",
)
"""For a prior that ``train`` learned."""

OF_A_TRAINING = OF_A_RUN._replace(no_distances="from codes: evaluate does")
"""The same at the end of its training, where no distances of images are computed."""


@dataclass(frozen=True)
class Evidence:
    """The numbers that :func:`verdict` depends on.

    Attributes:
        copying: Samples compared with test codes.
        c2st: Samples against test codes.
        c2st_training: Training against test codes: the score of a prior equal to q(z).
        fd: Fréchet distances to the test images with their standard errors, of ``samples``, ``resampled``
            (decoded codes of training images) and ``training`` (these images); None without a network.
        nll: The mean -log p(z) of test codes less that of training codes, in nats, and its standard error; None
            without a density.
        dim: Length of a code.
        learned: Whether the prior has parameters.
        advice: What to try.
    """

    copying: Copying
    c2st: TwoSample
    c2st_training: TwoSample
    fd: Mapping[str, tuple[float, float]] | None
    nll: tuple[float, float] | None
    dim: int
    learned: bool = True
    advice: Advice = OF_A_RUN

    @property
    def copies(self) -> bool:
        """Whether samples copy training codes."""
        smaller = min(self.copying.probability, self.copying.relative_probability)
        error = self.copying.standard_error
        return smaller > max(COPIES, 0.5 + _STANDARD_ERRORS * error)

    @property
    def density_over_fits(self) -> bool:
        """Whether test codes are much less likely than training codes."""
        if self.nll is None:
            return False
        gap, error = self.nll
        return gap > max(_LARGE_GAP * self.dim, 3 * error)

    @property
    def remedy(self) -> str:
        """Advice for a prior that under-fits."""
        if not self.learned:
            return "a prior that is learned, such as prior=flow or prior=mixture"
        return self.advice.under_fits


class Verdict(NamedTuple):
    """The part of a model that limits its samples.

    Attributes:
        culprit: ``decoder``, ``prior under-fits``, ``prior over-fits`` or ``neither``.
        sentence: The reasons, and advice.
        share: The prior's share of the distance of samples above that of training images, in [0, 1]; 0 if there
            is no such distance; None without distances.
    """

    culprit: str
    sentence: str
    share: float | None


def verdict(evidence: Evidence) -> Verdict:
    """The part of a model that limits its samples, and advice.

    A prior over-fits if its samples copy training codes: both probabilities of
    :func:`~pyro_lrp.metrics.functional.two_sample.copying` exceed 0.6, and exceed 0.5 by 5 standard errors.
    Otherwise the cost of the decoder (decoded training codes, above training images) is compared with that of
    the prior (samples, above decoded training codes). A cost counts if it exceeds 3 standard errors and half
    the distance of training images; the larger cost that counts is the culprit. If the density over-fits but
    samples do not copy, this is only a remark: at 64 dimensions test codes can be many nats less likely than
    training codes while more training still brings samples nearer to the test images.

    Without distances the decoder cannot be judged. A prior then under-fits if a classifier separates its
    samples from test codes better than training codes from test codes, by 0.05 and with disjoint 95 %
    intervals.
    """
    if evidence.fd is None:
        preliminary = _by_codes(evidence)
    else:
        preliminary = _by_distances(evidence, evidence.fd)
    if evidence.copies:
        sentence = (
            f"the prior over-fits: with probability {evidence.copying.probability:.2f} (0.5 if it does not "
            f"copy) a sample is nearer to a training code than a test code is; try {evidence.advice.over_fits}"
        )
        return Verdict("prior over-fits", sentence, preliminary.share)
    if evidence.nll is None or not evidence.density_over_fits:
        return preliminary
    remark = (
        f"; the prior's density over-fits (test codes are {evidence.nll[0]:.1f} nats less likely than training "
        "codes), but its samples do not copy"
    )
    return preliminary._replace(sentence=preliminary.sentence + remark)


def _by_distances(evidence: Evidence, fd: Mapping[str, tuple[float, float]]) -> Verdict:
    """The verdict from distances of images."""
    samples, e1 = fd["samples"]
    resampled, e2 = fd["resampled"]
    floor, e3 = fd["training"]
    prior = samples - resampled
    decoder = resampled - floor
    share = 0.0
    if samples > floor:
        share = min(1.0, max(0.0, prior / (samples - floor)))
    figures = (
        f"samples are at {samples:.3g} from the test images, decoded training codes at {resampled:.3g}, "
        f"training images at {floor:.3g}"
    )
    prior_counts = prior > max(3 * (e1**2 + e2**2) ** 0.5, floor / 2)
    decoder_counts = decoder > max(3 * (e2**2 + e3**2) ** 0.5, floor / 2)
    if prior_counts and (prior >= decoder or not decoder_counts):
        sentence = (
            f"the prior under-fits (it causes {share:.0%} of the excess): {figures}; try {evidence.remedy}"
        )
        return Verdict("prior under-fits", sentence, share)
    if decoder_counts:
        sentence = (
            f"the decoder limits the samples (it causes {1 - share:.0%} of the excess): {figures}; try a "
            "larger network, a larger latent_dim, or a smaller beta or gamma"
        )
        return Verdict("decoder", sentence, share)
    return Verdict("neither", f"neither the prior nor the decoder costs much: {figures}", share)


def _by_codes(evidence: Evidence) -> Verdict:
    """The verdict from codes alone."""
    test = evidence.c2st
    training = evidence.c2st_training
    figures = (
        f"a classifier separates samples from test codes with accuracy {test.accuracy:.2f}, training codes "
        f"from them with {training.accuracy:.2f} (the decoder cannot be judged "
        f"{evidence.advice.no_distances})"
    )
    disjoint = test.interval[0] > training.interval[1]
    if disjoint and test.accuracy - max(0.5, training.accuracy) > 0.05:
        return Verdict("prior under-fits", f"the prior under-fits: {figures}; try {evidence.remedy}", None)
    return Verdict("neither", f"no cost of the prior is visible: {figures}", None)
