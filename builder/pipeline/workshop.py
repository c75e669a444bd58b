"""What the steps of one build share, as one value."""

from __future__ import annotations

from dataclasses import dataclass

from builder.core.store import Store
from builder.core.toolbox import Closure
from builder.debian.lockfile import Lock
from builder.definition.definition import Definition
from terminal import Step, untimed


@dataclass(frozen=True)
class Workshop:
    """The definition (``what``) and ``lock`` of a build, its store and tools, and ``step``, which times a step."""

    what: Definition
    lock: Lock
    store: Store
    tools: Closure
    step: Step = untimed
