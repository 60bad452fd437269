"""The forms in which encoders and decoders from elsewhere return codes and images."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from pyro_lrp.core.errors import UserError
from pyro_lrp.core.gradients import full_precision

__all__ = ["decoded_images", "posterior"]

_FORMS = (
    "must return a code, a pair (mean, standard deviation), a normal distribution, "
    "or an object with latent_dist or latents"
)
_CONTENTS = ("latent_dist", "latents", "latent")  # attributes of output objects


def posterior(output: Any, who: str, *, log_variance: bool = False) -> tuple[Tensor, Tensor | None]:
    """The mean and the standard deviation of q(z|x), of equal shapes; None for that of a deterministic code.

    Args:
        output: The encoder's: a tensor, a pair, a normal or point distribution, an object with tensors ``mean``
            and ``std``, or one that has any of these as ``latent_dist``, ``latents`` or ``latent``. A tuple of
            one entry is that entry.
        who: The encoder in words, for errors.
        log_variance: Whether the second tensor of a pair is the logarithm of the variance.

    Raises:
        UserError: If it has another form, or ``log_variance`` is given for what is no pair.
    """
    content = _content(output)
    is_pair = isinstance(content, (tuple, list)) and len(content) == 2
    if log_variance and not is_pair:
        returned = _described(content)
        raise UserError(f"log_variance=True is for pairs (mean, log variance), and {who} returned {returned}")
    loc, scale = content if is_pair else _loc_and_scale(content)
    if not isinstance(loc, Tensor) or not isinstance(scale, (Tensor, type(None))):
        raise UserError(f"{who} {_FORMS}; it returned {_described(content)}")
    if scale is None:
        return loc, None
    if log_variance:
        # half precision would lose the digits of small scales
        scale = (0.5 * full_precision(scale)).exp()
    return loc, _expanded(scale, loc, who)


def decoded_images(output: Any, who: str) -> Tensor:
    """The mean images that a decoder returned.

    Args:
        output: A tensor, a distribution, or an object with a tensor ``sample``. A tuple of one entry is that
            entry.
        who: The decoder in words, for errors.

    Raises:
        UserError: If it has another form.
    """
    content = _single(output)
    if isinstance(content, Distribution):
        content = content.mean
    sample = getattr(content, "sample", None)
    if isinstance(sample, Tensor):
        content = sample
    if not isinstance(content, Tensor):
        returned = _described(content)
        raise UserError(f"{who} must return images, or an object with sample; it returned {returned}")
    return content


def _content(output: Any) -> Any:
    """What an output object holds of the code."""
    output = _single(output)
    for name in _CONTENTS:
        content = getattr(output, name, None)
        if content is not None:
            return content
    return output


def _single(output: Any) -> Any:
    if isinstance(output, tuple) and len(output) == 1:
        return output[0]
    return output


def _loc_and_scale(content: Any) -> tuple[Any, Any]:
    """Mean and standard deviation of what is no pair; a mean of None if it has none."""
    if isinstance(content, Tensor):
        return content, None
    while isinstance(content, Independent):
        content = content.base_dist
    if isinstance(content, Normal):
        return content.loc, content.scale
    if isinstance(content, dist.Delta):
        return content.v, None
    if isinstance(content, Distribution):
        return None, None
    mean = getattr(content, "mean", None)
    std = getattr(content, "std", None)
    if std is None:
        return None, None
    return mean, std


def _expanded(scale: Tensor, loc: Tensor, who: str) -> Tensor:
    try:
        return scale.expand_as(loc)
    except RuntimeError as error:
        shapes = f"{tuple(loc.shape)} and {tuple(scale.shape)}"
        message = f"{who} returned a mean and a standard deviation of different shapes, {shapes}"
        raise UserError(message) from error


def _described(value: Any) -> str:
    """A value in words: its shape, its length or its type."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    if isinstance(value, (tuple, list)):
        kinds = ", ".join(type(part).__name__ for part in value)
        return f"{len(value)} values ({kinds})"
    return f"a {type(value).__name__}"
