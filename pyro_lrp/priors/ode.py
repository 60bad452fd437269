"""Flows along an ordinary differential equation: its solver, and the transform from time 0 to time 1."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pyro_lrp.core.errors import UserError
from pyro_lrp.core.gradients import full_precision
from pyro_lrp.transforms.core import VectorTransform

__all__ = ["NeuralODE", "Solver", "divergence"]

_ADAPTIVE = ("dopri5", "dopri8")
_ORDERS = {"euler": 1, "midpoint": 2, "heun3": 3, "rk4": 4}  # methods with fixed steps
_ROWS = 2**16  # codes times directions that are differentiated at a time: bounds memory

State = tuple[Tensor, ...]


@dataclass(frozen=True)
class Solver:
    """The method that solves the differential equation, and its tolerances.

    Attributes:
        method: ``dopri5`` or ``dopri8``, which adapt their steps; with a fixed number of equal steps ``euler``,
            ``midpoint``, ``heun3`` or ``rk4``.
        rtol: Relative error that an adaptive method allows in a step, for the worst code of a batch.
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
        known = (*_ADAPTIVE, *_ORDERS)
        if self.method not in known:
            names = ", ".join(known)
            raise ValueError(f"expected method to be one of {names}, got {self.method!r}")
        if not (0 < self.rtol < 1 and 0 < self.atol < 1):
            raise ValueError(f"expected rtol and atol to be between 0 and 1, got {self.rtol} and {self.atol}")
        if self.max_steps < 1:
            raise ValueError(f"expected max_steps to be at least 1, got {self.max_steps}")
        self._check_steps()

    def _check_steps(self) -> None:
        expected = "null"
        if self.method in _ORDERS:
            expected = "a whole number"
        has_steps = self.steps is not None
        if has_steps != (self.method in _ORDERS):
            raise ValueError(f"expected steps to be {expected} for method {self.method}, got {self.steps}")
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"expected steps to be at least 1, got {self.steps}")

    @property
    def error(self) -> float:
        """Scale of the error of a whole solve."""
        if self.steps is None:
            return max(self.rtol, self.atol)
        order = _ORDERS[self.method]
        return self.steps**-order

    def solve(
        self,
        rates: Callable[..., State],
        state: State,
        start: float,
        end: float,
    ) -> State:
        """The state at time ``end``; backpropagation differentiates it in all inputs.

        Args:
            rates: Maps a time and a state to its time derivative.
            state: State at time ``start``; tensors of shape ``(N, *)``.
            start: Initial time.
            end: Final time, before or after ``start``.

        Raises:
            UserError: If the solver does not converge.
        """
        from torchdiffeq import odeint  # here, because it imports SciPy

        times = state[0].new_tensor([start, end])
        try:
            path = odeint(
                rates,
                state,
                times,
                rtol=self.rtol,
                atol=self.atol,
                method=self.method,
                options=self._options(times, start, end),
            )
        except AssertionError as error:
            raise UserError(self._failure(str(error))) from error
        return tuple(part[-1] for part in path)

    def _options(self, times: Tensor, start: float, end: float) -> dict[str, Any]:
        """The options of torchdiffeq for this method."""
        if self.steps is None:
            return {
                "norm": _worst,
                "max_num_steps": self.max_steps,
                "dtype": times.dtype,
            }
        grid = torch.linspace(
            start,
            end,
            self.steps + 1,
            dtype=times.dtype,
            device=times.device,
        )
        return {"grid_constructor": lambda *_: grid}

    def _failure(self, message: str) -> str:
        cause = "its step size shrank to nothing, as where the velocity is not finite"
        if "max_num_steps" in message:
            cause = f"it needed more than prior.max_steps={self.max_steps} steps"
        return (
            f"the solver prior.method={self.method} did not converge: {cause}; "
            f"raise prior.max_steps, or raise prior.rtol={self.rtol:g} and "
            f"prior.atol={self.atol:g}, or set prior.method=rk4 prior.steps=100"
        )


@torch.no_grad()  # step sizes are not differentiated
def _worst(errors: State) -> Tensor:
    """Root mean square over the entries of a code; the maximum over codes and parts of the state."""
    maxima = []
    for part in errors:
        rms = part.square().mean(-1).sqrt()
        maxima.append(rms.max())
    return torch.stack(maxima).max()


