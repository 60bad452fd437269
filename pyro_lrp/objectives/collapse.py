"""Posterior collapse under N(0, I), predicted before training from the covariance of the images."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_lrp.core.randomness import some_rows
from pyro_lrp.data import Split
from pyro_lrp.likelihoods import Gaussian, Likelihood
from pyro_lrp.priors import Prior, StandardNormal

__all__ = ["collapse", "largest_variance"]

_IMAGES = 1000  # that the covariance is estimated from


def collapse(prior: Prior, likelihood: Likelihood, beta: float | Tensor, images: Split) -> str | None:
    r"""A warning if codes under N(0, I) collapse to the prior; None if they do not, or it cannot be told.

    In a linear model a dimension of the code explains one eigenvector of the images' covariance, and at the
    optimum it is in use if its eigenvalue exceeds :math:`\beta \gamma`. If no eigenvalue does, no code carries
    information; networks can only do better by structure that the covariance does not show.

    Args:
        prior: Of the codes.
        likelihood: Gaussian, of a fixed variance γ; of others nothing is known.
        beta: Weight of the KL.
        images: The training images.

    References:
        Lucas et al. (2019), Don't Blame the ELBO! A Linear VAE Perspective on Posterior Collapse, section 4;
        with a weight β the variance γ becomes βγ, the objective being divided by β.
    """
    if not isinstance(prior, StandardNormal) or not isinstance(likelihood, Gaussian) or likelihood.learns:
        return None
    threshold = float(beta) * likelihood.gamma.item()
    if threshold == 0:
        return None
    largest = largest_variance(images)
    if largest > threshold:
        return None
    return (
        f"codes collapse: beta * gamma = {threshold:.3g}, and the images' variance along any direction is at "
        f"most {largest:.3g}, so under N(0, I) a code costs more than it explains (Lucas et al., 2019); lower "
        "beta or likelihood.gamma, or learn gamma (likelihood=gaussian_learned) or the prior"
    )


def largest_variance(images: Split) -> float:
    """The largest eigenvalue of the covariance of images with pixels in [0, 1], from 1,000 of them."""
    rows = some_rows(len(images), min(_IMAGES, len(images)), "collapse")
    x = images[rows].batch(slice(None)).x.flatten(1).double().cpu()
    centred = x - x.mean(0)
    # of the smaller of the two matrices with the same eigenvalues
    products = centred @ centred.T
    return torch.linalg.eigvalsh(products)[-1].item() / len(x)
