"""A continuous normalizing flow as a prior, whose velocity is learned by regression."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Transform

from pyro_lrp import networks
from pyro_lrp.core.gradients import full_precision
from pyro_lrp.priors.core import NormalBase
from pyro_lrp.priors.flow import FlowDistribution
from pyro_lrp.priors.ode import NeuralODE, Solver, divergence
from pyro_lrp.transforms import Whitening, inverse_and_ladj

__all__ = [
    "FlowMatching",
    "FlowMatchingDistribution",
    "NeuralODE",
    "Solver",
    "divergence",
]

_EXACT_DIM = 16  # up to this length of a code an exact trace costs little more than a probe


class FlowMatchingDistribution(FlowDistribution):
    """A base pushed along a :class:`NeuralODE` and then, if there is one, through a whitening."""

    @property
    def fitted(self) -> nn.Module:
        """The velocity, which :meth:`fit_loss` trains."""
        return self.transforms[0].velocity

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        with torch.no_grad():
            return self.rsample(sample_shape)

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        device_type = self.base_dist.mean.device.type
        with torch.autocast(device_type, enabled=False):
            return super().rsample(sample_shape)

    def fit_loss(self, z: Tensor) -> Tensor:
        r"""The conditional flow matching loss of each code, :math:`|v(t, (1-t) x_0 + t x_1) - (x_1 - x_0)|^2`.

        For each code one :math:`x_0 \sim N(0, I)`, then one t, uniform on [0, 1], are drawn; :math:`x_1` is the
        code, whitened.

        Args:
            z: Codes, shape ``(*, dim)``.

        Returns:
            The square summed over dimensions, shape ``(*)``.

        References:
            Lipman et al. (2023), Flow Matching for Generative Modeling, Eq. 14 and 23 with sigma_min = 0.
        """
        with torch.autocast(z.device.type, enabled=False):
            x_1 = full_precision(z)
            for transform in reversed(self.transforms[1:]):
                x_1, _ = inverse_and_ladj(transform, x_1)
            x_0 = torch.randn_like(x_1)
            t = torch.rand_like(x_1[..., :1])
            x_t = (1 - t) * x_0 + t * x_1
            error = self.fitted(t, x_t) - (x_1 - x_0)
            return error.square().sum(-1)


class FlowMatching(NormalBase):
    r"""A continuous normalizing flow whose velocity is learned by conditional flow matching.

    Training is a regression (:meth:`FlowMatchingDistribution.fit_loss`) and solves no equation. A sample costs
    one solve of the equation; a score one solve with the trace of the velocity's Jacobian along the path, so
    scores in training (beta > 0) cost far more than the regression does.

    Args:
        dim: Length of a code.
        width: Width of the default velocity, :func:`pyro_lrp.networks.velocity`.
        layers: Number of layers of the default velocity.
        velocity: A module v(t, x) that replaces the default: the time, 0-dim or ``(N, 1)``, and points
            ``(N, dim)`` to ``(N, dim)``.
        whiten: ``"standardize"``, ``"pca"`` or None: a fixed :class:`pyro_lrp.transforms.Whitening` nearest the
            data, which :meth:`fit` sets from the codes.
        trace: ``"exact"``; ``"hutchinson"`` for an unbiased estimate of log p(z) from random probes; ``"auto"``
            for the exact trace up to 16 dimensions.
        probes: Number of probes per code.
        solver: The fields of :class:`Solver`: ``method``, ``rtol``, ``atol``, ``max_steps``, ``steps``. Codes
            in float32 do not reach tolerances below 1e-6.

    Raises:
        ValueError: If an argument is out of its range, or the velocity does not map codes to codes.
        UserError: In a sample or score, if the solver does not converge.

    References:
        Lipman et al. (2023), Flow Matching for Generative Modeling; Liu et al. (2023), Flow Straight and Fast,
        for the straight path; Chen et al. (2018) and Grathwohl et al. (2019) for the density.

    >>> prior = FlowMatching(2, width=8)  # before training: N(0, I)
    >>> z = torch.zeros(5, 2)
    >>> round(prior().log_prob(z)[0].item(), 4), prior().fit_loss(z).shape
    (-1.8379, torch.Size([5]))
    >>> prior.record()
    {'log_prob': 'exact trace', 'solver': 'dopri5', 'rtol': 1e-05, 'atol': 1e-05}
    """

    def __init__(
        self,
        dim: int,
        width: int = 512,
        layers: int = 4,
        *,
        velocity: nn.Module | None = None,
        whiten: str | None = "standardize",
        trace: str = "auto",
        probes: int = 1,
        **solver: Any,
    ) -> None:
        super().__init__(dim)
        if trace not in ("auto", "exact", "hutchinson"):
            raise ValueError(f"expected trace to be auto, exact or hutchinson, got {trace!r}")
        if probes < 1:
            raise ValueError(f"expected probes to be at least 1, got {probes}")
        if velocity is None:
            velocity = networks.velocity(dim, width, layers)
        _check_velocity(velocity, dim)
        exact = trace == "exact"
        if trace == "auto":
            exact = dim <= _EXACT_DIM
        self.ode = NeuralODE(velocity, Solver(**solver))
        if not exact:
            self.ode.probes = probes
        self.whitening: Whitening | None = None
        if whiten is not None:
            self.whitening = Whitening(dim, whiten)
        # an estimate, since errors grow with the velocity: up to 50 times the solver's
        # tolerance was seen in trained networks of 16 and 64 dimensions
        self.tolerance = 100 * self.ode.solver.error

    def forward(
        self,
        context: Tensor | None = None,
        *,
        temperature: float = 1.0,
    ) -> FlowMatchingDistribution:
        base = self.base(temperature=temperature)
        transforms: list[Transform] = [self.ode]
        if self.whitening is not None:
            transforms.append(self.whitening)
        return FlowMatchingDistribution(base, transforms)

    def fit(self, codes: Tensor, context: Tensor | None = None) -> dict[str, Any] | None:
        """Set the whitening from all codes, if there is one; ``fit_loss`` trains the velocity."""
        if self.whitening is None:
            return None
        self.whitening.fit(codes)
        return {"whitening": self.whitening.kind}

    def record(self) -> dict[str, Any]:
        """How log p(z) is computed."""
        solver = self.ode.solver
        record: dict[str, Any] = {
            "log_prob": self._trace_method(),
            "solver": solver.method,
        }
        if solver.steps is None:
            record["rtol"] = solver.rtol
            record["atol"] = solver.atol
        else:
            record["steps"] = solver.steps
        return record

    def _trace_method(self) -> str:
        probes = self.ode.probes
        if probes is None:
            return "exact trace"
        if probes == 1:
            return "Hutchinson, 1 probe"
        return f"Hutchinson, {probes} probes"

    def to_base(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """Latent to base, ``z_T -> z_0``, shape ``(*, dim)``."""
        with torch.autocast(z.device.type, enabled=False):
            x = full_precision(z)
            if self.whitening is not None:
                x = self.whitening.inv(x)
            return self.ode.inv(x)

    def to_latent(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """Base to latent, ``z_0 -> z_T``, shape ``(*, dim)``."""
        with torch.autocast(z.device.type, enabled=False):
            x = self.ode(full_precision(z))
            if self.whitening is not None:
                x = self.whitening(x)
            return x


@torch.no_grad()
def _check_velocity(velocity: nn.Module, dim: int) -> None:
    """Check the shapes of a velocity, with one time for all points and with a time for each."""
    like = next((p for p in velocity.parameters()), torch.zeros(()))
    x = like.new_zeros(2, dim)
    one_time = like.new_tensor(0.5)
    time_for_each = like.new_full((2, 1), 0.5)
    for t in (one_time, time_for_each):
        try:
            shape = tuple(velocity(t, x).shape)
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            times = tuple(t.shape)
            line = " ".join(str(error).split())[:200]
            raise ValueError(
                f"expected velocity to take times of shape {times} and points of shape (2, {dim}), got: {line}"
            ) from error
        if shape != (2, dim):
            raise ValueError(f"expected velocity to return shape (2, {dim}), got {shape}")
