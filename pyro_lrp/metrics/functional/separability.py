"""Linear separability: how well linear functions of a code predict what its image shows."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyro_lrp.metrics.functional.checks import check_finite, check_rows

__all__ = ["Separability", "conditional_entropy", "confident_half", "separability", "standardized"]


class Separability(NamedTuple):
    r"""Result of :func:`separability`.

    Attributes:
        score: :math:`\exp \sum_i H(Y_i|X_i)`: 1 if each attribute is predicted exactly, at most ``chance``.
        chance: :math:`\exp \sum_i H(Y_i)`: the score of codes without information.
        entropies: :math:`H(Y_i|X_i)` in nats, float64 of shape ``(A,)``.
        accuracies: Share of labels that the i-th machine predicts, likewise.
        single_class: Attributes with a single value, which count as predicted exactly.
        not_converged: Attributes whose solver stopped before the optimum.
    """

    score: float
    chance: float
    entropies: Tensor
    accuracies: Tensor
    single_class: tuple[int, ...]
    not_converged: tuple[int, ...]


def conditional_entropy(table: Tensor) -> float:
    """H(Y|X) = H(Y) - I(X;Y) in nats, at least 0.

    Args:
        table: Counts or probabilities of X (rows) and Y (columns), shape ``(values of X, values of Y)``.

    Raises:
        ValueError: If it is no table of finite numbers of at least 0 with a positive sum.

    >>> round(conditional_entropy(torch.tensor([[0.4, 0.1], [0.1, 0.4]])), 6)
    0.500402
    """
    p = torch.as_tensor(table, dtype=torch.float64)
    if p.dim() != 2 or not (p >= 0).all() or not 0 < p.sum() < math.inf:
        raise ValueError(f"expected a table of counts or probabilities, got {table}")
    p = p / p.sum()
    joint = torch.special.entr(p).sum()
    marginal = torch.special.entr(p.sum(1)).sum()
    return max(0.0, (joint - marginal).item())


def separability(
    latents: Tensor,
    labels: Tensor,
    keep: Tensor | None = None,
    *,
    max_iter: int = 1000,
    on_step: Callable[[int, int], None] = lambda done, total: None,
) -> Separability:
    r"""Linear separability of binary attributes, :math:`\exp \sum_i H(Y_i|X_i)`.

    For each attribute a linear support vector machine (scikit-learn's ``LinearSVC``: C = 1, squared hinge, L2,
    solved in the primal) is fitted to the labels :math:`Y_i` and predicts :math:`X_i` of the same codes.

    Args:
        latents: Codes, shape ``(N, d)``.
        labels: 0 or 1 for each code and attribute, shape ``(N, A)``.
        keep: Which codes count for which attribute, bool of shape ``(N, A)``; all if None.
        max_iter: The largest number of iterations of a solver.
        on_step: Called with the attributes done and all attributes.

    Raises:
        ValueError: If shapes do not fit, codes are not finite, labels are others than 0 and 1, or an attribute
            has no code that counts.

    References:
        Karras et al. (2019), A Style-Based Generator Architecture for GANs, section 4.2, arXiv:1812.04948.

    >>> z = torch.linspace(-1, 1, 100)[:, None]
    >>> separability(z, z > 0).score
    1.0
    """
    from sklearn.exceptions import ConvergenceWarning

    if keep is None:
        keep = torch.ones_like(labels, dtype=torch.bool)
    _check(latents, labels, keep)
    codes = latents.detach().cpu().double().numpy()
    targets = labels.detach().cpu().numpy().astype(np.int64)
    kept = keep.detach().cpu().numpy()
    total = targets.shape[1]

    def fitted(attribute: int) -> tuple[Tensor, bool]:
        rows = kept[:, attribute]
        return _joint_table(codes[rows], targets[rows, attribute], max_iter)

    tables = []
    not_converged = []
    with ThreadPoolExecutor(torch.get_num_threads()) as pool, warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # reported in the result
        for attribute, (table, converged) in enumerate(pool.map(fitted, range(total))):
            tables.append(table)
            if not converged:
                not_converged.append(attribute)
            on_step(attribute + 1, total)
    return _summary(torch.stack(tables), tuple(not_converged))


def confident_half(confidence: Tensor) -> Tensor:
    """The half of the rows with the largest values, column by column.

    For an odd number of rows it is the larger half; among equal values the first rows count.

    Args:
        confidence: Shape ``(N, A)``.

    Returns:
        Bool, shape ``(N, A)``.

    Raises:
        ValueError: If a value is NaN.

    >>> confident_half(torch.tensor([[0.1], [3.0], [0.2], [2.0]])).flatten().tolist()
    [False, True, False, True]
    """
    if confidence.isnan().any():
        raise ValueError("confidences are NaN: are there NaN images?")
    order = confidence.argsort(dim=0, descending=True, stable=True)
    half = order[: (len(order) + 1) // 2]
    none = torch.zeros_like(confidence, dtype=torch.bool)
    return none.scatter(0, half, True)


def standardized(codes: Tensor) -> Tensor:
    """Codes ``(N, d)`` with mean 0 and variance 1 in each dimension, in float64.

    Raises:
        ValueError: If there are none, or one is not finite.
    """
    check_rows(codes, "codes")
    from sklearn.preprocessing import StandardScaler

    scaled = StandardScaler().fit_transform(codes.double().numpy())
    return torch.from_numpy(scaled)


def _check(latents: Tensor, labels: Tensor, keep: Tensor) -> None:
    shapes = [tuple(t.shape) for t in (latents, labels, keep)]
    matrices = latents.dim() == labels.dim() == 2
    if not matrices or len(latents) != len(labels) or keep.shape != labels.shape:
        raise ValueError(f"expected latents (N, d), labels (N, A) and keep (N, A), got {shapes}")
    check_finite(latents, "latents")
    if not ((labels == 0) | (labels == 1)).all():
        raise ValueError("expected labels of 0 and 1")
    if not labels.shape[1] or not keep.any(0).all():
        raise ValueError("expected at least one code that is kept for each attribute")


def _joint_table(codes: np.ndarray, targets: np.ndarray, max_iter: int) -> tuple[Tensor, bool]:
    """Counts of predictions (rows) and targets (columns), and whether the solver converged."""
    from sklearn.svm import LinearSVC

    predicted = targets  # a single value needs no fit: the prediction counts as exact
    converged = True
    if targets.min() != targets.max():
        machine = LinearSVC(dual=False, max_iter=max_iter, random_state=0)
        machine.fit(codes, targets)
        predicted = machine.predict(codes)
        converged = bool(machine.n_iter_ < max_iter)
    counts = np.bincount(2 * predicted + targets, minlength=4)
    return torch.from_numpy(counts.reshape(2, 2)).double(), converged


def _summary(tables: Tensor, not_converged: tuple[int, ...]) -> Separability:
    """The result from tables of counts, shape ``(A, 2, 2)``."""
    totals = tables.sum((1, 2))
    entropies = [conditional_entropy(table) for table in tables]
    conditional = torch.tensor(entropies, dtype=torch.float64)
    shares = tables.sum(1) / totals[:, None]
    single = (shares == 1).any(1).nonzero().flatten()
    correct = tables.diagonal(dim1=1, dim2=2).sum(1)
    return Separability(
        score=conditional.sum().exp().item(),
        chance=torch.special.entr(shares).sum().exp().item(),
        entropies=conditional,
        accuracies=correct / totals,
        single_class=tuple(single.tolist()),
        not_converged=not_converged,
    )
