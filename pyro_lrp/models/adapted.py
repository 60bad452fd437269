"""Encoders and decoders from elsewhere, as modules under the convention of the library's own."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from pyro_lrp.core.errors import UserError
from pyro_lrp.models.outputs import decoded_images, posterior

__all__ = ["DecoderPart", "EncoderPart", "Part", "Pixels"]


class Pixels:
    """Images of the library, in [0, 1], and the same images as parts see them.

    Args:
        shape: ``(C, H, W)``.
        limits: The values of 0 and 1 in the images of the parts.
        flat: Whether the parts' images are vectors.

    Raises:
        UserError: If the limits are not two increasing numbers.
    """

    def __init__(self, shape: Sequence[int], limits: Sequence[float], *, flat: bool) -> None:
        ends = tuple(limits)
        if len(ends) != 2 or not all(map(math.isfinite, ends)) or not ends[0] < ends[1]:
            raise UserError(f"image_range must be two numbers, black below white, got {ends}")
        self.shape = tuple(shape)
        self.low = float(ends[0])
        self.width = ends[1] - self.low
        self.flat = flat

    def to_part(self, x: Tensor) -> Tensor:
        """The images that a part expects."""
        x = self.low + self.width * x
        if self.flat:
            return x.flatten(1)
        return x

    def from_part(self, y: Tensor) -> Tensor:
        """The images in [0, 1] of those that a part returned."""
        y = (y - self.low) / self.width
        if self.flat and y.shape[1:].numel() == math.prod(self.shape):
            return y.reshape(len(y), *self.shape)
        return y


class Part(nn.Module):
    """A callable from elsewhere as a module.

    Args:
        part: A module, a method of one, or another callable.
        role: ``"encoder"`` or ``"decoder"``.
        frozen: Whether its parameters get no gradients and it stays in eval mode.
        beside: A module that may hold the part's own, which is not registered again then.

    Attributes:
        module: The part's module, if it is registered here.
        who: The part in words, for errors.

    Raises:
        UserError: If it cannot be called.
    """

    def __init__(
        self,
        part: Callable[..., Any],
        role: str,
        *,
        frozen: bool,
        beside: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if not callable(part):
            raise UserError(f"{role} must be a module or a function, got a {type(part).__name__}")
        self.who = f"the {role} ({_name(part)})"
        self.frozen = frozen
        owner = _owner(part)
        # in a list: a module there is not registered
        self._part = [part]
        self._owner = [owner]
        self.module: nn.Module | None = None
        known = beside is not None and any(owner is module for module in beside.modules())
        if owner is not None and not known:
            self.module = owner

    @property
    def owner(self) -> nn.Module:
        """The part's module, wherever it is registered; this one if there is none."""
        return self._owner[0] or self

    def freeze(self) -> None:
        """Take the gradients from the parameters, and go to eval mode."""
        self.requires_grad_(False)
        self.eval()

    def call(self, value: Tensor) -> Any:
        """What the part returns for images or codes, which are brought to its module's precision."""
        like = _first_tensor(self.owner)
        if like is not None:
            value = value.to(like.dtype)
        return self._part[0](value)

    def moved(self, value: Tensor) -> Tensor:
        """A tensor on the device of the part's module; as it is if there is none."""
        like = _first_tensor(self.owner)
        if like is None:
            return value
        return value.to(like.device)

    def train(self, mode: bool = True) -> Part:  # noqa: FBT001, FBT002 (torch's signature)
        """Training mode; a frozen part stays in eval mode, so that no batch normalization adapts."""
        super().train(mode and not self.frozen)
        return self

    def state_dict(self, *args: Any, **options: Any) -> Any:
        """The state of the part's module, in its own names."""
        if self.module is None:
            return super().state_dict(*args, **options)
        return self.module.state_dict(*args, **options)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        """Hand the entries of :meth:`state_dict` on to the module, which torch knows by its name here."""
        for name in [*state_dict]:
            if name.startswith(prefix):
                own = name.removeprefix(prefix)
                state_dict[f"{prefix}module.{own}"] = state_dict.pop(name)
        super()._load_from_state_dict(state_dict, prefix, *args)


class EncoderPart(Part):
    """An encoder from elsewhere under the convention of :class:`~pyro_lrp.models.Autoencoder`.

    Args:
        part: See :func:`from_parts`.
        pixels: The images of the parts.
        log_variance: Whether a pair is (mean, log variance).
        frozen: See :class:`Part`.

    Attributes:
        learns_noise: Whether the codes have noise.
    """

    def __init__(
        self,
        part: Callable[..., Any],
        pixels: Pixels,
        *,
        log_variance: bool,
        frozen: bool,
    ) -> None:
        super().__init__(part, "encoder", frozen=frozen)
        self.pixels = pixels
        self.log_variance = log_variance
        self.learns_noise = True

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Means and standard deviations of codes, ``(B, d)``; None for those of deterministic ones.

        Args:
            x: Images in [0, 1], ``(B, C, H, W)``.

        Raises:
            UserError: If they have another shape than the images the part was tried on.
        """
        if tuple(x.shape[1:]) != self.pixels.shape:
            shape = tuple(x.shape[1:])
            raise UserError(f"{self.who} is for images of shape {self.pixels.shape}, got {shape}")
        loc, scale = self.posterior(x)
        loc = loc.flatten(1).to(x.dtype)
        if scale is not None:
            scale = scale.flatten(1).to(x.dtype)
        return loc, scale

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """The same in the part's own shape and precision."""
        output = self.call(self.pixels.to_part(x))
        return posterior(output, self.who, log_variance=self.log_variance)


class DecoderPart(Part):
    """A decoder from elsewhere under the convention of :class:`~pyro_lrp.models.Autoencoder`.

    Args:
        part: See :func:`from_parts`.
        pixels: The images of the parts.
        code_shape: The shape of a code, as the part expects it.
        beside: The encoder, which may hold the part's module.
        frozen: See :class:`Part`.
    """

    def __init__(
        self,
        part: Callable[..., Any],
        pixels: Pixels,
        code_shape: Sequence[int],
        *,
        beside: nn.Module,
        frozen: bool,
    ) -> None:
        super().__init__(part, "decoder", frozen=frozen, beside=beside)
        self.pixels = pixels
        self.code_shape = tuple(code_shape)

    def forward(self, z: Tensor) -> Tensor:
        """Mean images in [0, 1], ``(B, C, H, W)``, of codes ``(B, d)``."""
        output = self.call(z.reshape(len(z), *self.code_shape))
        images = decoded_images(output, self.who).to(z.dtype)
        return self.pixels.from_part(images)


def _unwrapped(part: Any) -> Any:
    while isinstance(part, functools.partial):
        part = part.func
    return part


def _owner(part: Any) -> nn.Module | None:
    """The module that a part is, or is a method of."""
    part = _unwrapped(part)
    if not isinstance(part, nn.Module):
        part = getattr(part, "__self__", None)
    if isinstance(part, nn.Module):
        return part
    return None


def _name(part: Any) -> str:
    part = _unwrapped(part)
    owner = _owner(part)
    if owner is None:
        return getattr(part, "__qualname__", type(part).__name__)
    if owner is part:
        return type(owner).__name__
    return f"{type(owner).__name__}.{part.__name__}"


def _first_tensor(module: nn.Module) -> Tensor | None:
    """The first parameter or buffer with a fraction, which has the precision and the device of a module."""
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.is_floating_point():
            return tensor
    return None
