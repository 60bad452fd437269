"""Geometry of codes: paths, directions, speed along a path, and how typical a code is.

The functions map tensors to tensors; a code is a vector. ``z_T`` is the space of encoder and decoder, ``z_0``
that of the prior's base. The prior's ``to_base`` and ``to_latent`` map one to the other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = [
    "PrincipalDirections", "along", "attribute_direction", "even_speed", "lerp", "principal_directions",
    "slerp", "typicality",
]  # fmt: skip


def lerp(a: Tensor, b: Tensor, t: float | Tensor) -> Tensor:
    """The point at ``t`` of the straight path from ``a`` to ``b``.

    Args:
        a: Codes, shape ``(*batch, d)``.
        b: Codes, shape ``(*batch, d)``.
        t: A number, or one for each pair, shape ``batch``.

    >>> lerp(torch.zeros(2), torch.ones(2), 0.25)
    tensor([0.2500, 0.2500])
    """
    t = _column(a, t)
    return (1 - t) * a + t * b


def slerp(a: Tensor, b: Tensor, t: float | Tensor) -> Tensor:
    r"""The point at ``t`` of the spherical path, :math:`[\sin((1-t)w) a + \sin(tw) b] / \sin w`.

    The angle :math:`w` is the one between the vectors. They are not normalized, so codes of N(0, I) keep their
    length of about :math:`\sqrt d` on the way. Between (anti)parallel vectors the path is straight.

    Args:
        a: Codes, shape ``(*batch, d)``.
        b: Codes, shape ``(*batch, d)``.
        t: A number, or one for each pair, shape ``batch``.

    References:
        White (2016), Sampling Generative Networks, arXiv:1609.04468.

    >>> slerp(torch.tensor([2.0, 0.0]), torch.tensor([0.0, 1.0]), 0.5)
    tensor([1.4142, 0.7071])
    """
    t = _column(a, t)
    norms = a.norm(dim=-1, keepdim=True) * b.norm(dim=-1, keepdim=True)
    cosine = (a * b).sum(-1, keepdim=True) / norms.clamp_min(torch.finfo(a.dtype).tiny)
    angle = cosine.clamp(-1 + 1e-7, 1 - 1e-7).acos()
    sine = angle.sin()
    straight = cosine.abs() > 1 - 1e-6  # there the sine is lost in rounding
    round_path = (((1 - t) * angle).sin() * a + (t * angle).sin() * b) / sine
    return torch.where(straight, lerp(a, b, t.squeeze(-1)), round_path)


def along(a: Tensor, b: Tensor, t: Tensor, path: Callable[[Tensor, Tensor, Tensor], Tensor] = lerp) -> Tensor:
    """The points at every ``t`` of the paths from ``a`` to ``b``.

    Args:
        a: Codes, shape ``(*batch, d)``.
        b: Codes, shape ``(*batch, d)``.
        t: Times, shape ``(steps,)``, or ``(*batch, steps)`` if each path has its own.
        path: :func:`lerp` or :func:`slerp`.

    Returns:
        Shape ``(*batch, steps, d)``.
    """
    times = t.expand(*a.shape[:-1], t.shape[-1])
    shape = (*times.shape, a.shape[-1])
    start = a.unsqueeze(-2).expand(shape)
    end = b.unsqueeze(-2).expand(shape)
    return path(start, end, times)


def even_speed(changes: Tensor, steps: int) -> Tensor:
    """Times between which a path changes by equal amounts.

    Args:
        changes: Changes between M + 1 evenly spaced times in [0, 1], at least 0, shape ``(*batch, M)``.
        steps: The number of times, 2 or more; the first is 0, the last 1.

    Returns:
        Times, shape ``(*batch, steps)``. Without any change they are evenly spaced.

    >>> even_speed(torch.tensor([0.0, 1.0]), 3)  # all of the change lies in the second half
    tensor([0.0000, 0.7500, 1.0000])
    """
    parts = changes.shape[-1]
    # a tiny constant speed makes the cumulated change invertible everywhere
    changes = changes + changes.mean(-1, keepdim=True) * 1e-6 + torch.finfo(changes.dtype).tiny
    done = torch.nn.functional.pad(changes.cumsum(-1), (1, 0))
    done = done / done[..., -1:]
    target = torch.linspace(0, 1, steps, dtype=changes.dtype, device=changes.device)
    target = target.expand(*done.shape[:-1], steps).contiguous()
    part = torch.searchsorted(done.contiguous(), target, right=True)
    part = part.clamp(1, parts) - 1
    before = done.gather(-1, part)
    after = done.gather(-1, part + 1)
    times = (part + (target - before) / (after - before)) / parts
    times[..., 0] = 0.0
    times[..., -1] = 1.0
    return times


def attribute_direction(z: Tensor, labels: Tensor) -> Tensor:
    """The mean of codes with an attribute less the mean of those without it, shape ``(d,)``.

    Args:
        z: Codes, shape ``(N, d)``.
        labels: Which codes have it, bool or 0 and 1, shape ``(N,)``.

    Raises:
        ValueError: If every code or no code has it.

    References:
        Morrow and Chiu, section 6 (attribute manipulation).

    >>> attribute_direction(torch.tensor([[0.0, 1.0], [2.0, 1.0]]), torch.tensor([False, True]))
    tensor([2., 0.])
    """
    has = labels.bool()
    if has.all():
        raise ValueError("every code has this attribute, so it defines no direction")
    if not has.any():
        raise ValueError("no code has this attribute, so it defines no direction")
    return z[has].mean(0) - z[~has].mean(0)


class PrincipalDirections(NamedTuple):
    """Principal components of codes, in order of decreasing variance.

    Attributes:
        mean: The mean code, shape ``(d,)``.
        directions: Orthonormal rows, shape ``(k, d)``.
        deviations: The standard deviation of the codes along each, shape ``(k,)``.
    """

    mean: Tensor
    directions: Tensor
    deviations: Tensor

    def coefficients(self, z: Tensor) -> Tensor:
        """Codes ``(*batch, d)`` in units of the deviations, ``(*batch, k)``."""
        return (z - self.mean) @ self.directions.T / self.deviations

    def replace(self, z: Tensor, component: int, value: float | Tensor) -> Tensor:
        """Codes with one coefficient replaced, in units of its standard deviation; all else is kept.

        Args:
            z: Codes, shape ``(*batch, d)``.
            component: Which, from 0.
            value: A number, or one for each code, shape ``batch``.
        """
        target = torch.as_tensor(value, dtype=z.dtype, device=z.device)
        change = target - self.coefficients(z)[..., component]
        length = change * self.deviations[component]
        return z + length.unsqueeze(-1) * self.directions[component]


def principal_directions(z: Tensor, count: int | None = None) -> PrincipalDirections:
    """Principal component analysis of codes.

    Args:
        z: Codes, shape ``(N, d)``, at least two.
        count: How many components; all if None.

    Raises:
        ValueError: If there are fewer codes or dimensions than components.
    """
    from sklearn.decomposition import PCA

    most = min(z.shape)
    if not 1 <= (count or most) <= most or len(z) < 2:
        raise ValueError(f"expected 1 to {most} components of {len(z)} codes, got {count}")
    pca = PCA(count, svd_solver="full")
    pca.fit(z.detach().cpu().double().numpy())
    deviations = pca.explained_variance_**0.5
    return PrincipalDirections(
        torch.as_tensor(pca.mean_).to(z),
        torch.as_tensor(pca.components_).to(z),
        torch.as_tensor(deviations).to(z),
    )


def typicality(log_density: Tensor, reference: Tensor) -> Tensor:
    """The share of real codes that are less likely than each code.

    A code with a share below 0.01 has left the data. (The score ``typicality`` of
    :func:`pyro_lrp.metrics.outlier_scores` is another one: a distance in nats, on either side.)

    Args:
        log_density: log p(z) of the codes, shape ``batch``.
        reference: log p(z) of real codes, shape ``(N,)``; best of codes that the prior was not fitted to.

    >>> typicality(torch.tensor([-9.0, -2.5]), torch.tensor([-1.0, -2.0, -3.0, -4.0]))
    tensor([0.0000, 0.5000])
    """
    ranked = reference.sort().values
    return torch.searchsorted(ranked, log_density.contiguous()).to(log_density.dtype) / len(ranked)


def _column(a: Tensor, t: float | Tensor) -> Tensor:
    """Times as a column that broadcasts against codes."""
    t = torch.as_tensor(t, dtype=a.dtype, device=a.device)
    return t.expand(a.shape[:-1]).unsqueeze(-1)
