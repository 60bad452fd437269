"""A prior that was fitted to codes, with the table of those that were tried."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pyro
import torch
from torch import Tensor
from torch.nn import functional

from pyro_lrp.config.build import build_prior
from pyro_lrp.config.kinds import PRIOR_FILE
from pyro_lrp.config.memory import recall
from pyro_lrp.core import checkpoint
from pyro_lrp.core.errors import UserError
from pyro_lrp.core.modules import eval_mode
from pyro_lrp.priors import Prior

__all__ = ["Fitted", "Row", "load", "remembered_as"]

_AT_ONCE = 1000  # codes
_INFINITE = "infinite"  # which JSON has no number for


class Row(NamedTuple):
    """What came of one prior.

    Attributes:
        prior: The prior, as it would be typed.
        distance: The criterion, the smaller the better; infinite if it was not judged.
        error: Its standard error.
        nll: -log p(z) of held-out codes, in nats; infinite if it was not judged.
        seconds: Spent on learning.
        steps: Of gradient descent.
        parameters: That learn.
        fault: Why it could not be fitted; None if it could.
    """

    prior: str
    distance: float
    error: float
    nll: float
    seconds: float
    steps: int
    parameters: int
    fault: str | None


@dataclass(frozen=True)
class Fitted:
    """The density of codes that was fitted.

    Attributes:
        prior: The prior, in eval mode; its codes are vectors.
        overrides: How it would be typed, such as ``("prior=mixture", "prior.components=30")``.
        identity: The configuration that builds it.
        shape: Shape of one code as it was given.
        context_dim: Length of a context; 0 if there is none.
        classes: Number of classes, if contexts are class labels; else 0.
        fingerprint: 16 hexadecimal digits that depend on the codes.
        seed: Of the fit.
        table: All priors that were tried.
        criterion: By which they were compared.
    """

    prior: Prior
    overrides: tuple[str, ...]
    identity: dict[str, Any]
    shape: torch.Size
    context_dim: int
    classes: int
    fingerprint: str
    seed: int
    table: Sequence[Row]
    criterion: str

    @torch.no_grad()
    def sample(self, n: int, context: Any = None, temperature: float = 1.0) -> Tensor:
        """Draw codes, ``(n, *shape)``.

        Args:
            n: Their number.
            context: The contexts, ``(n, context_dim)``, or one for all, ``(context_dim,)``. Of a prior that was
                fitted to class labels also labels, ``(n,)``, or one for all, as whole numbers.
            temperature: Factor of the standard deviation of the prior's base.
        """
        c = self.contexts(context, n)
        parts = []
        with eval_mode(self.prior), pyro.validation_enabled(False):
            for part in c.split(_AT_ONCE):
                parts.append(self.prior(part, temperature=temperature).sample())
        return torch.cat(parts).reshape(n, *self.shape)

    @torch.no_grad()
    def log_prob(self, codes: Tensor, context: Any = None) -> Tensor:
        """Log p(z) of codes ``(N, *shape)`` in nats, shape ``(N,)``."""
        if codes.shape[1:] != self.shape:
            raise ValueError(f"expected codes of shape {tuple(self.shape)}, got {tuple(codes.shape[1:])}")
        flat = codes.flatten(1).to(self.device, torch.float32)
        c = self.contexts(context, len(flat))
        parts = []
        with eval_mode(self.prior), pyro.validation_enabled(False):
            for z, part in zip(flat.split(_AT_ONCE), c.split(_AT_ONCE), strict=True):
                parts.append(self.prior(part).log_prob(z))
        return torch.cat(parts)

    def save(self, folder: str | Path) -> Path:
        """Write the prior and the table to ``FOLDER/prior.safetensors``, which :func:`load` reads.

        Returns:
            The file.
        """
        path = Path(folder).expanduser() / PRIOR_FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = [[_INFINITE if value == math.inf else value for value in row] for row in self.table]
        tree = {
            "overrides": [*self.overrides], "identity": self.identity, "shape": [*self.shape],
            "context_dim": self.context_dim, "classes": self.classes, "fingerprint": self.fingerprint,
            "seed": self.seed, "table": rows, "criterion": self.criterion,
        }  # fmt: skip
        checkpoint.save(path, {"fit": tree, "prior": self.prior.state_dict()})
        return path

    def __str__(self) -> str:
        """The table, the best first, and what was chosen."""
        rows = sorted(self.table, key=lambda row: row.distance)
        width = max(len(row.prior) for row in rows)
        lines = [f"{'prior':<{width}}  distance  (error)  -log p(z)  seconds   steps  parameters"]
        for row in rows:
            if row.fault is not None:
                lines.append(f"{row.prior:<{width}}  {row.fault}")
                continue
            numbers = f"{row.distance:8.4f}  {row.error:7.4f}  {row.nll:9.2f}  {row.seconds:7.1f}"
            lines.append(f"{row.prior:<{width}}  {numbers}  {row.steps:6d}  {row.parameters:10,d}")
        lines.append(f"distance: {self.criterion}")
        lines.append(f"chosen: {' '.join(self.overrides)}")
        return "\n".join(lines)

    @property
    def device(self) -> torch.device:
        """Where the prior is."""
        return next(self.prior.parameters(), torch.zeros(())).device

    def contexts(self, context: Any, n: int) -> Tensor:
        """The contexts of ``n`` codes, ``(n, context_dim)``, as :meth:`sample` takes them.

        Raises:
            UserError: If there are too few, or they have another length.
        """
        if context is None and self.context_dim:
            raise UserError(f"context: expected one of {self.context_dim} numbers for each code")
        if context is None:
            return torch.zeros(n, 0, device=self.device)
        c = torch.as_tensor(context, device=self.device)
        if self.classes and c.dim() < 2 and not c.is_floating_point():
            c = self._one_hot(c)
        try:
            return c.float().expand(n, self.context_dim)
        except RuntimeError as error:
            raise UserError(
                f"context: expected {self.context_dim} numbers for each of {n} codes, got {tuple(c.shape)}"
            ) from error

    def _one_hot(self, labels: Tensor) -> Tensor:
        """Class labels as contexts."""
        known = (labels >= 0) & (labels < self.classes)
        if not known.all():
            raise UserError(f"context: expected class labels from 0 to {self.classes - 1}")
        return functional.one_hot(labels.long(), self.classes)


def load(folder: str | Path, allow_targets: Sequence[str] = ()) -> Fitted:
    """The prior that :meth:`Fitted.save` wrote, on the CPU.

    Args:
        folder: The folder, or the file in it.
        allow_targets: Modules of your own that its configuration may name. What you allowed when you fitted it
            by the command is remembered.

    Raises:
        UserError: If there is none, it is damaged, or its configuration names a target that is not allowed.
    """
    path = Path(folder).expanduser()
    if path.is_dir():
        path = path / PRIOR_FILE
    content = checkpoint.load(path)
    try:
        tree = content["fit"]
        identity = dict(tree["identity"])
        rows = [Row(*map(_finite_or_not, row)) for row in tree["table"]]
        shape = torch.Size(tree["shape"])
        context_dim = int(tree["context_dim"])
        classes = int(tree["classes"])
        fingerprint = str(tree["fingerprint"])
        overrides = tuple(tree["overrides"])
        seed = int(tree["seed"])
        criterion = str(tree["criterion"])
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise UserError(f"{path} is no prior that was fitted to codes") from error
    allowed = [*allow_targets, *recall(remembered_as(identity, fingerprint)).allow_targets]
    prior = build_prior(identity, context_dim, allowed)
    checkpoint.load_into(prior, content["prior"], path)
    return Fitted(
        prior.eval(), overrides, identity, shape, context_dim, classes, fingerprint, seed, rows, criterion
    )


def remembered_as(identity: dict[str, Any], fingerprint: str) -> dict[str, Any]:
    """What tells a prior and its codes from others, where the user's places are remembered."""
    return {**identity, "codes": fingerprint}


def _finite_or_not(value: Any) -> Any:
    """An entry of a row that was saved."""
    if value == _INFINITE:
        return math.inf
    return value
