"""Several clients at once at work on an etcd. Each records what it saw, and never more than it knows.

A workload is one kind of object and what clients do with it. Keys lie under the run's own prefix. Each client has a
seeded random generator of its own, so that a run repeats as far as threads and faults let it.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from typing import Protocol

from cluster.client.node import ETCD_PORT, Node
from cluster.client.ssh import Unreachable
from cluster.consistency.history import Operation, Outcome, by_key
from cluster.consistency.models import GrowSet, Lock, Register
from cluster.consistency.search import Violation, check
from etcd.client import Client as EtcdClient
from etcd.errors import EtcdError, LeaseNotFound, Unavailable
from etcd.protocol import Compare, Etcd, Op
from etcd.transport import Endpoint, Transport, understand
from etcd.wire import Json
from terminal import Failure


class Journal:
    """Where clients record what they do; from any thread. The clock is :func:`time.monotonic`, from 0 at the start."""

    def __init__(self) -> None:
        self._begin = time.monotonic()
        self._operations: list[Operation] = []

    @property
    def operations(self) -> list[Operation]:
        """What is over, by end."""
        return list(self._operations)

    def now(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._begin

    def write_down(
        self, process: int, kind: str, key: str, argument: Hashable, act: Callable[[], Hashable], *, reads: bool = False
    ) -> Operation:
        """Do ``act`` and record it with its result.

        An act that etcd refused for certain has failed, and so has a read (``reads``) without a result; any other error
        leaves it unknown whether it was, or will be, done.
        """
        invoked = self.now()
        outcome: Outcome = "ok"
        result: Hashable = None
        try:
            result = act()
        except LeaseNotFound:
            outcome = "fail"  # etcd reports that it did nothing
        except Unavailable as error:
            outcome = "unknown" if error.maybe_applied and not reads else "fail"
        except EtcdError:
            outcome = "fail" if reads else "unknown"
        done = Operation(
            process=process,
            kind=kind,
            key=key,
            argument=argument,
            result=result,
            invoked=invoked,
            returned=self.now(),
            outcome=outcome,
        )
        self._operations.append(done)
        return done


class Workload(Protocol):
    """One kind of object under load."""

    def verdict(self, history: Sequence[Operation]) -> Violation | None:
        """What is wrong with the ``history`` of one key, by the model of what clients may expect.

        Raises :class:`~cluster.consistency.search.TooManyOrders`."""

    def act(self, client: Client) -> None:
        """One thing that ``client`` does next."""


class Client:
    """One client: one etcd endpoint, one journal, its own random generator, one act at a time."""

    def __init__(self, process: int, etcd: Etcd, journal: Journal, seed: str) -> None:
        self.process = process
        self.etcd = etcd
        self.journal = journal
        self.random = random.Random(f"{seed} client {process}")  # noqa: S311 - dice, not secrets
        self.memory: dict[str, Hashable] = {}
        """What its workload remembers between two acts."""
        self.count = 0

    def value(self) -> int:
        """A number that no other client ever writes."""
        self.count += 1
        return 1_000_000 * self.process + self.count

    def do(
        self, kind: str, key: str, argument: Hashable, act: Callable[[], Hashable], *, reads: bool = False
    ) -> Operation:
        """See :meth:`Journal.write_down`."""
        return self.journal.write_down(self.process, kind, key, argument, act, reads=reads)


class NodeTransport(Transport):
    """Requests to the etcd (or its proxy) on a node's own loopback.

    They go by ssh over the management card, which faults of the cluster's network do not touch.
    """

    def __init__(self, node: Node) -> None:
        super().__init__([f"http://127.0.0.1:{ETCD_PORT}"], timeout=30.0, tls=None)  # a name only: see call_at
        self._node = node

    def call_at(self, _: Endpoint, path: str, request: Json) -> Json:
        """See :class:`etcd.transport.Transport`."""
        try:
            status, body = self._node.etcd("POST", path, request)
        except Unreachable as error:
            raise Unavailable("the node is not to be reached", where=self._node.name) from error
        except Failure as error:
            raise Unavailable("etcd did not answer", where=self._node.name, maybe_applied=True) from error
        return understand(self._node.name, status, body, request)


def client_on(node: Node) -> EtcdClient:
    """A client of the etcd on ``node``, whatever happens to the cluster's network."""
    return EtcdClient.over(NodeTransport(node))


class Registers:
    """``count`` keys, read, written, and compared-and-set by all clients."""

    def __init__(self, prefix: str, count: int = 3) -> None:
        self.keys = [f"{prefix}register/{number}" for number in range(1, count + 1)]

    def verdict(self, history: Sequence[Operation]) -> Violation | None:
        """See :class:`Workload`."""
        return check(history, Register())

    def act(self, client: Client) -> None:
        """Read, write, or replace what was seen last."""
        key = client.random.choice(self.keys)
        kind = client.random.choice(["read", "read", "write", "cas"])
        if kind == "read":
            seen = client.do("read", key, None, lambda: self._read(client.etcd, key), reads=True)
            if seen.outcome == "ok":
                client.memory[key] = seen.result
            return
        new = client.value()
        expected = client.memory.get(key)
        if kind == "write" or not isinstance(expected, int):
            client.do("write", key, new, lambda: self._write(client.etcd, key, new))
            client.memory[key] = new
            return
        done = client.do("cas", key, (expected, new), lambda: self._replace(client.etcd, key, expected, new))
        if done.outcome == "ok":
            client.memory[key] = new if done.result == expected else done.result

    @staticmethod
    def _read(etcd: Etcd, key: str) -> int | None:
        found = etcd.get(key)
        return None if found is None else int(found.value)

    @staticmethod
    def _write(etcd: Etcd, key: str, value: int) -> None:
        etcd.put(key, str(value).encode())

    @staticmethod
    def _replace(etcd: Etcd, key: str, expected: int, new: int) -> int | None:
        """The value found; it is replaced if it is the expected one.

        Any other value is read in the same transaction.
        """
        answer = etcd.txn(
            [Compare.value(key, "==", str(expected).encode())], [Op.put(key, str(new).encode())], [Op.get(key)]
        )
        if answer.succeeded:
            return expected
        kvs = answer.responses[0].kvs
        return int(kvs[0].value) if kvs else None


