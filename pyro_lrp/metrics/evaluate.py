"""Metrics of a model in Python: what the command ``evaluate`` computes, without a run directory."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch

from pyro_lrp.core.errors import UserError
from pyro_lrp.core.modules import eval_mode
from pyro_lrp.data import ImageData, Split
from pyro_lrp.metrics.subject import Results, Subject
from pyro_lrp.models import Autoencoder

__all__ = ["evaluate"]


def evaluate(
    autoencoder: Autoencoder,
    data: ImageData,
    metrics: str | Sequence[str] = "auto",
    *,
    seen: Split | None = None,
    **options: Any,
) -> Results:
    """Compute metrics of an autoencoder on a data set.

    Args:
        autoencoder: The model, where it is; it is in eval mode meanwhile.
        data: The data set it was trained on.
        metrics: Names of :data:`~pyro_lrp.metrics.METRICS`, or one of them. ``"auto"``: those that can be
            computed here, in minutes; a warning says which fail, and why.
        seen: The training images that the model saw; all of them if None.
        **options: Further arguments of :class:`Subject`: ``seed``, ``n``, ``k``, ``weights``.

    Returns:
        Results by name, each with ``value``, ``n``, ``seed``, ``protocol`` and further entries.

    Raises:
        UserError: If a metric is unknown, or one that is named cannot be computed.

    >>> from pyro_lrp import data, likelihoods, models, networks, priors
    >>> encoder, decoder = networks.mlp((1, 8, 8), latent_dim=2, hidden_dims=(16,))
    >>> ae = models.Autoencoder(encoder, decoder, priors.StandardNormal(2), likelihoods.Gaussian())
    >>> results = evaluate(ae, data.digits(), ["reconstruction_mse"], n=100)
    >>> sorted(results)
    ['constant_image_mse', 'reconstruction_mse']
    """
    parameter = next(autoencoder.parameters(), torch.zeros(()))
    by_itself = metrics == "auto"
    subject = Subject(autoencoder, data, seen, device=parameter.device, quick=by_itself, **options)
    with eval_mode(autoencoder):
        if by_itself:
            return _automatic(subject)
        names = [metrics] if isinstance(metrics, str) else metrics
        return _named(subject, names)


def _named(subject: Subject, names: Sequence[str]) -> Results:
    from pyro_lrp.metrics import METRICS  # here, because that module imports this one

    for name in names:
        if name not in METRICS:
            known = ", ".join(METRICS)
            raise UserError(f"metrics: {name} is unknown; the known ones are: auto, or of [{known}]")
        reason = METRICS[name].lacks(subject)
        if reason is not None:
            raise UserError(f"metrics: {name} {reason}")
    results: Results = {}
    for name in names:
        results |= METRICS[name].compute(subject)
    return results


def _automatic(subject: Subject) -> Results:
    from pyro_lrp.metrics import METRICS

    results: Results = {}
    for name, metric in METRICS.items():
        if metric.not_by_itself(subject) is not None:
            continue
        try:
            results |= metric.compute(subject)
        except Exception as error:  # whatever it is, the others are worth computing
            warnings.warn(f"not computed: {name} ({error})", stacklevel=3)
    return results
