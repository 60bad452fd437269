"""Rational-quadratic spline couplings: Pyro's class without its cache, inverted in one pass."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pyro.distributions.transforms as T
import torch
from pyro.nn import DenseNN
from torch import Tensor
from torch.distributions import Transform

from pyro_lrp.transforms.core import check_dim

__all__ = ["SplineCoupling", "spline_coupling"]

_UNIT_SLOPE = math.log(math.expm1(0.999))  # softplus of it, plus Pyro's minimal derivative of 0.001, is 1


class SplineCoupling(T.SplineCoupling):
    """Pyro's spline coupling without cached values; an inverse evaluates the network once.

    The first half passes through learned elementwise splines, the second through splines whose knots are the
    output of a network of the first half. It is the identity outside ``[-bound, bound]``. O(1) in both
    directions.

    References:
        Durkan et al. (2019), Neural Spline Flows.
    """

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        self._cache_size = 0
        self.lower_spline._cache_size = 0

    def with_cache(self, cache_size: int = 1) -> Transform:
        """Returns the transform unchanged: it never caches."""
        return self

    def _call(self, x: Tensor) -> Tensor:
        y = super()._call(x)
        self._forget()
        return y

    def _inverse(self, y: Tensor) -> Tensor:
        return self.inverse_and_ladj(y)[0]

    def inverse_and_ladj(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Latent to base with its log-determinant: ``(*, dim) -> (*, dim), (*)``."""
        x = super()._inverse(y)
        log_derivatives = self._forget()  # base to latent
        return x, -log_derivatives.sum(-1)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        super()._call(x)
        log_derivatives = self._forget()
        return log_derivatives.sum(-1)

    def _forget(self) -> Tensor:
        """Return and delete the log-derivatives of the last call: a stored graph would prevent a deepcopy."""
        log_derivatives = self._cache_log_detJ
        self._cache_log_detJ = None
        self.lower_spline._cache_log_detJ = None
        return log_derivatives


def spline_coupling(
    dim: int,
    hidden_dims: Sequence[int] = (128, 128),
    bins: int = 8,
    bound: float = 5.0,
) -> SplineCoupling:
    """A rational-quadratic :class:`SplineCoupling` of vectors of length ``dim``; it starts at the identity.

    Args:
        dim: Length of a code, at least 2.
        hidden_dims: Widths of the hidden layers of the network.
        bins: Number of segments of each spline.
        bound: Half the side of the box outside which the transform is the identity.

    >>> z = torch.tensor([[0.3, -1.0, 2.0, 9.0]])
    >>> bool(torch.allclose(spline_coupling(4, [8])(z), z, atol=1e-5))
    True
    """
    check_dim(dim, minimum=2)
    kept = dim // 2
    moved = dim - kept
    outputs = [moved * bins, moved * bins, moved * (bins - 1)]
    network = DenseNN(kept, list(hidden_dims), outputs)
    coupling = SplineCoupling(
        dim,
        kept,
        network,
        bins,
        bound,
        order="quadratic",
    )
    lower: Any = coupling.lower_spline
    last: Any = network.layers[-1]
    with torch.no_grad():
        last.weight.zero_()
        last.bias.zero_()
        lower.unnormalized_widths.zero_()
        lower.unnormalized_heights.zero_()
        last.bias[network.param_slices[2]] = _UNIT_SLOPE
        lower.unnormalized_derivatives.fill_(_UNIT_SLOPE)
    return coupling
