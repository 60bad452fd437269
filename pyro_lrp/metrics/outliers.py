"""Outlier scores of single images, by name, and their table."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_lrp.core.errors import UserError
from pyro_lrp.core.files import write_atomically
from pyro_lrp.core.modules import eval_mode
from pyro_lrp.core.randomness import seeded
from pyro_lrp.data import ImageData, Split
from pyro_lrp.latents.codes import posteriors
from pyro_lrp.metrics.likelihood import NEEDS, Bounds, bounds, image_numbers, some_seen
from pyro_lrp.metrics.metric import Metric, Requirement, density, result
from pyro_lrp.metrics.subject import Results, Subject
from pyro_lrp.models import Autoencoder

__all__ = ["METRICS", "SCORES", "Score", "outlier_scores", "scores"]


class Score(NamedTuple):
    """A score of single images; larger ones are more outlying.

    Attributes:
        compute: Maps a subject to the scores of its test images, shape ``(N,)``.
        needs: What it requires of the model, as for metrics.
    """

    compute: Callable[[Subject], Tensor]
    needs: tuple[Requirement, ...] = ()

    def lacks(self, subject: Subject) -> str | None:
        """The first requirement that a subject does not meet, or None."""
        return Metric(lambda subject: {}, self.needs).lacks(subject)


@torch.no_grad()
def outlier_scores(
    autoencoder: Autoencoder,
    images: Split | Tensor,
    train: Split,
    scores: str | Sequence[str] | None = None,
    *,
    k: int = 100,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Score images by how little they look like the training images; **larger scores are more outlying**.

    - ``"prior"``: -log p(z) of the mean z of q(z|x), in nats.
    - ``"reconstruction"``: squared error per pixel value of the decoded mean of q(z|x).
    - ``"bound"``: an upper bound on -log p(x), in nats, by importance weighting with a normal proposal that is
      refined for each image; some 100 images per second on one core with small networks.
    - ``"typicality"``: how far -log p(z) lies from its mean over the training codes (2,000 of them), in nats.
      Codes that are likelier than the training codes are outlying too.

    Args:
        autoencoder: The trained model, where it is; it is in eval mode meanwhile.
        images: The images, ``(N, C, H, W)``, uint8 or floats in [0, 1]; a split if the prior needs contexts.
        train: The images that the model was trained on.
        scores: Names, or one of them; None for all that the model has.
        k: Draws for each image, of ``"bound"``.
        seed: Seed of these draws, and of the choice of training images.

    Returns:
        The scores by name, each of shape ``(N,)``.

    Raises:
        UserError: If a name is unknown, the model lacks a density that a score needs, or the images have other
            shapes or no contexts.

    References:
        Nalisnick et al. (2019), Detecting Out-of-Distribution Inputs to Deep Generative Models Using
        Typicality, arXiv:1906.02994; here for a batch of one.

    >>> from pyro_lrp import data, likelihoods, models, networks, priors
    >>> encoder, decoder = networks.mlp((1, 8, 8), latent_dim=2, hidden_dims=(16,))
    >>> ae = models.Autoencoder(encoder, decoder, priors.StandardNormal(2), likelihoods.Gaussian())
    >>> digits = data.digits()
    >>> found = outlier_scores(ae, digits.test[:5], digits.train, ["prior", "typicality"])
    >>> {name: tuple(values.shape) for name, values in found.items()}
    {'prior': (5,), 'typicality': (5,)}
    """
    if isinstance(images, Tensor):
        images = Split(images)
    _check_images(autoencoder, images, train)
    device = next(autoencoder.parameters(), torch.zeros(())).device
    data = ImageData("images", train, images)
    subject = Subject(autoencoder, data, seed=seed, n=len(images), k=k, device=device)
    with eval_mode(autoencoder):
        names = _names(subject, scores)
        return {name: SCORES[name].compute(subject) for name in names}


def _check_images(autoencoder: Autoencoder, images: Split, train: Split) -> None:
    if not len(images):
        raise UserError("images: there are none to score")
    shape = tuple(images.images.shape[1:])
    expected = tuple(train.images.shape[1:])
    if shape != expected:
        raise UserError(f"images: expected the shape {expected} of the training images, got {shape}")
    length = autoencoder.prior.context_dim or 0
    if length and images.context.shape[1] != length:
        raise UserError(
            f"images: the prior needs a context of {length} numbers for each: give a Split that has them"
        )


def _names(subject: Subject, scores: str | Sequence[str] | None) -> list[str]:
    """The scores that were asked for; by default those that the model has."""
    if scores is None:
        return [name for name, score in SCORES.items() if score.lacks(subject) is None]
    names = [scores] if isinstance(scores, str) else [*scores]
    for name in names:
        if name not in SCORES:
            raise UserError(f"scores: {name} is unknown; the known ones are: {', '.join(SCORES)}")
        reason = SCORES[name].lacks(subject)
        if reason is not None:
            raise UserError(f"scores: {name} {reason}")
    return names