def divergence(
    function: Callable[[Tensor], Tensor],
    x: Tensor,
    directions: Tensor,
) -> tuple[Tensor, Tensor]:
    r"""A function's value and the trace of its Jacobian, :math:`\sum_k e_k^T J e_k`, in one forward pass.

    Args:
        function: Maps ``(N, d)`` to ``(N, d)``, row by row.
        x: Shape ``(N, d)``.
        directions: Shape ``(K, N, d)`` or ``(K, 1, d)``. Unit vectors give the exact trace; random vectors an
            unbiased estimate, if the mean of :math:`\sum_k e_k e_k^T` is I (Hutchinson, 1989).

    Returns:
        The value, ``(N, d)``, and the trace, ``(N, 1)``.

    >>> value, trace = divergence(lambda x: x**2, torch.tensor([[1.0, 3.0]]), torch.eye(2)[:, None])
    >>> value.tolist(), trace.tolist()
    ([[1.0, 9.0]], [[8.0]])
    """
    value, vjp = torch.func.vjp(function, x)[:2]

    def along(direction: Tensor) -> Tensor:
        product = vjp(direction.expand_as(x))[0]
        return (product * direction).sum(-1, keepdim=True)

    terms = torch.func.vmap(along)(directions)
    return value, terms.sum(0)


class NeuralODE(VectorTransform):
    r"""Base to latent: follow :math:`dx/dt = v(t, x)` from t = 0 to t = 1.

    By the instantaneous change of variables, :math:`\log|\det dx_1/dx_0|` is the integral of
    :math:`\mathrm{tr}\,\partial v/\partial x` over time, along the path.

    Args:
        velocity: A module of a time, 0-dim or ``(N, 1)``, and points ``(N, dim)``; it returns ``(N, dim)``.
        solver: Solver of the path.
        probes: Number of Rademacher probes per point that estimate the trace (Hutchinson), drawn from torch's
            global generator and fixed along a path; None for the exact trace.

    References:
        Chen et al. (2018), Neural Ordinary Differential Equations, Theorem 1; Grathwohl et al. (2019), FFJORD,
        Eq. 8.
    """

    def __init__(
        self,
        velocity: nn.Module,
        solver: Solver,
        probes: int | None = None,
    ) -> None:
        super().__init__()
        self.velocity = velocity
        self.solver = solver
        self.probes = probes

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

    def _follow(
        self,
        x: Tensor,
        start: float,
        end: float,
        *,
        score: bool = False,
    ) -> State:
        """End points of paths and, if ``score``, the log-determinants ``(*, 1)`` along them."""
        batch = x.shape[:-1]
        dim = x.shape[-1]
        rows_per_code = 1
        if score:
            rows_per_code = self.probes or dim
        chunk_size = max(1, _ROWS // rows_per_code)
        flat = full_precision(x).reshape(-1, dim)
        ends = []
        with torch.autocast(x.device.type, enabled=False):
            for chunk in flat.split(chunk_size):
                ends.append(self._follow_chunk(chunk, start, end, score=score))
        columns = zip(*ends, strict=True)
        return tuple(torch.cat(part).reshape(*batch, -1) for part in columns)

    def _follow_chunk(
        self,
        x: Tensor,
        start: float,
        end: float,
        *,
        score: bool,
    ) -> State:
        def velocity(t: Tensor, state: State) -> State:
            return (self.velocity(t, state[0]),)

        if not score:
            return self.solver.solve(velocity, (x,), start, end)
        directions = self._directions(x)

        def velocity_and_trace(t: Tensor, state: State) -> State:
            def at_this_time(points: Tensor) -> Tensor:
                return self.velocity(t, points)

            return divergence(at_this_time, state[0], directions)

        ladj = torch.zeros_like(x[:, :1])
        return self.solver.solve(velocity_and_trace, (x, ladj), start, end)

    def _directions(self, x: Tensor) -> Tensor:
        """Directions of :func:`divergence`: unit vectors, or Rademacher probes."""
        dim = x.shape[-1]
        if self.probes is None:
            units = torch.eye(dim, dtype=x.dtype, device=x.device)
            return units.unsqueeze(1)
        bits = torch.randint(0, 2, (self.probes, *x.shape), device=x.device)
        signs = bits * 2 - 1
        return signs.to(x.dtype) / math.sqrt(self.probes)
