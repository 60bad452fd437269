"""Devices and precision, by Lightning Fabric: more processes can come later without another loop."""

from __future__ import annotations

from typing import Any

import torch
from lightning_fabric import Fabric

from pyro_lrp.core.errors import UserError

__all__ = ["choose_device", "make_fabric"]


def make_fabric(device: str, precision: str) -> Fabric:
    """A Fabric on one device.

    Args:
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``.
        precision: ``"32"``, or ``"bf16-mixed"``.

    Raises:
        UserError: If either is unknown, or the device is not here.
    """
    if device not in ("auto", "cpu", "cuda", "mps"):
        raise UserError(f"device must be auto, cpu, cuda or mps, got {device!r}")
    if precision not in ("32", "bf16-mixed"):
        raise UserError(f"precision must be 32 or bf16-mixed, got {precision!r}")
    kind: Any = "bf16-mixed"
    if precision == "32":
        kind = "32-true"
    try:
        return Fabric(accelerator=device, devices=1, precision=kind)
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"device={device} cannot be used here: {reason}") from error


def choose_device(device: str) -> torch.device:
    """The device that ``auto``, ``cpu``, ``cuda`` or ``mps`` stands for here."""
    return make_fabric(device, "32").device