# --------------------------------------------------------------------- scores


class _Coded(NamedTuple):
    """Test images and the means of their codes.

    Attributes:
        squared_error: Per pixel value, of the decoded means.
        log_prior: log p(z) of the means, in nats; empty if the prior has no density.
    """

    squared_error: Tensor
    log_prior: Tensor


def _k(subject: Subject) -> int:
    return subject.repeats(100, quick=100)


def _n(subject: Subject) -> int:
    return subject.count(10_000, quick=500)


def _coded(subject: Subject) -> _Coded:
    """The test images by the means of their codes, computed once."""
    return subject.memo(("coded",), lambda: _computed_coded(subject))


def _computed_coded(subject: Subject) -> _Coded:
    autoencoder = subject.autoencoder
    test = subject.on_device(subject.data.test[image_numbers(subject, _n(subject))])
    errors = []
    densities = [torch.zeros(0, device=subject.device)]
    with seeded(subject.seed, "evaluate", "scores"):  # some densities are estimates
        for batch, q in posteriors(autoencoder, test):
            z = q.mean
            difference = autoencoder.decode(z, batch.context) - batch.x
            errors.append(difference.square().flatten(1).mean(1))
            if autoencoder.prior.has_log_prob:
                prior = autoencoder.prior(batch.context)
                densities.append(prior.log_prob(z))
    return _Coded(torch.cat(errors), torch.cat(densities))


def _bounds(subject: Subject) -> Bounds:
    return bounds(subject, _n(subject), _k(subject))


def _prior(subject: Subject) -> Tensor:
    return -_coded(subject).log_prior


def _reconstruction(subject: Subject) -> Tensor:
    return _coded(subject).squared_error


def _bound(subject: Subject) -> Tensor:
    return -_bounds(subject).refined.bound


def _typicality(subject: Subject) -> Tensor:
    autoencoder = subject.autoencoder
    densities = []
    with seeded(subject.seed, "evaluate", "typical"):
        for batch, q in posteriors(autoencoder, some_seen(subject)):
            prior = autoencoder.prior(batch.context)
            densities.append(prior.log_prob(q.mean))
    typical = torch.cat(densities).mean()
    return (_coded(subject).log_prior - typical).abs()


SCORES: dict[str, Score] = {
    "prior": Score(_prior, (density,)),
    "reconstruction": Score(_reconstruction),
    "bound": Score(_bound, NEEDS),
    "typicality": Score(_typicality, (density,)),
}
"""The outlier scores by name; in all of them larger is more outlying."""


# --------------------------------------------------------------------- table


@torch.no_grad()
def scores(subject: Subject) -> Results:
    """A table with a row for each test image, ``scores.csv`` in the run's directory, for finding outliers.

    Columns: ``index`` in the test split, ``label``, ``squared_error`` (per pixel value, of the decoded mean of
    q(z|x)), ``log_prior`` (of that mean, if the prior has a density), and, if p(x) has a bound, ``bound``
    (a lower bound on log p(x), in nats) and ``effective_sample_size``; last ``typicality``, how far
    ``log_prior`` lies from its mean over training codes. Outliers have a large ``squared_error`` or
    ``typicality``, or a small ``log_prior`` or ``bound``. :func:`outlier_scores` gives them with one sign.

    Raises:
        UserError: If the subject has no directory.
    """
    if subject.directory is None:
        raise UserError("scores needs a run directory to write its table to")
    protocol: dict[str, Any] = {}
    index = image_numbers(subject, _n(subject))
    labels = subject.data.test.labels
    columns: dict[str, list[Any]] = {"index": index.tolist()}
    if labels is not None:
        columns["label"] = [_class_name(subject, label) for label in labels[index].tolist()]
    coded = _coded(subject)
    has_density = density(subject) is None
    columns["squared_error"] = coded.squared_error.tolist()
    if has_density:
        columns["log_prior"] = coded.log_prior.tolist()
    if SCORES["bound"].lacks(subject) is None:
        refined = _bounds(subject).refined
        columns["bound"] = refined.bound.tolist()
        columns["effective_sample_size"] = refined.sample_size.tolist()
        protocol["k"] = _k(subject)
    if has_density:
        columns["typicality"] = _typicality(subject).tolist()
    path = subject.directory / "scores.csv"
    write_atomically(path, lambda target: _write(target, columns))
    protocol = {"file": path.name, "columns": list(columns), **protocol}
    return {"scores": result(subject, float(len(index)), len(index), protocol)}


def _class_name(subject: Subject, label: int) -> str:
    """The name of a class; empty for an image without one."""
    if label < 0:
        return ""
    return subject.data.classes[label]


def _write(target: Any, columns: dict[str, list[Any]]) -> None:
    """Write columns as a table; numbers have six digits."""
    with open(str(target), "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(columns)
        for row in zip(*columns.values(), strict=True):
            table.writerow([_cell(value) for value in row])


def _cell(value: float) -> float | str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return value


METRICS = {"scores": Metric(scores)}
