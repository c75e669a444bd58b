"""The objects that clients expect, as state machines: pure, deterministic, with hashable states.

The shapes of workloads are those known from Jepsen's tests of etcd: registers with compare-and-set, sets, locks.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from enum import Enum
from typing import Final, Protocol, TypeVar

from cluster.consistency.history import Operation


class Impossible(Enum):
    """The type of :data:`IMPOSSIBLE`."""

    IMPOSSIBLE = "impossible"


IMPOSSIBLE: Final = Impossible.IMPOSSIBLE
"""In place of a state: the operation cannot have happened here."""


S = TypeVar("S", bound=Hashable)
"""The states of an object."""


class Model(Protocol[S]):
    """What an object may do. States are hashable; None is a state like any other."""

    initial: S

    def step(self, state: S, operation: Operation) -> S | Impossible:
        """The state after ``operation`` took effect in ``state``.

        It is :data:`IMPOSSIBLE` if that would not have had this result.

        For an outcome "unknown" the result is not looked at.
        """

    def is_unneeded(self, operation: Operation, others: Iterable[Operation]) -> bool:
        """Whether ``others`` with ``operation`` having an order implies that ``others`` alone have one.

        So an unknown operation may be left out of the search, and any may be left out of a counterexample.
        """

    def describe(self, operation: Operation) -> str:
        """``operation`` in words."""

    def describe_state(self, state: S) -> str:
        """``state`` in words, to follow on "then"."""


class Register:
    """One value, None at first. Operations:

    - ``write``: argument the value;
    - ``read``: result the value;
    - ``cas``: argument (expected, new), result the value that was found: it was replaced if that is the expected one.
    """

    initial: Hashable = None

    def step(self, state: Hashable, operation: Operation) -> Hashable:
        """See :class:`Model`."""
        is_known = operation.outcome == "ok"
        if operation.kind == "write":
            return operation.argument
        if is_known and operation.result != state:
            return IMPOSSIBLE
        if operation.kind == "read":
            return state
        expected, new = _pair(operation.argument)
        if state == expected:
            return new
        return state if is_known else IMPOSSIBLE  # without effect it need not be looked at

    def is_unneeded(self, operation: Operation, others: Iterable[Operation]) -> bool:
        """A value that no client saw need never have been there."""
        left = self._leaves(operation)
        return not left or all(left[0] not in self._sees(other) for other in others)

    @staticmethod
    def _leaves(operation: Operation) -> tuple[Hashable, ...]:
        """The value that it brought, if it brought one."""
        if operation.kind == "write":
            return (operation.argument,)
        if operation.kind == "cas" and (operation.outcome != "ok" or operation.result == _pair(operation.argument)[0]):
            return (_pair(operation.argument)[1],)
        return ()

    @staticmethod
    def _sees(operation: Operation) -> tuple[Hashable, ...]:
        """The value that it found, or must find to have an effect."""
        if operation.kind == "cas" and operation.outcome != "ok":
            return (_pair(operation.argument)[0],)
        return (operation.result,) if operation.kind in ("read", "cas") and operation.outcome == "ok" else ()

    def describe(self, operation: Operation) -> str:
        """See :class:`Model`."""
        known = operation.outcome == "ok"
        match operation.kind:
            case "write":
                return f"write {operation.argument!r}"
            case "read":
                return f"read -> {operation.result!r}" if known else "read"
            case _:
                expected, new = _pair(operation.argument)
                found = ""
                if known:
                    found = " -> done" if operation.result == expected else f" -> refused, found {operation.result!r}"
                return f"cas {expected!r} to {new!r}{found}"

    def describe_state(self, state: Hashable) -> str:
        """See :class:`Model`."""
        return f"its value is {state!r}"


class GrowSet:
    """A set to which things are added.

    ``add``: argument the element; ``read``: result the sorted tuple of all elements.
    """

    initial: frozenset[Hashable] = frozenset()

    def step(self, state: frozenset[Hashable], operation: Operation) -> frozenset[Hashable] | Impossible:
        """See :class:`Model`."""
        if operation.kind == "add":
            return state | {operation.argument}
        if operation.outcome == "ok" and frozenset(_members(operation)) != state:
            return IMPOSSIBLE
        return state

    def is_unneeded(self, operation: Operation, others: Iterable[Operation]) -> bool:
        """An element that no client saw need never have been there."""
        if operation.kind == "read":
            return True
        return not any(
            operation.argument in _members(other) for other in others if other.kind == "read" and other.outcome == "ok"
        )

    def describe(self, operation: Operation) -> str:
        """See :class:`Model`."""
        if operation.kind == "add":
            return f"add {operation.argument!r}"
        return f"read -> {_elements(_members(operation))}" if operation.outcome == "ok" else "read"

    def describe_state(self, state: frozenset[Hashable]) -> str:
        """See :class:`Model`."""
        texts = sorted(map(str, state), key=lambda text: (len(text), text))  # numbers by value
        return f"it holds {_elements(texts)}"


class Lock:
    """A lock with a lease, as etcd has it.

    Its holder receives a token, a number that grows with each holder (etcd: the create revision of the lock's key), and
    shows it with all operations under the lock. That, and not the clocks of clients, keeps two holders apart.
    Operations:

    - ``acquire``: result the token, 0 if another client has it;
    - ``release``: argument the token, result whether it was still valid;
    - ``guarded``: something done on condition that the token is valid; argument the token, result whether it was done.

    A lease may run out at any time, unless ``expires`` is False: then a lock that was not released is never given to
    another client. The state is (token of the holder, or 0; last token).
    """

    initial: tuple[int, int] = (0, 0)

    def __init__(self, *, expires: bool = True) -> None:
        self.expires = expires

    def step(self, state: tuple[int, int], operation: Operation) -> tuple[int, int] | Impossible:
        """See :class:`Model`."""
        holder, last = state
        if operation.kind == "acquire":
            if operation.outcome == "ok" and operation.result == 0:
                return state  # its holder may never have received the token
            if operation.outcome != "ok":
                return IMPOSSIBLE  # no client uses a token that none received
            token = _token(operation.result)
            if token <= last or (holder and not self.expires):
                return IMPOSSIBLE
            return (token, token)
        token = _token(operation.argument)
        if operation.kind == "release" and operation.outcome != "ok":
            return (0, last) if holder == token else IMPOSSIBLE
        if operation.outcome != "ok":
            return state
        if operation.result:
            if holder != token:
                return IMPOSSIBLE
            return (0, last) if operation.kind == "release" else state
        if holder == token:  # refused though it is the last holder: its lease must have run out
            return (0, last) if self.expires else IMPOSSIBLE
        return state

    def is_unneeded(self, operation: Operation, others: Iterable[Operation]) -> bool:
        """An operation without effect may be left out.

        If leases run out, so may a release, and a token that no client showed.
        """
        if operation.kind == "guarded":
            return True
        if operation.kind == "release":
            return self.expires or (operation.outcome == "ok" and not operation.result)
        if operation.outcome != "ok":
            return True
        return not any(other.argument == operation.result for other in others if other.kind != "acquire")

    def describe(self, operation: Operation) -> str:
        """See :class:`Model`."""
        known = operation.outcome == "ok"
        match operation.kind:
            case "acquire":
                taken = f" -> token {operation.result}" if operation.result else " -> taken"
                return "acquire" + (taken if known else "")
            case "release":
                return f"release {operation.argument}" + ("" if not known or operation.result else " -> was not valid")
            case _:
                result = (" -> done" if operation.result else " -> refused") if known else ""
                return f"act with token {operation.argument}{result}"

    def describe_state(self, state: tuple[int, int]) -> str:
        """See :class:`Model`."""
        holder, last = state
        return f"token {holder} holds it" if holder else f"no client holds it (last token {last})"


def _elements(elements: Iterable[object]) -> str:
    return "{" + ", ".join(map(str, elements)) + "}"


def _pair(argument: Hashable) -> tuple[Hashable, Hashable]:
    """The value that a compare-and-set expects, and the new one."""
    assert isinstance(argument, tuple)
    expected, new = argument
    return expected, new


def _members(operation: Operation) -> tuple[Hashable, ...]:
    """The elements that a read found."""
    assert isinstance(operation.result, tuple)
    return operation.result


def _token(value: Hashable) -> int:
    assert isinstance(value, int)
    return value
