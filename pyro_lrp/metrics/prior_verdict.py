"""What limits the samples of a model, its decoder or its prior: a judgement of the figures of ``prior_gap``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from pyro_lrp.metrics.two_sample import Copying, TwoSample

__all__ = ["COPIES", "Evidence", "Verdict", "verdict"]

COPIES = 0.6  # probabilities of copying above it: about every fifth sample is a copy
_STANDARD_ERRORS = 5  # and by so many of them above 0.5
_LARGE_GAP = 0.1  # nats per dimension: a larger gap between training and test codes is worth a remark


@dataclass(frozen=True)
class Evidence:
    """What :func:`verdict` judges by.

    Attributes:
        copying: Of samples, against test codes.
        c2st: Of samples against test codes.
        c2st_training: Of training against test codes: what a prior equal to q(z) would score.
        fd: For each of ``samples``, ``resampled`` (decoded codes of training images) and ``training`` (these
            images) its Fréchet distance to the test images and the standard error of that; None without a
            network for them.
        nll: By how much the mean -log p(z) of test codes exceeds that of training codes, in nats, and its
            standard error; None without a density.
        dim: Length of a code.
        learned: Whether the prior has parameters.
    """

    copying: Copying
    c2st: TwoSample
    c2st_training: TwoSample
    fd: Mapping[str, tuple[float, float]] | None
    nll: tuple[float, float] | None
    dim: int
    learned: bool = True

    @property
    def copies(self) -> bool:
        least = min(self.copying.probability, self.copying.relative_probability)
        return least > max(COPIES, 0.5 + _STANDARD_ERRORS * self.copying.standard_error)

    @property
    def remedy(self) -> str:
        """For a prior that under-fits."""
        if not self.learned:
            return "a prior that is learned, such as prior=flow or prior=mixture"
        return "more prior_epochs, a richer prior (prior=mixture, prior=flow_matching), or prior_code_noise"


class Verdict(NamedTuple):
    """What limits samples.

    Attributes:
        culprit: ``decoder``, ``prior under-fits``, ``prior over-fits`` or ``neither``.
        sentence: Why, and what to try.
        share: Of the distance of samples above that of training images, what the prior is responsible for, in
            [0, 1]; 0 if there is no such distance; None without distances.
    """

    culprit: str
    sentence: str
    share: float | None


def verdict(evidence: Evidence) -> Verdict:
    """Which part of a model limits its samples, and what to try.

    A prior over-fits if its samples copy training codes: both probabilities of
    :func:`pyro_lrp.metrics.two_sample.copying` are above 0.6, and by 5 standard errors above 0.5. Else what the
    decoder costs (decoded training codes, above training images) is held against what the prior costs (samples,
    above decoded training codes); a cost counts if it exceeds 3 standard errors and half the floor, which is
    the distance of training images, and the larger of those that count is the culprit. A prior whose density
    over-fits is only remarked upon if its samples do not copy: at 64 dimensions test codes can be many nats
    less likely than training codes while more training still brings samples nearer to the test images.

    Without distances the decoder cannot be judged, and a prior under-fits if a classifier tells its samples
    from test codes better than training codes from them, by 0.05 and with 95 % intervals that are apart.
    """
    found = _by_codes(evidence) if evidence.fd is None else _by_distances(evidence, evidence.fd)
    if evidence.copies:
        sentence = (
            f"the prior over-fits: with probability {evidence.copying.probability:.2f} (0.5 if it does not "
            "copy) a sample is nearer to a training code than a test code is; try fewer parameters, "
            "prior_weight_decay, prior_code_noise, or more data"
        )
        return Verdict("prior over-fits", sentence, found.share)
    if evidence.nll is None or not evidence.nll[0] > max(_LARGE_GAP * evidence.dim, 3 * evidence.nll[1]):
        return found
    remark = (
        f"; the prior's density over-fits (test codes are {evidence.nll[0]:.1f} nats less likely than training "
        "codes), but its samples do not copy"
    )
    return found._replace(sentence=found.sentence + remark)


def _by_distances(evidence: Evidence, fd: Mapping[str, tuple[float, float]]) -> Verdict:
    (samples, e1), (resampled, e2), (floor, e3) = (fd[of] for of in ("samples", "resampled", "training"))
    prior, decoder = samples - resampled, resampled - floor
    share = min(1.0, max(0.0, prior / (samples - floor))) if samples > floor else 0.0
    figures = (
        f"samples are at {samples:.3g} from the test images, decoded training codes at {resampled:.3g}, "
        f"training images at {floor:.3g}"
    )
    prior_counts = prior > max(3 * (e1**2 + e2**2) ** 0.5, floor / 2)
    decoder_counts = decoder > max(3 * (e2**2 + e3**2) ** 0.5, floor / 2)
    if prior_counts and (prior >= decoder or not decoder_counts):
        sentence = f"the prior under-fits ({share:.0%} of the excess is its): {figures}; try {evidence.remedy}"
        return Verdict("prior under-fits", sentence, share)
    if decoder_counts:
        sentence = (
            f"the decoder limits the samples ({1 - share:.0%} of the excess is its): {figures}; try a larger "
            "network, a larger latent_dim, or a smaller beta or gamma"
        )
        return Verdict("decoder", sentence, share)
    return Verdict("neither", f"neither the prior nor the decoder costs much: {figures}", share)


def _by_codes(evidence: Evidence) -> Verdict:
    test, yardstick = evidence.c2st, evidence.c2st_training
    figures = (
        f"a classifier tells samples from test codes with accuracy {test.accuracy:.2f}, training codes from "
        f"them with {yardstick.accuracy:.2f} (the decoder cannot be judged without labels or attributes)"
    )
    apart = test.interval[0] > yardstick.interval[1]
    if apart and test.accuracy - max(0.5, yardstick.accuracy) > 0.05:
        return Verdict("prior under-fits", f"the prior under-fits: {figures}; try {evidence.remedy}", None)
    return Verdict("neither", f"the prior is not seen to cost anything: {figures}", None)
