"""Fitting a prior to codes from elsewhere within a given time."""

from __future__ import annotations

import importlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyro_lrp.core.errors import UserError
from pyro_lrp.core.randomness import untouched_generators
from pyro_lrp.fitting.codes import CodeSet, checked_codes
from pyro_lrp.fitting.contenders import Contender, candidates
from pyro_lrp.fitting.judge import CRITERION, Judge
from pyro_lrp.fitting.result import Fitted, Row, train_nll
from pyro_lrp.schedules import ConstantThenLinear
from pyro_lrp.trainer.devices import make_fabric
from pyro_lrp.trainer.threads import affordable, limited

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from torch import Tensor

__all__ = ["Contest", "chosen", "fit", "fit_one"]

_FOR_EM = 0.4  # share of the time
_SCREENING = 0.5  # share of what then remains, for all that learn by gradients


def fit(
    codes: Any,
    context: Any = None,
    prior: str | Sequence[str] = "auto",
    seconds: float = 60.0,
    *,
    held_out: Any = None,
    held_out_context: Any = None,
    seed: int = 0,
    device: str = "cpu",
    threads: int | None = None,
    config_dir: str | Path | None = None,
    allow_targets: Sequence[str] = (),
    log: Callable[[str], None] = lambda line: None,
) -> Fitted:
    """Fit a prior to codes of an autoencoder that was trained elsewhere, or to any other vectors.

    ``prior="auto"`` tries mixtures of growing size by EM, then flow matching and two flows by gradient descent,
    of which the worse half is left out after each round (successive halving: Jamieson and Talwalkar, 2016), and
    takes the one whose samples are nearest to codes that were held out; of several that are as near up to
    noise, the one with the greatest density of these codes. How far training comes in a time
    depends on the machine, so two calls give equal priors only if EM wins.

    Args:
        codes: A tensor or array of floats, ``(N, d)``, or maps ``(N, C, H, W)``, which are fitted as vectors.
        context: What the density is conditional on: numbers ``(N, context_dim)``, or class labels ``(N,)``.
        prior: ``"auto"``; the name of a prior of ``conf/prior``; or a list as it would be typed, such as
            ``["prior=mixture", "prior.components=50"]``.
        seconds: The time for learning and judging, in seconds.
        held_out: Codes to judge by; a tenth of ``codes``, at most 5,000, if None.
        held_out_context: Their contexts.
        seed: Of parameters, order and noise.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``.
        threads: Of the CPU; None for the idle cores.
        config_dir: A folder of configuration files of your own, for ``prior``.
        allow_targets: Modules of your own that these name.
        log: Receives a line for each prior that was tried.

    Returns:
        The prior, and the table of all that were tried.

    Raises:
        UserError: If the codes are none that a density can be fitted to, or the prior is unknown.

    >>> import torch
    >>> z = torch.randn(500, 2).cumsum(1)
    >>> fitted = fit(z, prior=["prior=mixture", "prior.components=2"], seconds=5)
    >>> fitted.sample(10).shape
    torch.Size([10, 2])
    """
    if not (isinstance(seconds, (int, float)) and math.isfinite(seconds) and seconds > 0):
        raise UserError(f"seconds: expected a number above 0, got {seconds}")
    checked = checked_codes(codes, context, held_out, held_out_context, seed)
    names = _names(prior, checked)
    fabric = make_fabric(device, "32")
    options = {"config_dir": config_dir, "allow_targets": allow_targets}
    with untouched_generators(), limited(threads or affordable()):
        judge = Judge(checked, fabric.device, seed, seconds)
        contest = Contest(checked, judge, seconds, log)
        contenders = contest.admitted(names, fabric, seed, options)
        best = contest.winner(contenders)
        rows = [*contest.refused, *(_row(contender) for contender in contenders)]
    best.prior.eval()
    return _fitted(best, checked, seed, rows, CRITERION)


def fit_one(
    codes: Tensor,
    prior: Sequence[str],
    seconds: float,
    *,
    context: Tensor,
    seed: int = 0,
    device: str = "cpu",
) -> Fitted:
    """Fit one prior to all of some codes, without held-out ones and without a judgement.

    Args:
        codes: Finite floats, ``(N, d)``.
        prior: The prior as it would be typed.
        seconds: The time for gradient descent, in seconds.
        context: Finite floats, ``(N, context_dim)``; of length 0 for an unconditional density.
        seed: Of parameters, order and noise.
        device: As for :func:`fit`.

    Raises:
        UserError: If the prior is unknown, or cannot be fitted to these codes.
    """
    none = codes[:0]
    checked = CodeSet(codes, none, context, context[:0], codes.shape[1:])
    fabric = make_fabric(device, "32")
    with untouched_generators(), limited(affordable()):
        contender = Contender(prior, checked, fabric, seed)
        contender.learn(seconds)
    contender.prior.eval()
    return _fitted(contender, checked, seed, [_row(contender)], "none: one prior alone")


