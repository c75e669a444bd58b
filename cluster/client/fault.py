"""Something that is broken on purpose, and how it becomes whole again."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType

from cluster.model.protocol import Ask, Begun, Heal


class Fault:
    """A fault that has been applied. :meth:`heal` undoes it; so does leaving it as a context manager::

    with node.pause():
        ...                       # its time stops
    """

    def __init__(self, what: str, heal: Callable[[], object]) -> None:
        """``what`` is one line for people ("pause node-2"), ``heal`` undoes it and is called once at most."""
        self.what = what
        self._heal: Callable[[], object] | None = heal

    def heal(self) -> None:
        """Undo it; a second call does nothing.

        Raises :class:`terminal.Failure` if that does not work; then it may be tried again.
        """
        if self._heal is not None:
            self._heal()
            self._heal = None

    @property
    def healed(self) -> bool:
        """Whether it is over."""
        return self._heal is None

    def __enter__(self) -> Fault:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.heal()

    def __str__(self) -> str:
        return self.what


def recorded(ask: Ask, begun: Begun, heal_deadline_s: float) -> Fault:
    """The fault that the supervisor reports as ``begun``; ``ask`` sends it the request to heal it."""
    return Fault(begun.what, lambda: ask(Heal(begun.id), deadline_s=heal_deadline_s))
