"""Networks of the user's own: what they must return, told in a sentence before any training."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pyro_lrp.core.errors import UserError
from pyro_lrp.likelihoods import Likelihood

__all__ = ["refuse_impossible_posterior", "refuse_impossible_score", "refuse_other_images"]


def refuse_impossible_posterior(encoder: nn.Module, loc: Tensor, scale: Tensor | None) -> None:
    """Refuse means that are not finite, and scales that are not above 0.

    Args:
        encoder: Is named in the error.
        loc: What it returned for a batch of training images.
        scale: Likewise; None for a deterministic encoder.

    Raises:
        UserError: Says what is wrong, and what helps.
    """
    name = f"the encoder ({type(encoder).__name__})"
    if not torch.isfinite(loc).all():
        raise UserError(f"{name} returned a loc that is not finite for the first batch of images")
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


def refuse_other_images(decoder: nn.Module, mean: Tensor, x: Tensor | None, event_dim: int) -> None:
    """Refuse decoded images of another shape than the images, against which they might broadcast.

    Args:
        decoder: Is named in the error.
        mean: What it returned.
        x: The images; None if there are none.
        event_dim: The number of dimensions of a decoded image.

    Raises:
        UserError: Has both shapes.
    """
    if x is None:
        return
    expected = tuple(x.shape[-event_dim:])
    actual = tuple(mean.shape[-event_dim:])
    if actual != expected:
        name = type(decoder).__name__
        raise UserError(f"the decoder ({name}) must return images of shape {expected}, got {actual}")


def refuse_impossible_score(likelihood: Likelihood, mean: Tensor, x: Tensor) -> None:
    """Refuse decoded images for which log p(x|z) is not finite.

    Raises:
        UserError: Has the range of the decoded images.
    """
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
