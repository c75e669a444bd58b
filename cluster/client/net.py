"""The cluster's network as a test or a command holds it: ``cluster.net``.

Every fault holds until it is healed, and several add up::

    with cluster.net.partition({1}, {2, 3}):
        ...
    slow = cluster.net.degrade(1, 2, delay="75ms", jitter="50ms", loss="20%")
    slow.heal()
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, TypeAlias

from cluster.client.fault import Fault
from cluster.model.impairment import Impairment
from cluster.model.protocol import Ask, Capture, EndCapture, HealNetwork, Impair, NetworkFaults
from cluster.model.status import FaultStatus, RecordedStatus
from cluster.network import partition
from cluster.network.impairment import HOST, Pair, bits_per_s, both_ways, no_port, port_name, seconds, share
from cluster.network.pcap import BYTES_MAX
from terminal import UsageFailure


class Numbered(Protocol):
    """A :class:`cluster.client.node.Node`, of which the network knows the number only."""

    number: int


Where: TypeAlias = Numbered | int | str
"""A node, its number or name; 0 or "host" is this computer."""


class Net:
    """Faults and captures of one cluster's network. The management cards are never touched."""

    def __init__(self, ask: Ask, numbers: Callable[[], Collection[int]]) -> None:
        """``ask`` is :meth:`cluster.client.cluster.Cluster.ask`, ``numbers`` returns the existing nodes."""
        self._ask, self._numbers = ask, numbers

    # Shapes

    def partition(self, *groups: Collection[Where]) -> Fault:
        """Nodes see those of their own group and none of another; a node in no group sees all.

        Raises :class:`Failure`, as all methods here.
        """
        parts = [{self.port(where) for where in group} for group in groups]
        shown = " | ".join(_listed(part) for part in parts)
        return self._cut(partition.groups(*parts), f"partition {shown}")

    def halves(self) -> Fault:
        """Two halves; of an odd number of nodes, the higher numbers have the majority."""
        lower, upper = partition.halves(self._numbers())
        return self._cut(partition.groups(lower, upper), f"partition into halves {_listed(lower)} | {_listed(upper)}")

    def isolate(self, node: Where, *, host: bool = False) -> Fault:
        """``node`` sees no other node; nor this computer with its services, if ``host``."""
        port = self.port(node)
        nodes = {*self._numbers(), HOST} if host else self._numbers()
        return self._cut(partition.isolated(nodes, port), f"isolate {port_name(port)}")

    def majority_ring(self) -> Fault:
        """Every node sees a majority, no two the same one.

        Needs four nodes. See :func:`cluster.network.partition.majority_ring`.
        """
        return self._cut(partition.majority_ring(self._numbers()), "partition into a majority ring")

    def bridge(self, node: Where) -> Fault:
        """Two halves, and ``node``, which sees both."""
        port = self.port(node)
        return self._cut(
            partition.bridge(self._numbers(), port), f"partition into halves with the bridge {port_name(port)}"
        )

    # Links

    def cut(self, node: Where, to: Where, *, one_way: bool = True) -> Fault:
        """Nothing that ``node`` sends reaches ``to``; nor the other way, unless ``one_way``."""
        source, target = self._two(node, to)
        pairs = partition.one_way(source, target) if one_way else both_ways(source, target)
        return self._cut(pairs, f"cut {_arrow(source, target, one_way)}")

    def degrade(
        self,
        one: Where,
        other: Where,
        *,
        delay: str | float = 0.0,
        jitter: str | float = 0.0,
        loss: str | float = 0.0,
        duplicate: str | float = 0.0,
        reorder: str | float = 0.0,
        corrupt: str | float = 0.0,
        rate: str | float | None = None,
        one_way: bool = False,
        seed: int | None = None,
    ) -> Fault:
        """Make the link between two nodes bad, in both directions unless ``one_way``.

        Times are "75ms" or seconds, shares "20%" or 0.2, a rate "1mbit" or bits a second: see
        :class:`cluster.network.impairment.Impairment`. With the same ``seed`` the same frames meet the same fate;
        without one, a new seed is drawn and put on the timeline.
        """
        impairment = Impairment(
            delay_s=seconds(delay, "delay"),
            jitter_s=seconds(jitter, "jitter"),
            loss=share(loss, "loss"),
            duplicate=share(duplicate, "duplicate"),
            reorder=share(reorder, "reorder"),
            corrupt=share(corrupt, "corrupt"),
            rate_bps=None if rate is None else bits_per_s(rate, "rate"),
        )
        source, target = self._two(one, other)
        if impairment == Impairment():
            raise UsageFailure("nothing to degrade", hint="delay, jitter, loss, duplicate, reorder, corrupt or rate")
        pairs = partition.one_way(source, target) if one_way else both_ways(source, target)
        return self._impair(pairs, f"degrade {_arrow(source, target, one_way)}: {impairment}", impairment, seed)

    # All

    def heal(self, number: int | None = None) -> list[int]:
        """Heal all faults of the network, or the one with this number; returns the numbers of those healed now."""
        return list(self._ask(HealNetwork(number)))

    def faults(self) -> list[FaultStatus]:
        """The faults that hold now, with their number, seed and what became of frames."""
        return [fault.data() for fault in self._ask(NetworkFaults())]

    @contextmanager
    def pcap(
        self, node: Where, path: Path, *, missed: Path | None = None, bytes_max: int = BYTES_MAX
    ) -> Iterator[dict[str, RecordedStatus]]:
        """Record the cluster card of ``node`` (or 0, this computer) in the file ``path`` while the block runs.

        The file has what a capture on that card would have: all that the node sends, even if a fault takes it later,
        and what arrives after all faults. Frames dropped on the way to the node go to ``missed``. Afterwards the
        yielded dict has the number of frames in each file, "seen" and, if that was wanted, "missed".
        """
        beside = None if missed is None else str(missed.absolute())
        number = self._ask(Capture(self.port(node), str(path.absolute()), beside, bytes_max))
        counts: dict[str, RecordedStatus] = {}
        try:
            yield counts
        finally:
            held = self._ask(EndCapture(number))
            counts["seen"] = held.seen.data()
            if held.missed is not None:
                counts["missed"] = held.missed.data()

    def port(self, where: Where) -> int:
        """The port of a node, or of this computer. Raises :class:`UsageFailure` if there is none."""
        if not isinstance(where, int | str):
            where = where.number
        ports = (HOST, *self._numbers())
        for port in ports:
            if where in (port, port_name(port), str(port)):
                return port
        raise no_port(where, [*map(port_name, ports)])

    def _two(self, one: Where, other: Where) -> Pair:
        source, target = self.port(one), self.port(other)
        if source == target:
            raise UsageFailure(f"{port_name(source)} has no link to itself", hint="name two nodes")
        return source, target

    def _cut(self, pairs: Collection[Pair], what: str) -> Fault:
        return self._impair(pairs, what, Impairment(cut=True))

    def _impair(self, pairs: Collection[Pair], what: str, impairment: Impairment, seed: int | None = None) -> Fault:
        number = self._ask(Impair(what, tuple(sorted(pairs)), impairment, seed))
        return Fault(what, lambda: self.heal(number))


def _listed(ports: Collection[int]) -> str:
    return " ".join(port_name(port) for port in sorted(ports))


def _arrow(source: int, target: int, one_way: bool) -> str:
    return f"{port_name(source)} {'->' if one_way else '<->'} {port_name(target)}"
