"""Poses of people: joints, and what the Variational U-Net sees of them, stick figures and body parts (spec 11.1)."""

from __future__ import annotations

__all__ = ["JOINTS"]

JOINTS = (
    "rankle", "rknee", "rhip", "rshoulder", "relbow", "rwrist", "reye",
    "lankle", "lknee", "lhip", "lshoulder", "lelbow", "lwrist", "leye", "cnose",
)  # fmt: skip
