"""Gaussian mixtures as priors: with learned parameters, or with an encoder's posteriors (VampPrior)."""

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

from pyro_lrp.core.errors import UserError
from pyro_lrp.core.gradients import boundary, full_precision
from pyro_lrp.core.modules import eval_mode
from pyro_lrp.core.randomness import numpy_seed
from pyro_lrp.networks.heads import loc_and_scale
from pyro_lrp.priors.core import Prior

__all__ = ["Mixture", "MixtureDistribution", "VampPrior"]

_LOG_2PI = math.log(2.0 * math.pi)
_EM_CODES = 100_000  # more codes change the estimate little and cost time in proportion


class MixtureDistribution(TorchDistribution):
    r"""A mixture of K normals, :math:`\sum_k \pi_k N(m_k, (A_k^T A_k)^{-1})` with whitening factors.

    Since :math:`\log|\det A_k|` is known, a score costs K products and no solve, and scores are what a training
    step computes; a sample costs one solve. Samples are not reparametrized.

    Args:
        logits: Logits of the weights, shape ``(K,)``.
        loc: Means, shape ``(K, d)``.
        factor: :math:`A_k`, the transposed Cholesky factors of the precisions: lower triangular matrices
            ``(K, d, d)``, or their diagonals, ``(K, d)``.
        temperature: Multiplies each component's standard deviation, in samples and in the density.
        batch_shape: Shape of a batch of independent draws.
    """

    arg_constraints: ClassVar = {}
    support = constraints.real_vector
    has_rsample = False

    def __init__(
        self,
        logits: Tensor,
        loc: Tensor,
        factor: Tensor,
        temperature: float = 1.0,
        batch_shape: Sequence[int] = (),
    ) -> None:
        self.logits = logits
        self.loc = loc
        self.factor = factor
        self.temperature = temperature
        batch = torch.Size(batch_shape)
        event = loc.shape[-1:]
        super().__init__(batch, event, validate_args=False)

    def expand(
        self,
        batch_shape: Any,
        _instance: object = None,
    ) -> MixtureDistribution:
        return MixtureDistribution(
            self.logits,
            self.loc,
            self.factor,
            self.temperature,
            torch.Size(batch_shape),
        )

    def log_prob(self, value: Tensor) -> Tensor:
        with torch.autocast(value.device.type, enabled=False):
            value = full_precision(value)
            total = self._score(value.reshape(-1, self._dim))
        batch = value.shape[:-1]
        shape = torch.broadcast_shapes(batch, self.batch_shape)
        return total.reshape(batch).expand(shape)

    def _score(self, z: Tensor) -> Tensor:
        """Log density of codes, ``(N, d) -> (N,)``."""
        centred = z - self.loc[:, None]  # (K, N, d)
        if self._is_diagonal:
            scales = self.factor
            white = centred * self.factor[:, None]
        else:
            scales = self.factor.diagonal(dim1=-2, dim2=-1)
            white = centred @ self.factor.mT
        log_det = scales.log().sum(-1) - self._dim * math.log(self.temperature)
        log_weights = self.logits.log_softmax(0)
        constant = log_det - 0.5 * self._dim * _LOG_2PI + log_weights
        squares = white.square().sum(-1) / self.temperature**2
        joint = constant[:, None] - 0.5 * squares
        return torch.logsumexp(joint, 0)

    @property
    def _dim(self) -> int:
        return self.event_shape[0]

    @property
    def _is_diagonal(self) -> bool:
        return self.factor.dim() == 2

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        shape = torch.Size(sample_shape) + self.batch_shape
        count = shape.numel()
        components = dist.Categorical(logits=self.logits)
        index = components.sample(torch.Size([count]))
        noise = self.temperature * torch.randn(
            count,
            self._dim,
            dtype=self.loc.dtype,
            device=self.loc.device,
        )
        if self._is_diagonal:
            noise = noise / self.factor[index]
        else:
            self._unwhiten(noise, index)
        return (self.loc[index] + noise).reshape(*shape, -1)

    def _unwhiten(self, noise: Tensor, index: Tensor) -> None:
        """Solve ``A_k x = noise`` in place: one solve for each component, not for each sample."""
        for k in index.unique().tolist():
            rows = index == k
            columns = noise[rows].T
            solution = torch.linalg.solve_triangular(self.factor[k], columns, upper=False)
            noise[rows] = solution.T


