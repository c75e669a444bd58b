"""What a target is: a name, a line about it, and the function that writes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from builder.targets.parts import Contents, Parts


@dataclass(frozen=True)
class Target:
    """A way to deliver a node. ``name`` is what ``--target`` takes, ``summary`` what its help says; ``write`` puts the files that people get
    into the empty folder that it is given. The same parts must give the same bytes."""

    name: str
    summary: str
    write: Callable[[Parts, Path], None]


@dataclass(frozen=True)
class ContainerTarget:
    """The same for what has no kernel: a definition with a ``container`` section."""

    name: str
    summary: str
    write: Callable[[Contents, Path], None]
