"""What a score is computed from: enough rows of finite numbers, or a sentence."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_lrp.core.errors import UserError

__all__ = ["check_finite", "check_pair", "check_rows"]


def check_finite(values: Tensor, what: str) -> None:
    """Refuse values that are not finite: comparisons and sorting would make a plausible score of them.

    Args:
        values: Any shape; the first dimension is counted.
        what: What they are, in the plural, for the error.

    Raises:
        UserError: Has the number of rows.
    """
    finite = torch.isfinite(values)
    if finite.all():
        return
    rows = finite.reshape(len(values), -1).all(1)
    bad = len(rows) - int(rows.sum())
    raise UserError(f"{what} are not finite in {bad} of {len(rows)} rows: are there NaN images or codes?")


def check_rows(x: Tensor, what: str, least: int = 1) -> None:
    """Refuse what is no matrix of at least ``least`` rows of finite numbers.

    Args:
        x: Shape ``(n, d)``.
        what: What the rows are, in the plural, for the error.
        least: The smallest number of rows.

    Raises:
        UserError: Says which of these it is.
    """
    if x.dim() != 2 or x.shape[1] == 0:
        raise UserError(f"expected {what} of shape (n, d), got {tuple(x.shape)}")
    if len(x) < least:
        raise UserError(f"expected {what} of at least {least} images or points, got {len(x)}")
    check_finite(x, what)


def check_pair(x: Tensor, y: Tensor, what: str, least: int = 1) -> None:
    """:func:`check_rows` for two sets of rows of the same length.

    Args:
        x: Shape ``(n, d)``.
        y: Shape ``(m, d)``.
        what: What the rows are, in the plural, for the error.
        least: The smallest number of rows of either.

    Raises:
        UserError: Says what is wrong.
    """
    check_rows(x, what, least)
    check_rows(y, what, least)
    if x.shape[1] != y.shape[1]:
        raise UserError(
            f"expected two samples of {what} of one length, got {tuple(x.shape)} and {tuple(y.shape)}"
        )