class Mixture(Prior):
    r"""A Gaussian mixture prior, :math:`p(z) = \sum_k \pi_k N(z; m_k, \Sigma_k)`, learned by gradient.

    A prior-only phase starts with scikit-learn's EM on the codes (:meth:`fit`) and continues by gradient.
    Covariances are stored as whitening factors with logarithmic diagonals, so they stay positive definite.

    Args:
        dim: Length of a code.
        components: Number of components K, at least 1.
        covariance: ``"full"`` or ``"diag"``.
        em_iterations: Maximum number of EM iterations; 0 leaves the fit to gradients.
        seed: Seed of the initialization of EM, k-means on the codes.
        least_variance: Added to the variances by EM, as a share of the variance of the codes in each dimension.

    Raises:
        ValueError: If an argument is out of its range; from :meth:`fit`, if there are fewer codes than
            components.

    References:
        Dempster et al. (1977); Bishop (2006), section 9.2. As a prior of VAEs: Dilokthanakul et al. (2016).

    >>> prior = Mixture(2, components=3)
    >>> prior().log_prob(torch.zeros(5, 2)).shape
    torch.Size([5])
    """

    has_rsample = False

    def __init__(
        self,
        dim: int,
        components: int = 100,
        *,
        covariance: str = "full",
        em_iterations: int = 25,
        seed: int = 0,
        least_variance: float = 1e-6,
    ) -> None:
        super().__init__()
        _check_sizes(dim, components)
        if covariance not in ("full", "diag"):
            raise ValueError(f"expected covariance to be 'full' or 'diag', got {covariance!r}")
        if em_iterations < 0:
            raise ValueError(f"expected em_iterations of at least 0, got {em_iterations}")
        if least_variance <= 0:
            raise ValueError(f"expected least_variance above 0, got {least_variance}")
        self.event_shape = torch.Size([dim])
        self.covariance = covariance
        self.em_iterations = em_iterations
        self.seed = seed
        self.least_variance = least_variance
        self.logits = nn.Parameter(torch.zeros(components))
        self.loc = nn.Parameter(torch.randn(components, dim))
        # the logarithms of the diagonals of the whitening factors
        self.log_diagonal = nn.Parameter(torch.zeros(components, dim))
        if covariance == "full":
            self.lower = nn.Parameter(torch.zeros(components, dim, dim))
        self._fitted: dict[str, Any] = {}

    def factor(self) -> Tensor:
        """The whitening factors, ``(K, d)`` or lower triangular ``(K, d, d)``."""
        diagonal = self.log_diagonal.exp()
        if self.covariance == "diag":
            return diagonal
        return self.lower.tril(-1) + diagonal.diag_embed()

    def forward(
        self,
        context: Tensor | None = None,
        *,
        temperature: float = 1.0,
    ) -> TorchDistribution:
        return MixtureDistribution(self.logits, self.loc, self.factor(), temperature)

    def record(self) -> dict[str, Any]:
        """The number of EM iterations and the log density that EM reached."""
        return dict(self._fitted)

    def check_fit(self, codes: int) -> None:
        components = len(self.logits)
        if self.em_iterations and codes < components:
            raise UserError(
                f"a mixture of {components} components needs as many codes, got {codes}: say fewer components"
            )

    @torch.no_grad()
    def fit(self, codes: Tensor, context: Tensor | None = None) -> dict[str, Any] | None:
        """Set the parameters by EM on standardized codes, at most 100,000 of them, evenly spaced."""
        if self.em_iterations == 0:
            return None
        self.check_fit(len(codes))
        stride = math.ceil(len(codes) / _EM_CODES)
        array = codes[::stride].double().cpu().numpy()
        mean = array.mean(0)
        scale = array.std(0).clip(min=1e-12)
        em = self._run_em((array - mean) / scale)
        self.logits.copy_(torch.from_numpy(np.log(em.weights_)))
        self.loc.copy_(torch.from_numpy(em.means_ * scale + mean))
        self._set_factors(em.precisions_cholesky_, scale)
        log_density = em.lower_bound_ - np.log(scale).sum()
        self._fitted = {
            "em_iterations": int(em.n_iter_),
            "em_log_prior": float(log_density),
        }
        return self.record()

    def _run_em(self, array: np.ndarray) -> Any:
        """Fit scikit-learn's mixture to standardized codes."""
        from sklearn.mixture import GaussianMixture

        em = GaussianMixture(
            len(self.logits),
            covariance_type=self.covariance,
            reg_covar=self.least_variance,
            max_iter=self.em_iterations,
            random_state=numpy_seed(self.seed),
        )
        with warnings.catch_warnings():
            # EM need not converge: training continues by gradient
            warnings.simplefilter("ignore")
            em.fit(array)
        return em

    def _set_factors(self, precisions_cholesky: np.ndarray, scale: np.ndarray) -> None:
        """Set the whitening factors from those of codes that were divided by ``scale``."""
        divisor = torch.from_numpy(scale)
        diagonal = torch.from_numpy(precisions_cholesky)
        if self.covariance == "full":
            # scikit-learn multiplies rows by upper triangular factors: white = (z - m) @ factor
            factors = diagonal.mT
            self.lower.copy_((factors / divisor).tril(-1))
            diagonal = factors.diagonal(dim1=-2, dim2=-1)
        self.log_diagonal.copy_((diagonal / divisor).log())


