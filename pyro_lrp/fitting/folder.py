"""Folders of priors that were fitted to codes, as commands use them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyro
import torch
from torch import Tensor

from pyro_lrp.config.build import build_prior
from pyro_lrp.config.evaluating import evaluate_into, refuse_incomplete, results_file
from pyro_lrp.config.kinds import PRIOR_FILE
from pyro_lrp.config.memory import recall, remember
from pyro_lrp.core.errors import UserError
from pyro_lrp.core.modules import eval_mode
from pyro_lrp.fitting.codes import CodeSet, checked_codes
from pyro_lrp.fitting.files import read_codes, read_context
from pyro_lrp.fitting.metrics import METRICS, CodeSubject
from pyro_lrp.fitting.result import Fitted, load, remembered_as
from pyro_lrp.metrics.evaluation import known_metrics
from pyro_lrp.priors import Prior
from pyro_lrp.trainer.devices import choose_device

__all__ = ["PLACES", "builder", "contexts", "evaluate_folder", "opened", "remember_codes"]

PLACES = ("codes", "context", "held_out")
"""Options that name the files that a prior was fitted to."""


def opened(options: Mapping[str, Any]) -> Fitted:
    """The prior of the folder ``run``, on ``device``."""
    fitted = load(options["run"], options["allow_targets"])
    fitted.prior.to(choose_device(options["device"]))
    return fitted


def remember_codes(fitted: Fitted, places: Mapping[str, str], allow_targets: Sequence[str]) -> None:
    """Keep for this user where the codes of a prior are, and what it was allowed to build."""
    files = {key: places[key] for key in PLACES if key in places}
    remember(remembered_as(fitted.identity, fitted.fingerprint), files, allow_targets)


def contexts(fitted: Fitted, wanted: Any, n: int) -> Tensor | None:
    """``n`` contexts from the value of an option ``context``, in turn; None of a prior that takes none.

    Args:
        fitted: The prior.
        wanted: A class label or a list of them; numbers, for all; or a file of either.
        n: How many.

    Raises:
        UserError: If it is no context of this prior.
    """
    if wanted is None and not fitted.context_dim:
        return None
    if not fitted.context_dim:
        raise UserError("context has no effect: this prior takes none")
    if wanted is None:
        such = f"numbers, {fitted.context_dim} of them"
        if fitted.classes:
            such = f"a class from 0 to {fitted.classes - 1}, or a list of them"
        raise UserError(f"context: this prior is conditional: say {such}, or a file")
    if isinstance(wanted, str):
        wanted = read_context(wanted)
    try:
        c = torch.as_tensor(wanted)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"context: expected numbers, got {wanted}") from error
    of_all = c.dim() == 1 and not fitted.classes
    if c.dim() and not of_all:
        c = c[torch.arange(n) % len(c)]
    return fitted.contexts(c, n)


def evaluate_folder(
    options: Mapping[str, Any], *, log: Callable[[str], None] = lambda line: None
) -> dict[str, Any]:
    """Evaluate the prior of a folder on the codes that it was fitted to; results join its ``evaluation.json``.

    Args:
        options: Those of the command ``evaluate``.
        log: Receives a line if the codes are others.

    Returns:
        The results that were asked for.

    Raises:
        UserError: If the codes are not found, are others, or a metric has no result.
    """
    names = known_metrics(options["metrics"], "metrics", METRICS)
    by_itself = names == "auto"
    if by_itself:
        names = [*METRICS]
    if options["k"] is not None:
        raise UserError("k has no effect on metrics of codes")
    fitted = opened(options)
    codes = _codes_of(fitted, options, log)
    subject = CodeSubject(fitted, codes, seed=options["seed"], n=options["n"], quick=by_itself)
    directory = Path(options["run"]).expanduser()
    if directory.is_file():
        directory = directory.parent
    content = (directory / PRIOR_FILE).read_bytes()
    stamp = {"prior": hashlib.sha256(content).hexdigest()[:16], "codes": codes.fingerprint}
    with eval_mode(fitted.prior), pyro.validation_enabled(False):
        evaluation = evaluate_into(
            results_file(directory, options["out"]),
            subject,
            names,
            stamp,
            {},
            progress=options["progress"],
            overwrite=options["overwrite"],
            metrics=METRICS,
        )
    refuse_incomplete(evaluation, {}, "metrics", by_itself=by_itself)
    return evaluation.shown


def _codes_of(fitted: Fitted, options: Mapping[str, Any], log: Callable[[str], None]) -> CodeSet:
    """The codes that a prior was fitted to: of the files that were typed, or of those that are remembered."""
    folder = options["run"]
    places = {key: options[key] for key in PLACES if options[key] is not None}
    if "codes" not in places:
        memory = recall(remembered_as(fitted.identity, fitted.fingerprint))
        places = {**memory.places, **places}
    if "codes" not in places:
        raise UserError(f"codes=FILE must say where the codes are that {folder} was fitted to")
    codes = checked_codes(*read_codes(places), seed=fitted.seed)
    if codes.shape != fitted.shape or codes.context_dim != fitted.context_dim:
        raise UserError(
            f"codes: {folder} is a prior of codes of shape {tuple(fitted.shape)} with {fitted.context_dim} "
            f"numbers of context, and {places['codes']} holds {tuple(codes.shape)} with {codes.context_dim}"
        )
    if codes.fingerprint != fitted.fingerprint:
        if not options["other_data"]:
            raise UserError(
                f"codes={places['codes']} are not those that {folder} was fitted to, with the same context and "
                "held_out: say where these are, or other_data=true to go on with others"
            )
        log(f"codes: {places['codes']} holds other codes than those that the prior was fitted to")
    return codes


def builder(fitted: Fitted, allow_targets: Sequence[str] = ()) -> Callable[[int], Prior]:
    """A function that builds an untrained prior of the same configuration, given a seed."""
    allowed = [*allow_targets, *recall(remembered_as(fitted.identity, fitted.fingerprint)).allow_targets]

    def build(seed: int) -> Prior:
        return build_prior({**fitted.identity, "seed": seed}, fitted.context_dim, allowed)

    return build
