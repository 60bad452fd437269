"""Linear maps: a learned invertible one (Glow), and a fixed whitening of codes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pyro_lrp.transforms.core import VectorTransform, check_dim

__all__ = ["InvertibleLinear", "Whitening", "invertible_linear"]


class InvertibleLinear(VectorTransform):
    r"""A learned linear map that replaces a permutation: latent to base, :math:`x = W y`.

    :math:`W = P L (U + \mathrm{diag}(s))` with a fixed permutation P, a unit lower triangular L, a strictly
    upper triangular U and fixed signs of s, so that :math:`\log|\det W| = \sum \log|s|`. Latent to base costs a
    product, base to latent two triangular solves: O(d^2) in both directions.

    Args:
        weight: Initial value of W, an invertible matrix of shape ``(d, d)``.

    References:
        Kingma and Dhariwal (2018), Glow, Eq. 10-11.

    >>> t = InvertibleLinear(torch.tensor([[0.0, 2.0], [1.0, 0.0]]))
    >>> x, ladj = t.inverse_and_ladj(torch.tensor([3.0, 5.0]))
    >>> x.tolist(), round(ladj.item(), 5)
    ([10.0, 3.0], 0.69315)
    """

    permutation: Tensor
    signs: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        permutation, lower, upper = torch.linalg.lu(weight.detach())
        diagonal = upper.diagonal()
        self.register_buffer("permutation", permutation)
        self.register_buffer("signs", diagonal.sign())
        self.log_scale = nn.Parameter(diagonal.abs().log())
        self.lower = nn.Parameter(lower.tril(-1))
        self.upper = nn.Parameter(upper.triu(1))

    def _factors(self) -> tuple[Tensor, Tensor]:
        """The matrices ``P L`` and ``U + diag(s)``."""
        ones = torch.eye(
            len(self.signs),
            dtype=self.signs.dtype,
            device=self.signs.device,
        )
        lower = self.lower.tril(-1) + ones
        scale = self.signs * self.log_scale.exp()
        upper = self.upper.triu(1) + scale.diag()
        return self.permutation @ lower, upper

    def _call(self, x: Tensor) -> Tensor:
        lower, upper = self._factors()
        lower = self.permutation.T @ lower
        permuted = (x @ self.permutation).unsqueeze(-1)  # P^T x, for vectors in rows
        half = torch.linalg.solve_triangular(
            lower,
            permuted,
            upper=False,
            unitriangular=True,
        )
        y = torch.linalg.solve_triangular(upper, half, upper=True)
        return y.squeeze(-1)

    def inverse_and_ladj(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Latent to base with its log-determinant: ``(*, dim) -> (*, dim), (*)``."""
        lower, upper = self._factors()
        weight = lower @ upper
        ladj = self.log_scale.sum()
        return y @ weight.T, ladj.expand(y.shape[:-1])

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        ladj = self.log_scale.sum()
        return -ladj.expand(x.shape[:-1])


class Whitening(VectorTransform):
    r"""A fixed whitening of codes: latent to base, :math:`x = W (y - m)`; the identity until it is fitted.

    It has buffers and no parameters, so it is saved but not trained.

    Args:
        dim: Length of a code.
        kind: ``"standardize"`` divides each dimension by its standard deviation; ``"pca"`` also rotates to the
            principal axes. Deviations are clamped from below at ``1e-4`` of the largest.

    >>> t = Whitening(2, "standardize")
    >>> t.fit(torch.tensor([[0.0, 0.0], [2.0, 4.0]]))
    >>> t.inverse_and_ladj(torch.tensor([2.0, 4.0]))
    (tensor([1., 1.]), tensor(-0.6931))
    """

    mean: Tensor
    matrix: Tensor
    inverse: Tensor

    def __init__(self, dim: int, kind: str = "standardize") -> None:
        super().__init__()
        check_dim(dim)
        if kind not in ("standardize", "pca"):
            raise ValueError(f"expected a whitening of 'standardize' or 'pca', got {kind!r}")
        self.kind = kind
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("matrix", torch.eye(dim))
        self.register_buffer("inverse", torch.eye(dim))

    @torch.no_grad()
    def fit(self, codes: Tensor) -> None:
        """Set mean and matrix from codes, shape ``(N, dim)``, with N of at least 2."""
        codes = codes.detach().double()
        mean = codes.mean(0)
        if self.kind == "pca":
            centred = codes - mean
            covariance = centred.T @ centred / len(codes)
            variances, axes = torch.linalg.eigh(covariance)
            scale = variances.clamp(min=0.0).sqrt()
        else:
            dim = codes.shape[1]
            axes = torch.eye(dim, dtype=torch.float64, device=codes.device)
            scale = codes.std(0, correction=0)
        smallest = max(1e-4 * scale.max().item(), 1e-12)
        scale = scale.clamp(min=smallest)
        self.mean.copy_(mean)
        self.matrix.copy_((axes / scale).T)
        self.inverse.copy_(axes * scale)

    def _call(self, x: Tensor) -> Tensor:
        return x @ self.inverse.T + self.mean

    def inverse_and_ladj(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Latent to base with its log-determinant: ``(*, dim) -> (*, dim), (*)``."""
        ladj = torch.linalg.slogdet(self.matrix).logabsdet
        x = (y - self.mean) @ self.matrix.T
        return x, ladj.expand(y.shape[:-1])

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        ladj = torch.linalg.slogdet(self.matrix).logabsdet
        return -ladj.expand(x.shape[:-1])


def invertible_linear(dim: int) -> InvertibleLinear:
    """An :class:`InvertibleLinear` that starts as a random rotation."""
    check_dim(dim)
    matrix = torch.randn(dim, dim)
    rotation = torch.linalg.qr(matrix).Q
    return InvertibleLinear(rotation)
