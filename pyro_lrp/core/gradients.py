r"""The bilevel objective as a rule about gradients.

The upper objective F weights the latent regularization by :math:`\beta`, the lower objective f does not
(Morrow and Chiu, Eq. 5-7). One evaluation of the prior serves both if every tensor that enters the prior from
the autoencoder passes :func:`boundary`: forward it is the identity, backward it multiplies by :math:`\beta`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Gate", "bilevel", "boundary", "frozen", "full_precision", "scale_grad"]

_beta: ContextVar[float | Tensor] = ContextVar("beta", default=1.0)


class _ScaleGrad(torch.autograd.Function):
    @staticmethod
    def forward(tensor: Tensor, beta: float | Tensor) -> Tensor:
        return tensor.view_as(tensor)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float | Tensor], output: Tensor) -> None:
        ctx.beta = inputs[1]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad * ctx.beta, None

    @staticmethod
    def vmap(info: Any, in_dims: Any, tensor: Tensor, beta: float | Tensor) -> tuple[Tensor, int | None]:
        """For several models computed as one, each of which may have its own beta."""
        dim, beta_dim = in_dims
        if beta_dim is None:
            return _ScaleGrad.apply(tensor, beta), dim
        if dim is None:
            tensor = tensor.expand(info.batch_size, *tensor.shape)
        else:
            tensor = tensor.movedim(dim, 0)
        factors = beta.reshape(-1, *[1] * (tensor.dim() - 1))  # type: ignore[union-attr]
        return _ScaleGrad.apply(tensor, factors), 0


def scale_grad(tensor: Tensor, beta: float | Tensor) -> Tensor:
    """The identity, whose gradient is multiplied by ``beta``.

    A constant ``beta`` of 0.0 detaches, so that an infinite gradient behind it cannot become a NaN; a
    0-dim tensor may change from step to step and is not differentiated.

    Args:
        tensor: Any shape.
        beta: Factor of the gradient.

    Returns:
        A tensor equal to ``tensor``.

    >>> x = torch.ones(2, requires_grad=True)
    >>> scale_grad(x, 0.25).sum().backward()
    >>> x.grad
    tensor([0.2500, 0.2500])
    """
    if isinstance(beta, Tensor):
        return _ScaleGrad.apply(tensor, beta)
    if beta == 0.0:
        return tensor.detach()
    if beta == 1.0:
        return tensor
    return _ScaleGrad.apply(tensor, beta)


class _GatedGrad(torch.autograd.Function):
    @staticmethod
    def forward(tensor: Tensor, gate: Gate) -> Tensor:
        return tensor.view_as(tensor)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Gate], output: Tensor) -> None:
        ctx.gate = inputs[1]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        if ctx.gate.factor is None:
            raise RuntimeError("a gradient flows back through a gate whose factor was never set")
        return ctx.gate.apply_to(grad), None

    @staticmethod
    def vmap(info: Any, in_dims: Any, tensor: Tensor, gate: Gate) -> tuple[Tensor, int]:
        """For several models computed as one, each of which decides its own factor."""
        return _GatedGrad.apply(tensor.movedim(in_dims[0], 0), gate), 0


class _Keep(torch.autograd.Function):
    """Keeps the factor of a gate; of several models computed as one, the factors of all."""

    @staticmethod
    def forward(factor: Tensor, gate: Gate) -> Tensor:
        gate.kept = factor
        gate.of_many = False
        return factor.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        ctx.mark_non_differentiable(output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, None]:
        return None, None

    @staticmethod
    def vmap(info: Any, in_dims: Any, factor: Tensor, gate: Gate) -> tuple[Tensor, int]:
        gate.kept = factor.movedim(in_dims[0], 0)
        gate.of_many = True
        return gate.kept.clone(), 0


class Gate:
    """The identity, whose gradient is multiplied by a factor that only the forward pass decides.

    Attributes:
        factor: Broadcasts against the gradients. Set it before they flow back.

    >>> gate = Gate()
    >>> x = torch.ones(2, requires_grad=True)
    >>> y = gate(x).sum()
    >>> gate.factor = (y > 1).float() * 0.5
    >>> y.backward()
    >>> x.grad
    tensor([0.5000, 0.5000])
    """

    def __init__(self) -> None:
        self.kept: Tensor | None = None
        self.of_many = False  # whether the first dimension is that of several models

    @property
    def factor(self) -> Tensor | None:
        return self.kept

    @factor.setter
    def factor(self, factor: Tensor) -> None:
        _Keep.apply(factor.detach(), self)

    def __call__(self, tensor: Tensor) -> Tensor:
        return _GatedGrad.apply(tensor, self)

    def apply_to(self, grad: Tensor) -> Tensor:
        """A gradient times the factor."""
        assert self.kept is not None, "the factor is set before gradients flow"
        factor = self.kept
        if self.of_many:
            ones = [1] * (grad.dim() - factor.dim())
            factor = factor.reshape(len(factor), *ones, *factor.shape[1:])
        return grad * factor


@contextmanager
def bilevel(beta: float | Tensor) -> Iterator[None]:
    """Within the block every :func:`boundary` scales gradients by ``beta``."""
    token = _beta.set(beta)
    try:
        yield
    finally:
        _beta.reset(token)


def boundary(tensor: Tensor) -> Tensor:
    """Mark a tensor that enters the prior from the autoencoder: a code, a context, an encoder's output.

    Outside :func:`bilevel` it is the identity.
    """
    return scale_grad(tensor, _beta.get())


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Within the block the module passes gradients on, but gets none for its own parameters.

    >>> critic = nn.Linear(1, 1)
    >>> z = torch.ones(1, 1, requires_grad=True)
    >>> with frozen(critic):
    ...     critic(z).sum().backward()
    >>> critic.weight.grad is None, z.grad is not None
    (True, True)
    """
    parameters = module.parameters()
    learns = [p for p in parameters if p.requires_grad]
    for parameter in learns:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learns:
            parameter.requires_grad_(True)


def full_precision(tensor: Tensor) -> Tensor:
    """``tensor`` in float32 at least: densities and log-determinants lose whole nats in half precision."""
    if tensor.dtype in (torch.float16, torch.bfloat16):
        return tensor.float()
    return tensor
