"""What all transforms of this package share, and what makes them of other transforms."""

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
        transform: Ours are evaluated once; a stock transform is inverted, then asked for its log-determinant.
        y: Shape ``(*batch, *event)``.
        event_dim: Number of event dimensions of ``y``.

    Returns:
        ``x``, shaped as ``y`` unless the transform reshapes, and the log-determinant, shape ``batch``.
    """
    own = getattr(transform, "inverse_and_ladj", None)
    if own is not None:
        return own(y)
    x = transform.inv(y)
    ladj = transform.log_abs_det_jacobian(x, y)
    extra = event_dim - transform.codomain.event_dim
    if extra > 0:
        ladj = ladj.reshape(ladj.shape[: ladj.dim() - extra] + (-1,)).sum(-1)
    return x, -ladj


class VectorTransform(TransformModule):
    """A bijection of vectors without a cache; a subclass gives ``_call``, ``inverse_and_ladj`` and
    ``log_abs_det_jacobian``, base to latent.
    """

    domain = constraints.real_vector
    codomain = constraints.real_vector
    bijective = True

    def __init__(self) -> None:
        super().__init__(cache_size=0)

    def with_cache(self, cache_size: int = 1) -> Transform:
        """These transforms never cache, whatever is asked for."""
        return self

    def _inverse(self, y: Tensor) -> Tensor:
        return self.inverse_and_ladj(y)[0]

    def inverse_and_ladj(self, y: Tensor) -> tuple[Tensor, Tensor]:
        raise NotImplementedError


def inverse_of(factory: Callable[..., Transform], *args: Any, **kwargs: Any) -> Transform:
    """The inverse of what ``factory`` makes: ``.inv``, for configurations that have no attributes.

    >>> import pyro.distributions.transforms as T
    >>> inverse_of(T.affine_autoregressive, 4).bijective
    True
    """
    return factory(*args, **kwargs).inv


def check_dim(dim: int, minimum: int = 1) -> None:
    """Refuse a length that codes cannot have."""
    if dim < minimum:
        raise ValueError(f"expected a latent_dim of at least {minimum}, got {dim}")
