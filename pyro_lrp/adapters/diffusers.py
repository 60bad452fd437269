"""A learned prior for the autoencoders of diffusers, in the scale of its pipelines."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from pyro_lrp import fitting
from pyro_lrp.core.errors import UserError
from pyro_lrp.core.modules import eval_mode

if find_spec("diffusers") is None:
    raise ImportError("pyro_lrp.adapters.diffusers needs a package: pip install 'pyro_lrp[diffusers]'")

__all__ = ["LatentPrior", "decode", "encode"]


@torch.no_grad()
def encode(vae: Any, images: Tensor | Iterable[Tensor], batch_size: int = 8) -> Tensor:
    """Scaled latents of images, as the pipelines of diffusers compute them.

    They are drawn from ``latent_dist`` where the autoencoder has one.

    Args:
        vae: An ``AutoencoderKL``, ``AutoencoderTiny`` or ``AutoencoderDC``.
        images: Floats in [0, 1], ``(N, C, H, W)``; or batches of such, as a generator yields them.
        batch_size: Images that are encoded at once.

    Returns:
        Latents ``(N, c, h, w)`` in the dtype of the autoencoder, on its device.

    Raises:
        UserError: If it is no such autoencoder, or these are no images of it.
    """
    _check_vae(vae)
    batches = [images] if isinstance(images, Tensor) else images
    shift, factor = _scaling(vae)
    parts = []
    with eval_mode(vae):
        for batch in batches:
            _check_maps("images", batch, vae.config.in_channels)
            _check_range(batch)
            for x in batch.split(batch_size):
                (z,) = vae.encode(x.to(vae.device, vae.dtype) * 2 - 1, return_dict=False)
                if not isinstance(z, Tensor):
                    z = z.sample()
                parts.append((z - shift) * factor)
    if not parts:
        raise UserError("images: expected one batch at least, got none")
    return torch.cat(parts)


@torch.no_grad()
def decode(vae: Any, latents: Tensor, batch_size: int = 8) -> Tensor:
    """Images ``(N, C, H, W)`` in [0, 1] of scaled latents ``(N, c, h, w)``, the counterpart of :func:`encode`.

    Raises:
        UserError: If it is no such autoencoder, or these are no latents of it.
    """
    _check_vae(vae)
    _check_maps("latents", latents, vae.config.latent_channels)
    shift, factor = _scaling(vae)
    parts = []
    with eval_mode(vae):
        for z in latents.to(vae.device, vae.dtype).split(batch_size):
            (x,) = vae.decode(z / factor + shift, return_dict=False)
            parts.append((x / 2 + 0.5).clamp(0, 1))
    return torch.cat(parts)


@dataclass(frozen=True)
class LatentPrior:
    """An autoencoder of diffusers with a prior of its scaled latents; a call draws images.

    Attributes:
        vae: The autoencoder.
        fitted: The prior, from :func:`pyro_lrp.fit` or :func:`pyro_lrp.fitting.load`.
    """

    vae: Any
    fitted: fitting.Fitted

    @classmethod
    def fit(cls, vae: Any, latents: Tensor, **options: Any) -> LatentPrior:
        """Fit a prior to scaled latents ``(N, c, h, w)``, which :func:`encode` returns.

        Args:
            vae: The autoencoder.
            latents: The latents.
            **options: Of :func:`pyro_lrp.fit`: ``context``, ``prior``, ``seconds``, ``held_out`` and so on;
                ``device`` is that of the autoencoder unless it is given.

        Raises:
            UserError: If these are no latents of the autoencoder, or no density can be fitted to them.
        """
        _check_vae(vae)
        _check_maps("latents", latents, vae.config.latent_channels)
        options.setdefault("device", vae.device.type)
        return cls(vae, fitting.fit(latents, **options))

    def __call__(self, n: int, context: Any = None, temperature: float = 1.0, *, batch_size: int = 8) -> Tensor:
        """Draw images ``(n, C, H, W)`` in [0, 1]; context and temperature as of ``Fitted.sample``."""
        return decode(self.vae, self.sample_latents(n, context, temperature), batch_size)

    def sample_latents(self, n: int, context: Any = None, temperature: float = 1.0) -> Tensor:
        """Draw scaled latents ``(n, c, h, w)``, in the dtype of the autoencoder, on its device."""
        return self.fitted.sample(n, context, temperature).to(self.vae.device, self.vae.dtype)

    def log_prob(self, latents: Tensor, context: Any = None) -> Tensor:
        """Log p(z) of scaled latents ``(N, c, h, w)`` in nats, shape ``(N,)``."""
        return self.fitted.log_prob(latents, context)


def _check_vae(vae: Any) -> None:
    from diffusers import AutoencoderDC, AutoencoderKL, AutoencoderTiny  # here: three seconds

    if not isinstance(vae, (AutoencoderKL, AutoencoderTiny, AutoencoderDC)):
        raise UserError(f"vae: expected AutoencoderKL, -Tiny or -DC of diffusers, got {type(vae).__name__}")


def _check_maps(name: str, maps: Any, channels: int) -> None:
    if not isinstance(maps, Tensor) or not maps.is_floating_point():
        kind = getattr(maps, "dtype", type(maps).__name__)
        raise UserError(f"{name}: expected a tensor of floats, got {kind}")
    if maps.dim() != 4 or maps.shape[1] != channels or not len(maps):
        raise UserError(f"{name}: expected (N, {channels}, height, width), got {tuple(maps.shape)}")


def _check_range(images: Tensor) -> None:
    low, high = images.aminmax()
    if not 0 <= low <= high <= 1:
        raise UserError(f"images: expected values in [0, 1], got {low:.3g} to {high:.3g}")


def _scaling(vae: Any) -> tuple[Any, Any]:
    """What is subtracted from latents, and what they are then multiplied with."""
    config = vae.config
    if config.get("latents_mean") is None:
        return config.get("shift_factor") or 0.0, config.scaling_factor
    # a number for each channel, as in the pipelines of SDXL
    moments = torch.tensor([config.latents_mean, config.latents_std])
    mean, std = moments.to(vae.device, vae.dtype)[..., None, None]
    return mean, config.scaling_factor / std
