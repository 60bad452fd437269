"""A deterministic autoencoder with a penalty on the norm of its codes."""

from __future__ import annotations

import math

import pyro
from torch import Tensor, nn

from pyro_lrp.likelihoods import Likelihood
from pyro_lrp.models.autoencoder import Autoencoder
from pyro_lrp.priors import Prior

__all__ = ["RegularizedAutoencoder"]


class RegularizedAutoencoder(Autoencoder):
    r"""An autoencoder with a penalty on the norm of its codes, :math:`\frac{w}{2} |z|^2`.

    With a deterministic encoder, β = 0 and a prior that is fitted to the codes afterwards, this is the
    regularized autoencoder (RAE-L2) without weight decay of the decoder.

    Args:
        encoder: See :class:`Autoencoder`; deterministic in the paper.
        decoder: See :class:`Autoencoder`.
        prior: See :class:`Autoencoder`.
        likelihood: See :class:`Autoencoder`.
        weight: Weight w of the penalty, in nats, at least 0.

    Raises:
        ValueError: If ``weight`` is negative or not finite.

    References:
        Ghosh et al. (2020), From Variational to Deterministic Autoencoders, Eq. 8.
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        prior: Prior,
        likelihood: Likelihood,
        weight: float = 0.01,
    ) -> None:
        super().__init__(encoder, decoder, prior, likelihood)
        if not (weight >= 0 and math.isfinite(weight)):
            raise ValueError(f"expected weight to be a finite number of at least 0, got {weight}")
        self.weight = weight

    def observe(self, z: Tensor, context: Tensor, x: Tensor | None) -> Tensor:
        """p(x|z), and the penalty as the factor ``"code_norm"``."""
        squares = z.square().sum(-1)
        pyro.factor("code_norm", -0.5 * self.weight * squares)
        return super().observe(z, context, x)
