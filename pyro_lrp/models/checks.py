"""Networks of the user's own: what they must return, told in a sentence before any training."""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor, nn

from pyro_lrp.core.errors import UserError
from pyro_lrp.likelihoods import Likelihood

__all__ = ["refuse_impossible_posterior", "refuse_impossible_score", "refuse_other_images"]


def refuse_impossible_posterior(encoder: nn.Module, q: TorchDistribution) -> None:
    """Refuse means that are not finite, and scales that are not above 0.

    Args:
        encoder: Is named in the error.
        q: q(z|x) of a batch of training images.

    Raises:
        UserError: Says what is wrong, and what helps.
    """
    name = f"the encoder ({type(encoder).__name__})"
    if not torch.isfinite(q.mean).all():
        raise UserError(f"{name} returned a loc that is not finite for the first batch of images")
    scale = _scale(q)
    if scale is None:
        return
    if not torch.isfinite(scale).all():
        raise UserError(f"{name} returned a scale that is not finite for the first batch of images")
    least = scale.min().item()
    if least <= 0:
        raise UserError(
            f"{name} returned a scale of {least:.3g} for the first batch of images, and a standard deviation "
            "is above 0: return 1e-6 + softplus(output), or exp(output), or None for a deterministic encoder"
        )


def _scale(q: Any) -> Tensor | None:
    """The scale of a normal, whose variance has lost its sign; None for other distributions."""
    while hasattr(q, "base_dist"):
        q = q.base_dist
    return getattr(q, "scale", None)


def refuse_other_images(decoder: nn.Module, mean: Tensor, x: Tensor | None, batch_dim: int = 1) -> None:
    """Refuse decoded images of another shape than the images, against which they might broadcast.

    Args:
        decoder: Is named in the error.
        mean: What it returned.
        x: The images, shape ``(B, ...)``; None if there are none.
        batch_dim: The number of batch dimensions of the decoded images.

    Raises:
        UserError: Has both shapes.
    """
    if x is None:
        return
    expected = tuple(x.shape[1:])
    actual = tuple(mean.shape[batch_dim:])
    if actual != expected:
        name = type(decoder).__name__
        raise UserError(f"the decoder ({name}) must return images of shape {expected}, got {actual}")


def refuse_impossible_score(likelihood: Likelihood, mean: Tensor, x: Tensor) -> None:
    """Refuse decoded images that the likelihood refuses, or for which log p(x|z) is not finite.

    Raises:
        UserError: Has the range of the decoded images.
    """
    likelihood.check(mean)
    if torch.isfinite(mean).all():
        score = likelihood(mean, x.dim() - 1).log_prob(x)
        if torch.isfinite(score).all():
            return
    low = mean.min().item()
    high = mean.max().item()
    name = type(likelihood).__name__
    raise UserError(
        f"log p(x|z) of the first batch of images is not finite: likelihood {name}, and decoded images between "
        f"{low:.3g} and {high:.3g}; images are in [0, 1]"
    )
