"""What a test needs of its nodes, and so what may run them: the quickest driver that really has all of it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Final

import pytest

from terminal import UsageFailure

NEEDS: Final = {
    "disk": "a disk of its own, that can be slow, fail, fill up or be changed under it",
    "clock": "a clock of its own",
    "kernel": "a kernel of its own, with modules, its log, and a root that it verifies",
    "machine": "firmware, devices, and a second network card",
    "memory": "memory that is limited, and can be written into a snapshot",
}
"""What only a machine has, by the word for ``@pytest.mark.needs``.

What is not listed here, nodes in namespaces have, too.
"""
DRIVERS: Final = ("auto", "qemu", "libvirt", "namespaces")


def of_item(item: pytest.Item) -> frozenset[str] | None:
    """What a test declares that it needs, itself and by its module; None if it declares nothing.

    Raises :class:`UsageFailure` for an unknown need.
    """
    markers = list(item.iter_markers("needs"))
    words = [word for marker in markers for word in marker.args]
    for word in words:
        if word not in NEEDS:
            raise UsageFailure(f"no test needs {word!r}", where=item.nodeid, hint=f"the words are: {', '.join(NEEDS)}")
    return frozenset(words) if markers else None


def of_all(items: Iterable[pytest.Item]) -> frozenset[str] | None:
    """What several tests that share nodes need together; None if one of them declares nothing."""
    together: set[str] = set()
    for item in items:
        found = of_item(item)
        if found is None:
            return None
        together |= found
    return frozenset(together)


def driver(wanted: str, needs: Collection[str] | None, lacks: Callable[[], Sequence[str]], where: str) -> str:
    """The driver to take: ``wanted``, or with "auto" namespaces for nodes that have all of ``needs`` there, else qemu.

    ``needs`` is None if not declared. ``lacks`` returns why this computer runs no namespaces, ``where`` names the test.
    Raises :class:`UsageFailure` if ``wanted`` lacks something.
    """
    if wanted not in DRIVERS:
        raise UsageFailure(f"--cluster-driver {wanted}: there are {', '.join(DRIVERS)}")
    if wanted == "auto":
        return "qemu" if needs is None or needs or lacks() else "namespaces"
    if wanted == "namespaces" and needs:
        words = "; ".join(f"{word}: {NEEDS[word]}" for word in sorted(needs))
        raise UsageFailure(
            f"nodes in namespaces do not have what this test needs ({words})", where=where, hint="--cluster-driver auto"
        )
    return wanted
