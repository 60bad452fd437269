"""A prior that was fitted to codes, with the table of those that were tried."""

from __future__ import annotations

import math
import time
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
from pyro_lrp.core.randomness import seeded, some_rows
from pyro_lrp.fitting.codes import CodeSet
from pyro_lrp.priors import Prior

__all__ = ["SCORES", "Fitted", "Row", "load", "remembered_as", "train_nll"]

SCORES = ("prior", "typicality")  # of outliers
_AT_ONCE = 1000  # codes
_TYPICAL = 2000  # training codes whose mean density is kept, at most
_AT_LEAST = 200
_SECONDS = 2.0  # after which no further ones are scored: some priors solve an equation for each
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
        train_nll: Mean of -log p(z) over training codes, 2,000 or fewer of them, in nats; None in a prior from
            a file of an earlier version.
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
    train_nll: float | None = None

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

    def outlier_score(self, codes: Tensor, context: Any = None, score: str = "prior") -> Tensor:
        """How outlying codes are, in nats, shape ``(N,)``; **larger scores are more outlying**.

        Args:
            codes: Shape ``(N, *shape)``.
            context: Their contexts.
            score: ``"prior"``: -log p(z). ``"typicality"``: how far -log p(z) lies from its mean over the
                training codes, so that codes which are too likely are outlying too (Nalisnick et al., 2019).

        Raises:
            UserError: If the score is unknown, or the prior comes from a file that does not have that mean.
        """
        if score not in SCORES:
            raise UserError(f"score: {score} is unknown; the known ones are: {', '.join(SCORES)}")
        nll = -self.log_prob(codes, context)
        if score == "prior":
            return nll
        if self.train_nll is None:
            raise UserError("score: typicality needs a prior that this version fitted: fit it again")
        return (nll - self.train_nll).abs()

    def save(self, folder: str | Path) -> Path:
        """Write the prior and the table to ``FOLDER/prior.safetensors``, which :func:`load` reads.

        Returns:
            The file.
        """
        path = Path(folder).expanduser() / PRIOR_FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = [[_stored(value) for value in row] for row in self.table]
        tree = {
            "overrides": [*self.overrides], "identity": self.identity, "shape": [*self.shape],
            "context_dim": self.context_dim, "classes": self.classes, "fingerprint": self.fingerprint,
            "seed": self.seed, "table": rows, "criterion": self.criterion, "train_nll": _stored(self.train_nll),
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


def train_nll(fitted: Fitted, codes: CodeSet) -> float:
    """The mean of -log p(z) over some of the codes that a prior was fitted to, in nats."""
    start = time.perf_counter()
    rows = some_rows(len(codes.train), _TYPICAL, "fit", "typical", seed=fitted.seed)
    parts = []
    with seeded(fitted.seed, "fit", "typical"):
        for some in rows.split(_AT_LEAST):
            z = codes.train[some].reshape(-1, *codes.shape)
            parts.append(fitted.log_prob(z, codes.context[some]).double())
            if time.perf_counter() - start > _SECONDS:
                break
    return -torch.cat(parts).mean().item()


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
        nll = _finite_or_not(tree.get("train_nll"))
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise UserError(f"{path} is no prior that was fitted to codes") from error
    allowed = [*allow_targets, *recall(remembered_as(identity, fingerprint)).allow_targets]
    prior = build_prior(identity, context_dim, allowed)
    checkpoint.load_into(prior, content["prior"], path)
    return Fitted(
        prior.eval(), overrides, identity, shape, context_dim, classes, fingerprint, seed, rows, criterion, nll
    )


def remembered_as(identity: dict[str, Any], fingerprint: str) -> dict[str, Any]:
    """What tells a prior and its codes from others, where the user's places are remembered."""
    return {**identity, "codes": fingerprint}


def _stored(value: Any) -> Any:
    """An entry of a row as JSON can hold it."""
    if value == math.inf:
        return _INFINITE
    return value


def _finite_or_not(value: Any) -> Any:
    """An entry of a row that was saved."""
    if value == _INFINITE:
        return math.inf
    return value
