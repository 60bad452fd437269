"""The base class of the transforms, and helpers for any invertible transform."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pyro.distributions.torch_transform import TransformModule
from torch import Tensor
from torch.distributions import Transform, constraints

__all__ = ["VectorTransform", "check_dim", "inverse_and_ladj", "inverse_of"]


def inverse_and_ladj(transform: Transform, y: Tensor, event_dim: int = 1) -> tuple[Tensor, Tensor]:
    r"""Latent to base: :math:`x = t^{-1}(y)` and :math:`\log|\det dx/dy|`, for any invertible transform.

    Args:
        transform: A transform of this package is evaluated once; a stock transform is inverted first, then
            its log-determinant is computed.
        y: Shape ``(*batch, *event)``.
        event_dim: Number of event dimensions of ``y``.

    Returns:
        ``x``, shaped as ``y`` unless the transform reshapes, and the log-determinant, shape ``batch``.
    """
    in_one_pass = getattr(transform, "inverse_and_ladj", None)
    if in_one_pass is not None:
        return in_one_pass(y)
    x = transform.inv(y)
    ladj = transform.log_abs_det_jacobian(x, y)
    extra = event_dim - transform.codomain.event_dim
    if extra > 0:
        batch = ladj.shape[: ladj.dim() - extra]
        ladj = ladj.reshape(*batch, -1).sum(-1)
    return x, -ladj


class VectorTransform(TransformModule):
    """A bijection of vectors without a cache.

    Subclasses implement ``_call`` (base to latent), ``inverse_and_ladj`` (latent to base) and
    ``log_abs_det_jacobian`` (base to latent).
    """

    domain = constraints.real_vector
    codomain = constraints.real_vector
    bijective = True

    def __init__(self) -> None:
        super().__init__(cache_size=0)

    def with_cache(self, cache_size: int = 1) -> Transform:
        """Returns the transform unchanged: these transforms never cache."""
        return self

    def _inverse(self, y: Tensor) -> Tensor:
        return self.inverse_and_ladj(y)[0]

    def inverse_and_ladj(self, y: Tensor) -> tuple[Tensor, Tensor]:
        raise NotImplementedError


def inverse_of(factory: Callable[..., Transform], *args: Any, **kwargs: Any) -> Transform:
    """The inverse, ``.inv``, of the transform that ``factory`` builds, for use in configuration files.

    >>> import pyro.distributions.transforms as T
    >>> inverse_of(T.affine_autoregressive, 4).bijective
    True
    """
    return factory(*args, **kwargs).inv


def check_dim(dim: int, minimum: int = 1) -> None:
    """Raise a ``ValueError`` if the length of a code is below ``minimum``."""
    if dim < minimum:
        raise ValueError(f"expected a latent_dim of at least {minimum}, got {dim}")
