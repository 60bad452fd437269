"""An autoencoder whose encoder and decoder were written, and perhaps trained, elsewhere."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from pyro_lrp.core.errors import UserError
from pyro_lrp.core.gradients import frozen as without_gradients
from pyro_lrp.core.modules import eval_mode
from pyro_lrp.core.randomness import seeded
from pyro_lrp.data import at_once
from pyro_lrp.likelihoods import Gaussian, Likelihood
from pyro_lrp.models.adapted import DecoderPart, EncoderPart, Part, Pixels
from pyro_lrp.models.autoencoder import Autoencoder
from pyro_lrp.networks.heads import check_image_shape
from pyro_lrp.priors import Prior

__all__ = ["from_parts"]

_ROWS = 3  # images that are made up to try the parts on
_FAR = 0.5  # a decoded pixel so far from [0, 1] is worth a warning


def from_parts(
    encoder: Callable[..., Any],
    decoder: Callable[..., Any],
    prior: Prior,
    likelihood: Likelihood | None = None,
    *,
    images: Tensor | None = None,
    image_shape: Sequence[int] | None = None,
    image_range: tuple[float, float] = (0.0, 1.0),
    flat_images: bool = False,
    log_variance: bool = False,
    frozen: bool = True,
) -> Autoencoder:
    """An autoencoder from an encoder and a decoder that were trained elsewhere, and a prior for their codes.

    The modules are the caller's own, not copies. Give modules or methods of modules (``vae.encode``): they
    move, are saved and are frozen with the autoencoder, under their own parameter names below ``encoder.`` and
    ``decoder.``; a module that both share is saved once, below ``encoder.``. Other functions are only called.
    Codes that are maps, ``(B, C, h, w)``, are vectors of length C h w to the prior and everywhere else outside
    the parts. A part computes in the precision of its module.

    Args:
        encoder: Maps images to one of these: a code, ``(B, d)`` or ``(B, C, h, w)``, which makes it
            deterministic; a pair **(mean, standard deviation)**; a normal distribution of torch or Pyro; an
            object with tensors ``mean`` and ``std``; an object with any of these as ``latent_dist``,
            ``latents`` or ``latent``, as in diffusers.
        decoder: Maps codes, of the shape that the encoder returns, to mean images, to a distribution with that
            mean, or to an object with images as ``sample``.
        prior: Of event shape ``(d,)``.
        likelihood: Maps a mean image to p(x|z); a Gaussian of learned variance if None.
        images: A batch of images in [0, 1], ``(B, C, H, W)``, to try the parts on; None to make one up.
        image_shape: ``(C, H, W)`` of the images that are made up.
        image_range: The values of black and white in the images of the parts, such as ``(-1, 1)``. Those of
            the autoencoder are in [0, 1].
        flat_images: Whether the parts take and return images as vectors, ``(B, C H W)``.
        log_variance: Whether a pair is **(mean, log variance)**, as most hand-written encoders return.
        frozen: Keep the parts as they are: no gradients for their parameters (``requires_grad`` becomes False)
            and eval mode, also while the autoencoder trains. A prior-only phase then trains the prior, a joint
            phase the prior and the likelihood. If False, ``requires_grad`` stays as it is, and a joint phase
            trains what has it.

    Raises:
        UserError: If the parts, the prior and the images do not fit, or values are not finite.

    >>> from torch import nn
    >>> from pyro_lrp import priors
    >>> encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    >>> decoder = nn.Sequential(nn.Linear(2, 64), nn.Unflatten(1, (1, 8, 8)))
    >>> ae = from_parts(encoder, decoder, priors.Mixture(2, 3), image_shape=(1, 8, 8))
    >>> ae.sample(5).shape
    torch.Size([5, 1, 8, 8])
    """
    if not isinstance(prior, Prior):
        raise UserError(f"prior must be a prior of pyro_lrp.priors, got a {type(prior).__name__}")
    images = _sample(images, image_shape)
    pixels = Pixels(images.shape[1:], image_range, flat=flat_images)
    first = EncoderPart(encoder, pixels, log_variance=log_variance, frozen=frozen)
    images = first.moved(images)
    mean = _try_encoder(first, images, prior)
    second = DecoderPart(decoder, pixels, mean.shape[1:], beside=first, frozen=frozen)
    _try_decoder(second, mean, images, made_up=image_shape is not None)

    device = images.device
    likelihood = likelihood or Gaussian(learn=True)
    autoencoder = Autoencoder(first, second, prior.to(device), likelihood.to(device))
    autoencoder.at_once = at_once(*images.shape[-2:])
    if frozen:  # at the end: modules that are refused stay as they were
        first.freeze()
        second.freeze()
    return autoencoder


def _sample(images: Tensor | None, image_shape: Sequence[int] | None) -> Tensor:
    """The images to try the parts on."""
    if (images is None) == (image_shape is None):
        raise UserError("from_parts needs images, a batch in [0, 1], or else image_shape, (C, H, W)")
    if images is None:
        assert image_shape is not None
        with seeded(0, "from_parts"):
            return torch.rand(_ROWS, *check_image_shape(image_shape))
    if not isinstance(images, Tensor):
        raise UserError(f"images must be a tensor of shape (B, C, H, W), got a {type(images).__name__}")
    if images.dim() != 4 or len(images) == 0:
        shape = tuple(images.shape)
        raise UserError(f"images must be a tensor of shape (B, C, H, W), got {shape}")
    low = images.min().item()
    high = images.max().item()
    if not 0 <= low <= high <= 1:
        raise UserError(
            f"images must be in [0, 1] and lie between {low:.3g} and {high:.3g}: scale them, and give the "
            "range that the parts were trained with as image_range"
        )
    return images.to(torch.get_default_dtype())


def _try_encoder(part: EncoderPart, x: Tensor, prior: Prior) -> Tensor:
    """Check what the encoder returns; the mean codes, in its own shape."""
    mean, scale = _tried(part, part.posterior, x, f"images of shape {tuple(x.shape)}")
    if mean.dim() < 2 or len(mean) != len(x):
        shape = tuple(mean.shape)
        raise UserError(
            f"{part.who} must return a code for each image, and returned {shape} for {len(x)} images"
        )
    _check_length(part, mean, prior)
    if not torch.isfinite(mean).all():
        raise UserError(f"{part.who} returned codes that are not finite")
    again, _ = _tried(part, part.posterior, x, f"images of shape {tuple(x.shape)}")
    if not torch.allclose(mean, again, rtol=1e-2, atol=1e-3):
        raise UserError(
            f"{part.who} returned two codes for one image: it must return the mean and the standard deviation, "
            "not a draw"
        )
    if scale is None:
        part.learns_noise = False
    else:
        _check_scale(part, scale)
    return mean


def _check_length(part: EncoderPart, mean: Tensor, prior: Prior) -> None:
    """Refuse a prior of codes of another length."""
    own = tuple(mean.shape[1:])
    length = math.prod(own)
    if tuple(prior.event_shape) == (length,):
        return
    vector = ""
    if len(own) > 1:
        vector = f", {length} numbers as a vector"
    raise UserError(
        f"{part.who} returned codes of shape {own}{vector}, and the prior ({type(prior).__name__}) is of codes "
        f"of shape {tuple(prior.event_shape)}: make it one of {length} dimensions"
    )


def _check_scale(part: EncoderPart, scale: Tensor) -> None:
    """Refuse standard deviations that cannot be."""
    least = scale.min().item()
    if torch.isfinite(scale).all() and least > 0:
        return
    hint = "log_variance=True is for pairs (mean, log variance)"
    if part.log_variance:
        hint = "without log_variance=True a pair is (mean, standard deviation)"
    raise UserError(
        f"{part.who} returned a standard deviation of {least:.3g}, which must be finite and above 0: {hint}"
    )


def _try_decoder(part: DecoderPart, mean: Tensor, x: Tensor, *, made_up: bool) -> None:
    """Check what the decoder returns for mean codes."""
    z = mean.flatten(1).to(x.dtype)
    decoded = _tried(part, part, z, f"codes of shape {tuple(mean.shape)}")
    actual = tuple(decoded.shape)
    if actual != tuple(x.shape):
        raise UserError(
            f"{part.who} returned images of shape {actual} where {tuple(x.shape)} were expected; "
            "flat_images=True is for images as vectors"
        )
    if not torch.isfinite(decoded).all():
        raise UserError(f"{part.who} returned images that are not finite")
    low = decoded.min().item()
    high = decoded.max().item()
    is_far = low < -_FAR or high > 1 + _FAR
    if is_far and not made_up:
        warnings.warn(
            f"{part.who} returned pixels between {low:.3g} and {high:.3g}, and images are in [0, 1]: give the "
            "range that it was trained with as image_range, or end it with a sigmoid",
            stacklevel=3,
        )


def _tried(part: Part, call: Callable[[Tensor], Any], value: Tensor, what: str) -> Any:
    """What a part returns in eval mode; refused if it computes with parameters that it does not hold."""
    with eval_mode(part.owner), without_gradients(part.owner), torch.enable_grad():
        try:
            result = call(value)
        except UserError:
            raise
        except Exception as error:
            reason = str(error).partition("\n")[0]
            raise UserError(
                f"{part.who} cannot be called with {what} ({reason}): are image_shape and flat_images right?"
            ) from error
    if _has_gradients(result):
        raise UserError(
            f"{part.who} hides its parameters: give the module or its method, such as vae.encode, or freeze "
            "the module yourself (vae.eval().requires_grad_(False))"
        )
    return result


def _has_gradients(result: Any) -> bool:
    """Whether an image, or a mean and its standard deviation, depend on parameters that learn."""
    tensors = result if isinstance(result, tuple) else (result,)
    return any(tensor.requires_grad for tensor in tensors if tensor is not None)
