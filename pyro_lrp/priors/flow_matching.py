"""A continuous normalizing flow as a prior, whose velocity is learned by regression."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
<<<<<<< HEAD
=======
from torch.distributions import Transform
>>>>>>> lang1

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
<<<<<<< HEAD
_ROWS = 2**16  # codes times directions that are differentiated at a time: bounds memory


@dataclass(frozen=True)
class Solver:
    """How the differential equation is solved.

    Attributes:
        method: ``dopri5`` or ``dopri8``, which adapt their steps; with a fixed number of equal steps ``euler``,
            ``midpoint``, ``heun3`` or ``rk4``.
        rtol: Relative error that an adaptive method allows in a step, in the worst code of a batch.
        atol: Absolute error, likewise.
        max_steps: Steps after which an adaptive method gives up.
        steps: Number of steps of a method with a fixed number.
    """

    method: str = "dopri5"
    rtol: float = 1e-5
    atol: float = 1e-5
    max_steps: int = 1000
    steps: int | None = None

    def __post_init__(self) -> None:
        known = (*_ADAPTIVE, *_FIXED)
        if self.method not in known:
            raise ValueError(f"expected method to be one of {', '.join(known)}, got {self.method!r}")
        if not (0 < self.rtol < 1 and 0 < self.atol < 1):
            raise ValueError(f"expected rtol and atol to be between 0 and 1, got {self.rtol} and {self.atol}")
        if self.max_steps < 1:
            raise ValueError(f"expected max_steps to be at least 1, got {self.max_steps}")
        if (self.steps is not None) != (self.method in _FIXED):
            kind = "a whole number" if self.method in _FIXED else "null"
            raise ValueError(f"expected steps to be {kind} for method {self.method}, got {self.steps}")
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"expected steps to be at least 1, got {self.steps}")

    @property
    def error(self) -> float:
        """What the error of a whole solve scales with."""
        return max(self.rtol, self.atol) if self.steps is None else self.steps ** -_FIXED[self.method]

    def solve(
        self, rates: Callable[..., tuple[Tensor, ...]], state: tuple[Tensor, ...], start: float, end: float
    ) -> tuple[Tensor, ...]:
        """The state at time ``end``, by backpropagation differentiable in all that enters.

        Args:
            rates: Maps a time and a state to its time derivative.
            state: At time ``start``; tensors of shape ``(N, *)``.
            start: A time.
            end: A time, before or after it.

        Raises:
            UserError: If the solver does not converge.
        """
        from torchdiffeq import odeint  # here, because it imports SciPy

        times = state[0].new_tensor([start, end])
        options = {"norm": _worst, "max_num_steps": self.max_steps, "dtype": times.dtype}
        if self.steps is not None:
            grid = torch.linspace(start, end, self.steps + 1, dtype=times.dtype, device=times.device)
            options = {"grid_constructor": lambda *_: grid}
        try:
            path = odeint(
                rates, state, times, rtol=self.rtol, atol=self.atol, method=self.method, options=options
            )
        except AssertionError as error:
            raise UserError(self._failure(str(error))) from error
        return tuple(part[-1] for part in path)

    def _failure(self, message: str) -> str:
        what = "its step size shrank to nothing, as where the velocity is not finite"
        if "max_num_steps" in message:
            what = f"it needed more than prior.max_steps={self.max_steps} steps"
        return (
            f"the solver prior.method={self.method} did not converge: {what}; raise prior.max_steps, or raise "
            f"prior.rtol={self.rtol:g} and prior.atol={self.atol:g}, or set prior.method=rk4 prior.steps=100"
        )


@torch.no_grad()  # the choice of steps is no function to differentiate
def _worst(errors: tuple[Tensor, ...]) -> Tensor:
    """Root mean square over the numbers of a code, of the worst code and part of the state."""
    return torch.stack([part.square().mean(-1).sqrt().max() for part in errors]).max()


def divergence(function: Callable[[Tensor], Tensor], x: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    r"""A function's value and the trace of its Jacobian, :math:`\sum_k e_k^T J e_k`, in one forward pass.

    Args:
        function: Maps ``(N, d)`` to ``(N, d)``, row by row.
        x: Shape ``(N, d)``.
        directions: Shape ``(K, N, d)`` or ``(K, 1, d)``. The unit vectors give the trace itself; random ones
            an unbiased estimate, if the mean of :math:`\sum_k e_k e_k^T` is I (Hutchinson, 1989).

    Returns:
        The value, ``(N, d)``, and the trace, ``(N, 1)``.

    >>> value, trace = divergence(lambda x: x**2, torch.tensor([[1.0, 3.0]]), torch.eye(2)[:, None])
    >>> value.tolist(), trace.tolist()
    ([[1.0, 9.0]], [[8.0]])
    """
    value, pull = torch.func.vjp(function, x)[:2]

    def along(direction: Tensor) -> Tensor:
        return (pull(direction.expand_as(x))[0] * direction).sum(-1, keepdim=True)

    return value, torch.func.vmap(along)(directions).sum(0)


class NeuralODE(VectorTransform):
    r"""Base to latent: follow :math:`dx/dt = v(t, x)` from t = 0 to t = 1.

    By the instantaneous change of variables, :math:`\log|\det dx_1/dx_0|` is the integral of
    :math:`\mathrm{tr}\,\partial v/\partial x` over time, along the path.

    Args:
        velocity: A module of a time, 0-dim or ``(N, 1)``, and points ``(N, dim)``; it returns ``(N, dim)``.
        solver: For the path.
        probes: Number of Rademacher probes per point that estimate the trace (Hutchinson), drawn from torch's
            global generator and kept along a path; None for the exact trace.

    References:
        Chen et al. (2018), Neural Ordinary Differential Equations, Theorem 1; Grathwohl et al. (2019), FFJORD,
        Eq. 8.
    """

    def __init__(self, velocity: nn.Module, solver: Solver, probes: int | None = None) -> None:
        super().__init__()
        self.velocity, self.solver, self.probes = velocity, solver, probes

    def _call(self, x: Tensor) -> Tensor:
        return self._follow(x, 0.0, 1.0)[0]

    def _inverse(self, y: Tensor) -> Tensor:
        return self._follow(y, 1.0, 0.0)[0]

    def inverse_and_ladj(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Latent to base with its log-determinant: ``(*, dim) -> (*, dim), (*)``."""
        x, ladj = self._follow(y, 1.0, 0.0, score=True)
        return x, ladj.squeeze(-1)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return -self.inverse_and_ladj(y)[1]

    def _follow(self, x: Tensor, start: float, end: float, *, score: bool = False) -> tuple[Tensor, ...]:
        """Where paths lead and, if ``score``, the log-determinants ``(*, 1)`` of this way along them."""
        flat = full_precision(x).reshape(-1, x.shape[-1])
        per_code = (self.probes or x.shape[-1]) if score else 1
        with torch.autocast(x.device.type, enabled=False):
            chunks = flat.split(max(1, _ROWS // per_code))
            ends = [self._follow_chunk(chunk, start, end, score) for chunk in chunks]
        return tuple(torch.cat(part).reshape(*x.shape[:-1], -1) for part in zip(*ends, strict=True))

    def _follow_chunk(self, x: Tensor, start: float, end: float, score: bool) -> tuple[Tensor, ...]:  # noqa: FBT001
        if not score:
            return self.solver.solve(lambda t, state: (self.velocity(t, state[0]),), (x,), start, end)
        directions = self._directions(x)

        def rates(t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            return divergence(lambda points: self.velocity(t, points), state[0], directions)

        return self.solver.solve(rates, (x, torch.zeros_like(x[:, :1])), start, end)

    def _directions(self, x: Tensor) -> Tensor:
        if self.probes is None:
            return torch.eye(x.shape[-1], dtype=x.dtype, device=x.device).unsqueeze(1)
        signs = torch.randint(0, 2, (self.probes, *x.shape), device=x.device) * 2 - 1
        return signs.to(x.dtype) / math.sqrt(self.probes)
=======
>>>>>>> lang1


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
