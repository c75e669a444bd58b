"""What runs guests here, as a value; :mod:`cluster.machines.probe` finds out which."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Accelerator:
    """What runs guests, and how long to wait for them.

    ``name`` is "kvm" or "tcg" (QEMU's names), or "namespaces" for nodes without a virtual machine. ``factor`` is how
    many times longer than with hardware to wait, ``reason`` why this one was chosen.
    """

    name: str
    factor: float
    reason: str