class VampPrior(Prior):
    r"""The mixture of the encoder's posteriors at learned pseudo-inputs, :math:`\frac1K \sum_k q(z | u_k)`.

    The prior is bound to the encoder and does not own it. The encoder's weights enter through
    :func:`pyro_lrp.gradients.boundary`: under the bilevel objective they receive β times the prior's gradient,
    the pseudo-inputs the whole gradient. The encoder runs in eval mode here, so that p(z) is the same density
    during training and afterwards. A sample or a score costs an encoding of all K pseudo-inputs.

    Args:
        dim: Length of a code.
        image_shape: Shape of a pseudo-input, ``(C, H, W)``; its values are in [0, 1].
        components: Number of pseudo-inputs K, at least 1. They are initialized with training images.

    Raises:
        ValueError: If ``components`` is below 1; from :meth:`bind`, if the encoder is deterministic.

    References:
        Tomczak and Welling (2018), VAE with a VampPrior, Eq. 9.
    """

    has_rsample = False

    def __init__(
        self,
        dim: int,
        image_shape: Sequence[int],
        components: int = 200,
    ) -> None:
        super().__init__()
        _check_sizes(dim, components)
        self.event_shape = torch.Size([dim])
        self.pseudo_inputs = nn.Parameter(torch.rand(components, *image_shape))
        # a list, so that the encoder is not registered as a submodule
        self._encoder: list[nn.Module] = []

    @property
    def bound(self) -> nn.Module | None:
        if not self._encoder:
            return None
        return self._encoder[0]

    def bind(self, autoencoder: nn.Module) -> None:
        """Bind the prior to the autoencoder's encoder."""
        encoder: Any = autoencoder.encoder
        with torch.no_grad(), eval_mode(encoder):
            output = encoder(self.pseudo_inputs[:1])
        _, scale = loc_and_scale(encoder, output, (1, *self.event_shape))
        if scale is None:
            raise ValueError("VampPrior needs an encoder with noise, and this one is deterministic")
        self._encoder = [encoder]

    @torch.no_grad()
    def initialize(self, x: Tensor) -> None:
        """Copy training images, shape ``(B, C, H, W)``; if there are too few, repeat them with noise."""
        count = len(x)
        for start in range(0, len(self.pseudo_inputs), count):
            part = self.pseudo_inputs[start : start + count]
            images = x[: len(part)]
            if start > 0:
                images = images + 0.1 * torch.randn_like(part)
            part.copy_(images)

    def forward(
        self,
        context: Tensor | None = None,
        *,
        temperature: float = 1.0,
    ) -> TorchDistribution:
        encoder = self.bound
        if encoder is None:
            raise ValueError("VampPrior is not bound to an encoder yet: make it an Autoencoder's prior")
        # buffers are not replaced: in eval mode nothing writes to them
        weights = {}
        for name, parameter in encoder.named_parameters():
            weights[name] = boundary(parameter)
        images = self.pseudo_inputs.clamp(0.0, 1.0)
        with eval_mode(encoder), torch.autocast(images.device.type, enabled=False):
            output = functional_call(encoder, weights, (images,))
        loc, scale = loc_and_scale(encoder, output, (len(images), *self.event_shape))
        assert scale is not None, "bind refuses a deterministic encoder"
        scale = scale.expand_as(loc)
        equal_logits = loc.new_zeros(len(loc))
        return MixtureDistribution(equal_logits, loc, 1.0 / scale, temperature)


def _check_sizes(dim: int, components: int) -> None:
    if min(dim, components) < 1:
        raise ValueError(f"expected dim and components of at least 1, got {dim} and {components}")
