"""Gaussian mixtures as priors: with parameters of their own, or with an encoder's (VampPrior)."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor, nn
from torch.distributions import constraints
from torch.func import functional_call

from pyro_lrp.core.gradients import boundary, full_precision
from pyro_lrp.core.modules import eval_mode
from pyro_lrp.priors.core import Prior

__all__ = ["Mixture", "MixtureDistribution", "VampPrior"]

_LOG_2PI = math.log(2.0 * math.pi)
_EM_CODES = 100_000  # more codes than these change the estimate little, and its time in proportion


class MixtureDistribution(TorchDistribution):
    r"""A mixture of K normals, :math:`\sum_k \pi_k N(m_k, (A_k^T A_k)^{-1})`, given by its whitening factors.

    With :math:`\log|\det A_k|` at hand a score is K products and no solve, which is what a training step does;
    a sample costs one solve. It is not reparametrized.

    Args:
        logits: Of the weights, shape ``(K,)``.
        loc: Means, shape ``(K, d)``.
        factor: :math:`A_k`, lower triangular of shape ``(K, d, d)``, or the diagonal of it, ``(K, d)``.
        temperature: Of samples and density: multiplies each component's standard deviation.
        batch_shape: Of independent draws.
    """

    arg_constraints: ClassVar = {}
    support = constraints.real_vector
    has_rsample = False

    def __init__(
        self, logits: Tensor, loc: Tensor, factor: Tensor, temperature: float = 1.0,
        batch_shape: Sequence[int] = (),
    ) -> None:  # fmt: skip
        self.logits, self.loc, self.factor, self.temperature = logits, loc, factor, temperature
        super().__init__(torch.Size(batch_shape), loc.shape[-1:], validate_args=False)

    def expand(self, batch_shape: Any, _instance: object = None) -> MixtureDistribution:
        return MixtureDistribution(
            self.logits, self.loc, self.factor, self.temperature, torch.Size(batch_shape)
        )

    def log_prob(self, value: Tensor) -> Tensor:
        with torch.autocast(value.device.type, enabled=False):
            value = full_precision(value)
            diagonal = self.factor.dim() == 2
            scales = self.factor if diagonal else self.factor.diagonal(dim1=-2, dim2=-1)
            centred = value.reshape(-1, self.event_shape[0]) - self.loc[:, None]  # (K, N, d)
            white = centred * self.factor[:, None] if diagonal else centred @ self.factor.mT
            log_det = scales.log().sum(-1) - self.event_shape[0] * math.log(self.temperature)
            constant = log_det - 0.5 * self.event_shape[0] * _LOG_2PI + self.logits.log_softmax(0)
            squares = white.square().sum(-1) / self.temperature**2
            total = torch.logsumexp(constant[:, None] - 0.5 * squares, 0)
        return total.reshape(value.shape[:-1]).expand(
            torch.broadcast_shapes(value.shape[:-1], self.batch_shape)
        )

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        shape = torch.Size(sample_shape) + self.batch_shape
        index = dist.Categorical(logits=self.logits).sample(torch.Size([shape.numel()]))
        noise = self.temperature * torch.randn(
            shape.numel(), self.event_shape[0], dtype=self.loc.dtype, device=self.loc.device
        )
        if self.factor.dim() == 2:
            noise = noise / self.factor[index]
        else:  # component by component: as many solves as there are components, not as there are samples
            for k in index.unique().tolist():
                rows = index == k
                noise[rows] = torch.linalg.solve_triangular(self.factor[k], noise[rows].T, upper=False).T
        return (self.loc[index] + noise).reshape(*shape, -1)


class Mixture(Prior):
    r"""A Gaussian mixture prior, :math:`p(z) = \sum_k \pi_k N(z; m_k, \Sigma_k)`, learned by gradient.

    A prior-only phase starts it from scikit-learn's EM on the codes (:meth:`fit`), and goes on by gradient.
    Covariances are stored as whitening factors with logarithmic diagonals, so that they stay positive definite.

    Args:
        dim: Length of a code.
        components: Number of components K, at least 1.
        covariance: ``"full"`` or ``"diag"``.
        em_iterations: At most so many of EM; 0 leaves the fit to gradients.
        seed: Of EM's start, k-means on the codes.
        least_variance: Added to the variances by EM, as a share of the codes' own variance in each dimension.

    Raises:
        ValueError: If an argument is out of its range; from :meth:`fit`, if codes are fewer than components.

    References:
        Dempster et al. (1977); Bishop (2006), section 9.2. As a prior of VAEs: Dilokthanakul et al. (2016).

    >>> prior = Mixture(2, components=3)
    >>> prior().log_prob(torch.zeros(5, 2)).shape
    torch.Size([5])
    """

    has_rsample = False

    def __init__(
        self, dim: int, components: int = 100, *, covariance: str = "full", em_iterations: int = 25,
        seed: int = 0, least_variance: float = 1e-6,
    ) -> None:  # fmt: skip
        super().__init__()
        if min(dim, components) < 1:
            raise ValueError(f"expected dim and components of at least 1, got {dim} and {components}")
        if covariance not in ("full", "diag"):
            raise ValueError(f"expected covariance to be 'full' or 'diag', got {covariance!r}")
        if em_iterations < 0 or least_variance <= 0:
            raise ValueError(
                f"expected em_iterations of at least 0 and least_variance above 0, got {em_iterations} and "
                f"{least_variance}"
            )
        self.event_shape = torch.Size([dim])
        self.covariance, self.em_iterations = covariance, em_iterations
        self.seed, self.least_variance = seed, least_variance
        self.logits = nn.Parameter(torch.zeros(components))
        self.loc = nn.Parameter(torch.randn(components, dim))
        self.log_diagonal = nn.Parameter(torch.zeros(components, dim))  # of the whitening factors
        if covariance == "full":
            self.lower = nn.Parameter(torch.zeros(components, dim, dim))
        self._fitted: dict[str, Any] = {}

    def factor(self) -> Tensor:
        """The whitening factors, ``(K, d)`` or lower triangular ``(K, d, d)``."""
        diagonal = self.log_diagonal.exp()
        return diagonal if self.covariance == "diag" else self.lower.tril(-1) + diagonal.diag_embed()

    def forward(self, context: Tensor | None = None, *, temperature: float = 1.0) -> TorchDistribution:
        return MixtureDistribution(self.logits, self.loc, self.factor(), temperature)

    def record(self) -> dict[str, Any]:
        """What EM did."""
        return dict(self._fitted)

    @torch.no_grad()
    def fit(self, codes: Tensor, context: Tensor | None = None) -> dict[str, Any] | None:
        """Set the parameters by EM on standardised codes, at most 100,000 of them, evenly taken."""
        if self.em_iterations == 0:
            return None
        from sklearn.mixture import GaussianMixture

        if len(codes) < len(self.logits):
            raise ValueError(
                f"a mixture of {len(self.logits)} components needs as many codes, got {len(codes)}"
            )
        array = codes[:: math.ceil(len(codes) / _EM_CODES)].double().cpu().numpy()
        mean, scale = array.mean(0), array.std(0).clip(min=1e-12)
        em = GaussianMixture(
            len(self.logits), covariance_type=self.covariance, reg_covar=self.least_variance,
            max_iter=self.em_iterations, random_state=self.seed,
        )  # fmt: skip
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # few iterations are a choice: the gradient goes on from there
            em.fit((array - mean) / scale)
        self.logits.copy_(torch.from_numpy(np.log(em.weights_)))
        self.loc.copy_(torch.from_numpy(em.means_ * scale + mean))
        factors = torch.from_numpy(em.precisions_cholesky_)
        if self.covariance == "full":  # scikit-learn has upper factors for rows: white = (z - m) @ factor
            factors = factors.mT
            self.lower.copy_((factors / torch.from_numpy(scale)).tril(-1))
            factors = factors.diagonal(dim1=-2, dim2=-1)
        self.log_diagonal.copy_((factors / torch.from_numpy(scale)).log())
        self._fitted = {
            "em_iterations": int(em.n_iter_),
            "em_log_prior": float(em.lower_bound_ - np.log(scale).sum()),
        }
        return self.record()


class VampPrior(Prior):
    r"""The mixture of the encoder's posteriors at learned pseudo-inputs, :math:`\frac1K \sum_k q(z | u_k)`.

    It is bound to the encoder and does not own it. The encoder's weights enter through
    :func:`pyro_lrp.gradients.boundary`: under the bilevel objective they get β times the prior's gradient, the
    pseudo-inputs all of it. The encoder runs in eval mode here, so that p(z) is the same density in training as
    afterwards. Sampling and scoring cost an encoding of all K pseudo-inputs.

    Args:
        dim: Length of a code.
        image_shape: Of a pseudo-input, ``(C, H, W)``, in [0, 1].
        components: Number of pseudo-inputs K, at least 1. They start from training images.

    Raises:
        ValueError: If ``components`` is below 1; from :meth:`bind`, if the encoder has no noise.

    References:
        Tomczak and Welling (2018), VAE with a VampPrior, Eq. 9.
    """

    has_rsample = False

    def __init__(self, dim: int, image_shape: Sequence[int], components: int = 200) -> None:
        super().__init__()
        if min(dim, components) < 1:
            raise ValueError(f"expected dim and components of at least 1, got {dim} and {components}")
        self.event_shape = torch.Size([dim])
        self.pseudo_inputs = nn.Parameter(torch.rand(components, *image_shape))
        self._encoder: list[nn.Module] = []  # in a list, so that its weights are not this module's

    @property
    def bound(self) -> nn.Module | None:
        return self._encoder[0] if self._encoder else None

    def bind(self, autoencoder: nn.Module) -> None:
        """Take the autoencoder's encoder."""
        encoder: Any = autoencoder.encoder
        with torch.no_grad(), eval_mode(encoder):
            scale = encoder(self.pseudo_inputs[:1])[1]
        if scale is None:
            raise ValueError("VampPrior needs an encoder with noise, and this one is deterministic")
        self._encoder = [encoder]

    @torch.no_grad()
    def initialize(self, x: Tensor) -> None:
        """Start from training images, shape ``(B, C, H, W)``; where they are too few, from noisy copies too."""
        for start in range(0, len(self.pseudo_inputs), len(x)):
            part = self.pseudo_inputs[start : start + len(x)]
            part.copy_(x[: len(part)] + (0.1 * torch.randn_like(part) if start else 0.0))

    def forward(self, context: Tensor | None = None, *, temperature: float = 1.0) -> TorchDistribution:
        if not self._encoder:
            raise ValueError("VampPrior is not bound to an encoder yet: make it an Autoencoder's prior")
        encoder = self._encoder[0]
        # buffers are not handed over: in eval mode none is written to
        weights = {name: boundary(p) for name, p in encoder.named_parameters()}
        with eval_mode(encoder), torch.autocast(self.pseudo_inputs.device.type, enabled=False):
            loc, scale = functional_call(encoder, weights, (self.pseudo_inputs.clamp(0.0, 1.0),))
        return MixtureDistribution(loc.new_zeros(len(loc)), loc, 1.0 / scale, temperature)