def _fitted(best: Contender, codes: CodeSet, seed: int, table: Sequence[Row], criterion: str) -> Fitted:
    """What is returned."""
    fitted = Fitted(
        best.prior,
        tuple(best.overrides),
        best.identity,
        codes.shape,
        codes.context_dim,
        codes.classes,
        codes.fingerprint,
        seed,
        table,
        criterion,
    )
    return replace(fitted, train_nll=train_nll(fitted, codes))


def _names(prior: str | Sequence[str], codes: CodeSet) -> list[tuple[str, ...]]:
    """The priors to try, each as it would be typed."""
    if prior == "auto":
        return candidates(codes)
    if isinstance(prior, str):
        prior = [f"prior={prior}"]
    return [tuple(prior)]


class Contest:
    """The rounds in which priors learn and are judged, until the time is over.

    Args:
        codes: The codes.
        judge: Measures the distance of samples.
        seconds: The time for learning and judging, in seconds from when the contenders are there.
        log: Receives a line for each judgement.
    """

    def __init__(self, codes: CodeSet, judge: Judge, seconds: float, log: Callable[[str], None]) -> None:
        self.codes = codes
        self.judge = judge
        self.seconds = seconds
        self.stop = math.inf
        self.log = log
        self.refused: list[Row] = []

    def admitted(
        self, names: Sequence[Sequence[str]], fabric: Fabric, seed: int, options: Any
    ) -> list[Contender]:
        """The contenders of some names; a prior that is none of these codes is refused.

        Raises:
            UserError: If all are.
        """
        contenders = []
        for name in names:
            try:
                contenders.append(Contender(name, self.codes, fabric, seed, options))
            except UserError as error:
                if len(names) == 1:
                    raise
                fault = " ".join(str(error).split())
                self.refused.append(Row(" ".join(name), math.inf, 0.0, math.inf, 0.0, 0, 0, fault))
        return contenders

    @property
    def left(self) -> float:
        """Seconds."""
        return max(0.0, self.stop - time.perf_counter())

    def winner(self, contenders: Sequence[Contender]) -> Contender:
        """The contender with the nearest samples; of those that are as near up to noise, the likeliest.

        Raises:
            UserError: If none could be fitted.
        """
        importlib.import_module("sklearn.mixture")  # of EM; the first import takes a second
        self.stop = time.perf_counter() + self.seconds
        by_em = [contender for contender in contenders if contender.by_em]
        others = [contender for contender in contenders if not contender.by_em]
        self._em(by_em, self.left * (_FOR_EM if others else 1.0))
        self._halving(others)
        for contender in contenders:
            contender.restore()
        able = [contender for contender in contenders if math.isfinite(contender.distance)]
        if not able:
            raise UserError(f"no prior could be fitted: {contenders[0].fault}")
        for contender in able:
            contender.nll = self.judge.nll(contender.prior)
        return chosen(able)

    def _em(self, contenders: Sequence[Contender], seconds: float) -> None:
        """Mixtures, the smallest first, as many as the time allows."""
        stop = time.perf_counter() + seconds
        for contender in contenders:
            self._round(contender, stop - time.perf_counter())

    def _halving(self, contenders: Sequence[Contender]) -> None:
        """Rounds of equal time for all; the better half goes on, and the last one gets what time is left."""
        alive = [*contenders]
        rounds = math.ceil(math.log2(len(alive))) if alive else 0
        screening = self.left * _SCREENING
        while len(alive) > 1:
            share = screening / rounds / len(alive)
            for contender in alive:
                self._round(contender, share)
            alive = [contender for contender in alive if contender.fault is None]
            alive.sort(key=lambda contender: contender.distance)
            alive = alive[: max(1, math.ceil(len(alive) / 2))]
        for contender in alive:
            self._round(contender, self.left, ConstantThenLinear())

    def _round(self, contender: Contender, seconds: float, schedule: Any = None) -> None:
        """Let a contender learn, and judge it; one that fails leaves the contest."""
        try:
            contender.learn(seconds, schedule)
            distance, spread = self.judge.distance(contender.prior)
            contender.judged(distance, spread)
            if math.isinf(distance):
                raise UserError("samples are not finite")
        except (UserError, ValueError) as error:
            contender.fault = " ".join(str(error).split())
            self.log(f"{contender.name}: {contender.fault}")
            return
        self.log(f"{contender.name}: {distance:.4g} after {contender.seconds:.1f} s")


def chosen(contenders: Sequence[Contender]) -> Contender:
    """The likeliest of those whose distance is the smallest, up to two standard errors of the difference."""
    nearest = min(contenders, key=lambda contender: contender.distance)
    as_near = []
    for contender in contenders:
        error = math.hypot(contender.error, nearest.error)
        if contender.distance - nearest.distance <= 2 * error:
            as_near.append(contender)
    return min(as_near, key=lambda contender: contender.nll)


def _row(contender: Contender) -> Row:
    """The line of a contender in the table."""
    fault = contender.fault
    if math.isfinite(contender.distance):
        fault = None  # it failed later, and the parameters from before are taken
    return Row(
        contender.name,
        contender.distance,
        contender.error,
        contender.nll,
        contender.seconds,
        contender.steps,
        contender.parameters,
        fault,
    )
