"""The number of CPU threads: small networks lose by more than one, above all beside other work."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from threadpoolctl import threadpool_limits

__all__ = ["Threads", "affordable", "limited", "settled", "use", "work_of"]

Threads = int | str | None
"""A number; ``"auto"``; or None for torch's own number."""

SMALL = 5e9
"""Floating-point operations of a minibatch's forward pass below which a step gets one thread.

One core needs about a third of a second for a training step of that size. Shorter operations gain little from a
second thread, and where another process holds its core, each of them waits for that thread.
"""


def affordable() -> int:
    """The number of cores that this process may use and that are idle, at least 1.

    ``OMP_NUM_THREADS`` and the like, as torch knows them, are an upper bound.
    """
    cores = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    busy = 0.0
    if hasattr(os, "getloadavg"):
        busy = os.getloadavg()[0]
    idle = cores - round(busy)
    return max(1, min(idle, torch.get_num_threads()))


def work_of(forward: Callable[[], object]) -> float:
    """The floating-point operations of the matrix products and convolutions of a function."""
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        forward()
    return counter.get_total_flops()


def settled(
    asked: Threads,
    begun_with: int | None,
    forward: Callable[[], object],
    log: Callable[[str], None],
) -> int:
    """The number of threads for a training.

    Args:
        asked: The number that was asked for.
        begun_with: The number that a resumed training was begun with, which ``"auto"`` keeps.
        forward: The forward pass of a minibatch, called for ``"auto"`` where there is a choice.
        log: Receives one line if the number changed.
    """
    if asked == "auto":
        if begun_with is not None:
            return begun_with
        idle = affordable()
        if idle == 1 or work_of(forward) < SMALL:
            return 1
        return idle
    threads = torch.get_num_threads() if asked is None else int(asked)
    if begun_with not in (None, threads):
        log(f"goes on with threads={threads}, begun with {begun_with}: results may differ in rounding")
    return threads


def use(threads: Threads) -> None:
    """Set the number of threads of a process that does not train: ``"auto"`` is the number of idle cores."""
    if threads is None:
        return
    if threads == "auto":
        threads = affordable()
    torch.set_num_threads(int(threads))


@contextmanager
def limited(threads: int) -> Iterator[None]:
    """Within the block, torch, NumPy and scikit-learn compute with that many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with threadpool_limits(threads):
            yield
    finally:
        torch.set_num_threads(before)