class Sets:
    """``count`` prefixes, each a set: an element is a key. A read is one range, at one revision."""

    def __init__(self, prefix: str, count: int = 2) -> None:
        self.keys = [f"{prefix}set/{number}/" for number in range(1, count + 1)]

    def verdict(self, history: Sequence[Operation]) -> Violation | None:
        """See :class:`Workload`."""
        return check(history, GrowSet())

    def act(self, client: Client) -> None:
        """Add something new, or read all."""
        key = client.random.choice(self.keys)
        if client.random.random() < 0.5:
            element = client.value()
            client.do("add", key, element, lambda: self._add(client.etcd, f"{key}{element}"))
        else:
            client.do("read", key, None, lambda: self._all(client.etcd, key), reads=True)

    @staticmethod
    def _add(etcd: Etcd, key: str) -> None:
        etcd.put(key, b"")

    @staticmethod
    def _all(etcd: Etcd, prefix: str) -> tuple[int, ...]:
        return tuple(sorted(int(found.key.removeprefix(prefix)) for found in etcd.range(prefix).kvs))


class Locks:
    """``count`` locks with leases of ``ttl_s``.

    Below each one is a key that is written under the lock, with the token as the condition.

    A lock is a key that its holder creates, bound to its lease; the token is the key's create revision. etcd's own lock
    service adds a queue of clients to the same scheme; holders are kept apart in the same way.
    """

    def __init__(self, prefix: str, ttl_s: int, count: int = 2) -> None:
        self.keys = [f"{prefix}lock/{number}" for number in range(1, count + 1)]
        self.ttl_s = ttl_s

    def verdict(self, history: Sequence[Operation]) -> Violation | None:
        """See :class:`Workload`."""
        return check(history, Lock())

    def act(self, client: Client) -> None:
        """Try to get a lock.

        A client that has one writes under it a few times, more or less fast, and releases it or forgets to.
        """
        held = client.memory.get("held")
        if not isinstance(held, tuple):
            self._try(client, client.random.choice(self.keys))
            return
        key, token, lease = held
        if client.random.random() < 0.6:
            done = client.do("guarded", key, token, lambda: self._guarded(client, key, token))
            if done.outcome == "ok" and not done.result:
                client.memory.clear()
            return
        client.memory.clear()
        if client.random.random() < 0.8:
            client.do("release", key, token, lambda: self._release(client.etcd, key, token))
        else:  # its lease ends by itself
            client.memory["forgotten"] = lease

    def _try(self, client: Client, key: str) -> None:
        try:
            lease = client.etcd.lease_grant(self.ttl_s).id
        except EtcdError:
            return  # no request to the lock was made
        done = client.do("acquire", key, None, lambda: self._acquire(client.etcd, key, lease))
        if done.outcome == "ok" and done.result:
            client.memory["held"] = (key, done.result, lease)

    @staticmethod
    def _acquire(etcd: Etcd, key: str, lease: int) -> int:
        """The token; 0 if another client has it."""
        answer = etcd.txn([Compare.created(key, "==", 0)], [Op.put(key, b"held", lease=lease)])
        return answer.revision if answer.succeeded else 0

    @staticmethod
    def _guarded(client: Client, key: str, token: int) -> bool:
        value = str(client.value()).encode()
        return client.etcd.txn([Compare.created(key, "==", token)], [Op.put(f"{key}/guarded", value)]).succeeded

    @staticmethod
    def _release(etcd: Etcd, key: str, token: int) -> bool:
        return etcd.txn([Compare.created(key, "==", token)], [Op.delete(key)]).succeeded


def work(
    workload: Workload, etcds: Sequence[Etcd], seed: int, stop: threading.Event, *, pause_s: float = 0.02
) -> list[Operation]:
    """Run one client on each of ``etcds``, used by it alone, until ``stop`` is set; returns what they saw.

    An error of our own is raised.
    """
    journal = Journal()
    troubles: list[BaseException] = []

    def live(client: Client) -> None:
        try:
            while not stop.is_set():
                workload.act(client)
                stop.wait(pause_s * 2 * client.random.random())
        except BaseException as error:  # to be raised by the thread that called
            troubles.append(error)
            stop.set()

    clients = [Client(number, etcd, journal, str(seed)) for number, etcd in enumerate(etcds, 1)]
    threads = [threading.Thread(target=live, args=(client,), name=f"client-{client.process}") for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if troubles:
        raise troubles[0]
    return journal.operations


def judge(workload: Workload, history: Sequence[Operation]) -> list[Violation]:
    """What is wrong, for each key for which something is. Raises :class:`~cluster.consistency.search.TooManyOrders`."""
    found = (workload.verdict(part) for part in by_key(history).values())
    return [violation for violation in found if violation is not None]
