"""What runs guests here, as a value; :mod:`cluster.machines.probe` finds out which."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Accelerator:
    """``name`` is "kvm" or "tcg" (QEMU's words), or "namespaces" for nodes without a virtual machine; ``factor`` how many times longer than with hardware to wait, ``reason`` why this one."""

    name: str
    factor: float
    reason: str
