"""Devices and precision, by Lightning Fabric: more processes can come later without another loop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from pyro_lrp.core.errors import UserError

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = ["choose_device", "make_fabric"]

_DEVICES = ("auto", "cpu", "cuda", "mps")


def make_fabric(device: str, precision: str) -> Fabric:
    """A Fabric on one device.

    Args:
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``.
        precision: ``"32"``, or ``"bf16-mixed"``.

    Raises:
        UserError: If either is unknown, or the device is not here.
    """
    from lightning_fabric import Fabric  # here, because it imports torch's compiler: three seconds

    kind: Any = "bf16-mixed"
    chosen = choose_device(device)
    if precision not in ("32", "bf16-mixed"):
        raise UserError(f"precision must be 32 or bf16-mixed, got {precision!r}")
    if precision == "32":
        kind = "32-true"
    return Fabric(accelerator=chosen.type, devices=1, precision=kind)


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
