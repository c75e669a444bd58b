"""A fault that the supervisor keeps in its book, as its owner holds it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cluster.fault import Fault


def standing(ask: Callable[..., Any], begun: dict[str, Any], heal_deadline_s: float) -> Fault:
    """The fault that the supervisor says it has ``begun`` (``id``, ``what``); ``ask`` asks it to heal it."""
    return Fault(begun["what"], lambda: ask("heal", id=begun["id"], deadline_s=heal_deadline_s))
