"""Devices, precision and processes, by Lightning Fabric."""

from __future__ import annotations

import atexit
import logging
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from pyro_lrp.core.errors import UserError

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = ["check_shares", "choose_device", "make_fabric", "matrix_products"]

_DEVICES = ("auto", "cpu", "cuda", "mps")
_BY_NVML = "PYTORCH_NVML_BASED_CUDA_CHECK"
_PATIENCE = 10.0  # seconds that a process has to end by itself
_PRECISIONS = ("32", "tf32", "bf16-mixed")


def make_fabric(device: str, precision: str, devices: int = 1, nodes: int = 1) -> Fabric:
    """A Fabric on one device, or launched on several.

    Where neither ``torchrun`` nor Slurm started this process, the others of this machine are started here: they
    run the same command, or the same script.

    Args:
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``.
        precision: ``"32"``; ``"tf32"``, of which :func:`matrix_products` is the other half; or
            ``"bf16-mixed"``.
        devices: Processes on this machine, each with a device of its own; on the CPU each is one process.
        nodes: Machines. Under ``torchrun`` both are as it says.

    Raises:
        UserError: If one is unknown, or the device is not here.
    """
    kind: Any = "bf16-mixed"
    chosen = choose_device(device)
    if precision not in _PRECISIONS:
        raise UserError(f"precision must be 32, tf32 or bf16-mixed, got {precision!r}")
    if precision == "tf32" and chosen.type != "cuda":
        raise UserError(f"precision=tf32 needs a CUDA device, and this is {chosen.type}")
    if precision != "bf16-mixed":
        kind = "32-true"
    devices, nodes = _processes(devices, nodes)
    fabric_class = _fabric_class()
    if devices * nodes == 1:
        return fabric_class(accelerator=chosen.type, devices=1, precision=kind)
    if devices < 1 or nodes < 1:
        raise UserError(f"devices and nodes must be at least 1, got {devices} and {nodes}")
    here = {"cuda": torch.cuda.device_count(), "mps": 1}.get(chosen.type, devices)
    if devices > here:
        raise UserError(f"devices={devices}: there are {here} of {chosen.type} here")
    with _without_notes():
        fabric = fabric_class(
            accelerator=chosen.type, devices=devices, num_nodes=nodes, strategy="ddp", precision=kind
        )
        fabric.launch()
    atexit.register(_end, getattr(fabric.strategy.launcher, "procs", []))
    return fabric


def _fabric_class() -> type[Fabric]:
    """Fabric, imported here, because it imports torch's compiler: three seconds.

    Its package makes torch ask NVML for GPUs, by an environment variable. Each step of an optimizer asks, and a
    CPU without a driver answers in 0.1 ms instead of 1 µs.
    """
    before = os.environ.get(_BY_NVML)
    from lightning_fabric import Fabric

    if before is None:
        os.environ.pop(_BY_NVML, None)
    return Fabric


def _end(processes: Sequence[subprocess.Popen]) -> None:
    """End the processes that were started here, if the first one ends before them, as after Ctrl-C."""
    for process in processes:
        try:
            process.wait(timeout=_PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()


@contextmanager
def matrix_products(precision: str) -> Iterator[None]:
    """Within the block matrix products and convolutions on CUDA use TF32, if the precision is ``"tf32"``.

    TF32 keeps the range of float32 and ten bits of its fraction. Otherwise torch's own settings stay, by which
    convolutions use it and matrix products do not.
    """
    if precision != "tf32":
        yield
        return
    backends: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [backend.allow_tf32 for backend in backends]
    try:
        for backend in backends:
            backend.allow_tf32 = True
        yield
    finally:
        for backend, value in zip(backends, before, strict=True):
            backend.allow_tf32 = value


def check_shares(devices: int, nodes: int, batch_size: int, prior_batch_size: int) -> None:
    """Refuse minibatches that the processes cannot divide into equal parts, before one is started.

    Raises:
        UserError: Then.
    """
    devices, nodes = _processes(devices, nodes)
    for key, size in {"batch_size": batch_size, "prior_batch_size": prior_batch_size}.items():
        if size % (devices * nodes):
            raise UserError(f"{key}={size} cannot be divided among {devices * nodes} processes")


def _processes(devices: int, nodes: int) -> tuple[int, int]:
    """Processes on this machine, and machines: as typed, or as ``torchrun`` says if it started this one."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return devices, nodes
    devices = int(os.environ["LOCAL_WORLD_SIZE"])
    return devices, int(os.environ["WORLD_SIZE"]) // devices


@contextmanager
def _without_notes() -> Iterator[None]:
    """Within the block Fabric does not print its banner."""
    logger = logging.getLogger("lightning_fabric")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def choose_device(device: str) -> torch.device:
    """The device that ``auto``, ``cpu``, ``cuda`` or ``mps`` stands for here.

    Raises:
        UserError: If it is unknown or not here.
    """
    if device not in _DEVICES:
        raise UserError(f"device must be auto, cpu, cuda or mps, got {device!r}")
    here = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if device == "auto":
        device = next(name for name, available in here.items() if available)
    if not here[device]:
        raise UserError(f"device={device} cannot be used here: torch finds no such device")
    if device == "cuda":
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device(device)
