"""Codes from elsewhere: what is accepted, and what a mistake in them is called."""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyro_lrp.core.errors import UserError
from pyro_lrp.core.randomness import some_rows
from pyro_lrp.models import Codes

__all__ = ["CodeSet", "checked_codes"]

FEWEST = 40  # codes; half of them may be held out
_SHARE = 0.1  # of the codes that is held out
_MOST_HELD_OUT = 5000
_MOST_CLASSES = 10_000  # each of which makes a context longer by one
_AT_ONCE = 1000  # codes that are read at once


class CodeSet(NamedTuple):
    """Codes to fit to, and codes to judge by.

    Attributes:
        train: Shape ``(N, d)``, float32, on the CPU.
        held_out: Shape ``(M, d)``.
        context: Contexts of the training codes, shape ``(N, context_dim)``; of length 0 if there are none.
        held_out_context: Contexts of the held-out codes.
        shape: Shape of one code as it was given, ``(d,)`` or ``(C, H, W)``.
        classes: Number of classes, if contexts are class labels; 0 if they are numbers, or there are none.
    """

    train: Tensor
    held_out: Tensor
    context: Tensor
    held_out_context: Tensor
    shape: torch.Size
    classes: int = 0

    @property
    def dim(self) -> int:
        """The length of a code."""
        return self.train.shape[1]

    @property
    def context_dim(self) -> int:
        """The length of a context."""
        return self.context.shape[1]

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that depend on all codes and contexts, and on which are held out."""
        digest = hashlib.sha256(repr((self.shape, self.classes)).encode())
        for part in (self.train, self.held_out, self.context, self.held_out_context):
            for rows in part.split(_AT_ONCE):
                digest.update(rows.contiguous().numpy().data)
        return digest.hexdigest()[:16]

    def codes(self, device: torch.device) -> Codes:
        """The training codes as posteriors without noise."""
        loc = self.train.to(device)
        no_noise = torch.zeros((), device=device).expand_as(loc)  # of no size, whatever the number of codes
        return Codes(loc, no_noise, self.context.to(device))


def checked_codes(
    codes: Any,
    context: Any = None,
    held_out: Any = None,
    held_out_context: Any = None,
    seed: int = 0,
) -> CodeSet:
    """Check codes, and hold out a tenth of them (20 to 5,000) if none are given.

    Args:
        codes: A tensor or array of floats, ``(N, d)`` or ``(N, C, H, W)``.
        context: Numbers that the density is conditional on, ``(N, context_dim)``; or class labels, ``(N,)``,
            whole numbers from 0, which become one-hot vectors.
        held_out: Further codes, to judge by.
        held_out_context: Their contexts.
        seed: Chooses the codes that are held out.

    Raises:
        UserError: If they are no codes that a density can be fitted to; the sentence says what to do.

    >>> checked_codes(torch.randn(1000, 3)).train.shape
    torch.Size([900, 3])
    """
    z = _floats(codes, "codes")
    shape = z.shape[1:]
    _check_size(z)
    flat = z.flatten(1)
    _check_values(flat, "codes")
    _check_spread(flat)
    classes = None
    if context is not None and _array(context).ndim == 1:
        classes = 1 + max(_largest(context), _largest(held_out_context))
        if classes > _MOST_CLASSES:
            raise UserError(
                f"context: the largest class label is {classes - 1}, and there may be {_MOST_CLASSES:,} "
                "classes: number those that occur from 0"
            )
    c = _contexts(context, len(z), classes, "context")
    if held_out is None:
        order = some_rows(len(z), len(z), "fit", "held out", seed=seed)
        count = min(_MOST_HELD_OUT, max(FEWEST // 2, round(_SHARE * len(z))))
        other, own = order[:count], order[count:]
        return CodeSet(flat[own], flat[other], c[own], c[other], shape, classes or 0)
    further = _floats(held_out, "held_out")
    if further.shape[1:] != shape:
        raise UserError(f"held_out: expected codes of shape {tuple(shape)}, got {tuple(further.shape[1:])}")
    if len(further) < FEWEST // 2:
        raise UserError(f"held_out: expected {FEWEST // 2} codes at least, got {len(further)}")
    _check_values(further.flatten(1), "held_out")
    if (held_out_context is None) != (context is None):
        raise UserError("context and held_out_context: give both or neither")
    further_context = _contexts(held_out_context, len(further), classes, "held_out_context")
    return CodeSet(flat, further.flatten(1), c, further_context, shape, classes or 0)


def _floats(values: Any, name: str) -> Tensor:
    """A float32 tensor of codes on the CPU."""
    if not isinstance(values, Tensor):
        values = np.asarray(values)
        if values.dtype.kind not in "fiub":
            raise UserError(f"{name}: expected an array of floats, got one of {values.dtype}")
        values = torch.from_numpy(np.ascontiguousarray(values))
    if not values.is_floating_point():
        raise UserError(
            f"{name}: expected floats, got {values.dtype}: a prior is a density of continuous codes; convert "
            "them to float32 if they are such"
        )
    if values.dim() not in (2, 4):
        shape = tuple(values.shape)
        raise UserError(f"{name}: expected a code in each row, (N, d) or (N, C, H, W), got an array {shape}")
    return values.detach().to("cpu", torch.float32)


def _array(values: Any) -> np.ndarray:
    if isinstance(values, Tensor):
        values = values.detach().cpu().numpy()
    return np.asarray(values)


def _check_size(z: Tensor) -> None:
    n = len(z)
    d = z[0].numel() if n else 0
    if n < FEWEST:
        raise UserError(f"codes: expected {FEWEST} at least, got {n}")
    if d < 1:
        raise UserError("codes: expected at least one dimension, got none")
    if z.dim() == 2 and n < d:
        raise UserError(
            f"codes: {n} codes of {d} dimensions are fewer than their dimensions; transpose them if a code is "
            "a column"
        )


def _check_values(flat: Tensor, name: str) -> None:
    bad = (~torch.isfinite(flat)).any(1).nonzero().flatten()
    if len(bad):
        rows = ", ".join(str(row) for row in bad[:5].tolist())
        more = ", ..." if len(bad) > 5 else ""
        raise UserError(f"{name}: {len(bad)} of {len(flat)} are not finite: rows {rows}{more}")


def _check_spread(flat: Tensor) -> None:
    constant = (flat.max(0).values == flat.min(0).values).nonzero().flatten()
    if len(constant):
        named = ", ".join(str(number) for number in constant[:5].tolist())
        more = ", ..." if len(constant) > 5 else ""
        raise UserError(
            f"codes: {len(constant)} of {flat.shape[1]} dimensions never change: {named}{more}; they have no "
            "density, so leave them out"
        )


def _largest(labels: Any) -> int:
    """The largest class label; -1 if there are none."""
    if labels is None:
        return -1
    values = _array(labels)
    if values.ndim != 1 or values.dtype.kind not in "iu" or (values.size and values.min() < 0):
        raise UserError("context: expected class labels (whole numbers from 0) or a row of floats per code")
    return int(values.max(initial=-1))


def _contexts(context: Any, n: int, classes: int | None, name: str) -> Tensor:
    """Contexts as float32, one-hot for class labels; of length 0 if there are none."""
    if context is None:
        return torch.zeros(n, 0)
    if len(context) != n:
        raise UserError(f"{name}: expected one for each of {n} codes, got {len(context)}")
    if classes is not None:
        labels = torch.from_numpy(_array(context)).long()
        return torch.nn.functional.one_hot(labels, classes).float()
    values = _array(context)
    if values.ndim != 2 or values.dtype.kind not in "fiub":
        raise UserError(f"{name}: expected numbers (N, context_dim) or class labels (N,), got {values.shape}")
    c = torch.from_numpy(np.ascontiguousarray(values)).float()
    _check_values(c, name)
    return c
