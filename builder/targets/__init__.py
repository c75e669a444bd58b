"""Targets: the forms in which a finished node or container is delivered.

Every module of this package has one target, or a few related ones, in its ``TARGETS``; a new target is a new file here.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Iterable
from importlib import import_module
from typing import Final

from builder.targets.target import ContainerTarget, Contents, Parts, Target

__all__ = ["TARGETS", "ContainerTarget", "Contents", "Parts", "Target", "found"]


def found(places: Iterable[str], package: str) -> dict[str, Target | ContainerTarget]:
    """The targets in ``TARGETS`` of all modules in the folders ``places`` of ``package``, by name and sorted."""
    modules = [import_module(f"{package}.{module.name}") for module in pkgutil.iter_modules(places)]
    targets: list[Target | ContainerTarget] = [
        target for module in modules for target in getattr(module, "TARGETS", ())
    ]
    return {target.name: target for target in sorted(targets, key=lambda target: target.name)}


TARGETS: Final = found(__path__, __name__)
