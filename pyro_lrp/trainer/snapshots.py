"""The state of a training between two steps, as checkpoints hold it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pyro_lrp.core import checkpoint
from pyro_lrp.core.errors import UserError
from pyro_lrp.trainer.layouts import match_moments
from pyro_lrp.trainer.phases import Span
from pyro_lrp.trainer.saving import Saver

if TYPE_CHECKING:
    from pyro_lrp.trainer.loop import Trainer

__all__ = ["last", "position", "restore", "take"]


def take(trainer: Trainer) -> dict[str, Any]:
    """The state of a training."""
    moments = {name: o.state_dict()["state"] for name, o in trainer.optimizers.items()}
    state = {
        "step": trainer.step,
        "phases": _lengths(trainer.spans),
        "threads": trainer.threads,
        "window": trainer.window.state(),
        "game": trainer.game.state_dict(),
        "optimizers": moments,
    }
    prior = trainer.prior_only.state() if trainer.prior_only else {}
    if prior:
        state["prior"] = {**prior, "stopped": trainer.stopped}
    return state


def last(saver: Saver) -> dict[str, Any]:
    """The state that was saved last; empty if there is none.

    Raises:
        UserError: If the checkpoint is damaged.
    """
    path = saver.latest()
    if path is None:
        return {}
    return checkpoint.load_to_resume(path)


def restore(trainer: Trainer, state: Mapping[str, Any]) -> None:
    """Set a training to a state, of which the phases may have been shorter.

    Raises:
        UserError: If it is of another architecture, past the last step, or without the optimizers' state.
    """
    path = trainer.saver.latest()
    if "optimizers" not in state:
        raise UserError(
            f"checkpoint {path} was exported, without the state of the optimizers: it can be sampled and "
            "evaluated, not trained on; overwrite=true starts anew"
        )
    checkpoint.load_into(trainer.game, state.get("game", {}), str(path))
    for name, optimizer in trainer.optimizers.items():
        whole = optimizer.state_dict()
        moments = state["optimizers"][name]
        whole["state"] = {int(index): values for index, values in moments.items()}
        optimizer.load_state_dict(whole)
        match_moments(optimizer)

    trainer.step = position(trainer.spans, state)
    total = trainer.total_steps
    if trainer.step > total:
        raise UserError(f"checkpoint {path} is at step {trainer.step}, past the {total} asked for")
    if trainer.step == state["step"]:
        trainer.prior_state = state.get("prior", {})
        trainer.stopped = trainer.prior_state.get("stopped", False)
        trainer.window.load(state.get("window", {}), trainer.fabric.device)
    trainer.log(f"resumes at step {trainer.step} of {total}, from {path and path.name}")


def position(spans: Sequence[Span], state: Mapping[str, Any]) -> int:
    """The step at which training goes on from a state.

    Args:
        spans: The phases.
        state: Its ``step``, and the names and lengths of its ``phases``, which may be shorter.

    Returns:
        The step of the state if its phases were the same; else the first step that is left of the first phase
        that the state had not completed, by its present length. A phase that the state did not have is one
        that it had not begun.
    """
    step = state["step"]
    phases = state.get("phases", _lengths(spans))
    former = dict(phases)
    still_there = [span.name for span in spans if span.name in former]
    if phases == _lengths(spans) or still_there != [*former]:
        return step
    start = 0
    for span in spans:
        length = former.get(span.name, 0)
        done = min(max(step - start, 0), length)
        present = span.stop - span.start
        if present < length:
            return step
        if done < present:
            return span.start + done
        start += length
    return spans[-1].stop


def _lengths(spans: Sequence[Span]) -> list[list[Any]]:
    """The name and the number of steps of each phase."""
    return [[span.name, span.stop - span.start] for span in spans]
