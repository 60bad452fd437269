"""Rational-quadratic spline couplings: Pyro's, without its cache and scored in one pass."""

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

_UNIT_SLOPE = math.log(math.expm1(0.999))  # its softplus, and Pyro's least derivative of 0.001, make 1


class SplineCoupling(T.SplineCoupling):
    """Pyro's spline coupling, which keeps nothing between calls and evaluates its network once in a score.

    One half goes through elementwise splines of its own, the other through splines whose knots a network reads
    off the first. Outside ``[-bound, bound]`` it is the identity. O(1) in either direction.

    References:
        Durkan et al. (2019), Neural Spline Flows.
    """

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        self._cache_size = self.lower_spline._cache_size = 0

    def with_cache(self, cache_size: int = 1) -> Transform:
        """It never caches, whatever is asked for."""
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
        return x, -self._forget().sum(-1)  # the splines leave the log-derivative of base to latent

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        super()._call(x)
        return self._forget().sum(-1)

    def _forget(self) -> Tensor:
        """The log-derivatives of the last call; a kept graph would also prevent a deepcopy."""
        log_derivatives = self._cache_log_detJ
        self._cache_log_detJ = self.lower_spline._cache_log_detJ = None
        return log_derivatives


def spline_coupling(
    dim: int, hidden_dims: Sequence[int] = (128, 128), bins: int = 8, bound: float = 5.0
) -> SplineCoupling:
    """A rational-quadratic :class:`SplineCoupling` of vectors of length ``dim``, which starts at the identity.

    Args:
        dim: Length of a code, at least 2.
        hidden_dims: Widths of the hidden layers of its network.
        bins: Number of segments of each spline.
        bound: Half the side of the box outside which it is the identity.

    >>> z = torch.tensor([[0.3, -1.0, 2.0, 9.0]])
    >>> bool(torch.allclose(spline_coupling(4, [8])(z), z, atol=1e-5))
    True
    """
    check_dim(dim, minimum=2)
    kept = dim // 2
    network = DenseNN(kept, list(hidden_dims), [(dim - kept) * n for n in (bins, bins, bins - 1)])
    coupling = SplineCoupling(dim, kept, network, bins, bound, order="quadratic")
    lower: Any = coupling.lower_spline
    last: Any = network.layers[-1]
    with torch.no_grad():
        last.weight.zero_()
        for parameter in (last.bias, lower.unnormalized_widths, lower.unnormalized_heights):
            parameter.zero_()
        last.bias[network.param_slices[2]] = _UNIT_SLOPE
        lower.unnormalized_derivatives.fill_(_UNIT_SLOPE)
    return coupling
