"""The checker against a real etcd of three members that is killed and paused: right as it is, and caught when it has
forgotten something.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from cluster.client.fault import Fault
from cluster.consistency import Operation
from cluster.consistency.clients import Journal, Locks, Registers, Sets, Workload, judge, work
from cluster.testing.chaos import Step, Storm, draw
from etcd import Client, EtcdError, Unavailable
from tests.conftest import EtcdProcess

pytestmark = [pytest.mark.etcd, pytest.mark.slow]
CLIENT_S = 1.0
"""How long a client waits for an answer."""


class Members:
    """Three members of one etcd on loopback, by number from 1."""

    def __init__(self, make: Callable[..., EtcdProcess]) -> None:
        self.processes = {number: make() for number in (1, 2, 3)}
        peers = ",".join(f"m{number}={process.peer}" for number, process in self.processes.items())
        self._options = {
            number: (f"--name=m{number}", f"--initial-cluster={peers}", "--initial-cluster-token=consistency")
            for number in self.processes
        }
        for number in self.processes:
            self.start(number)
        for process in self.processes.values():
            process.wait_healthy()

    def start(self, number: int) -> None:
        self.processes[number].start(*self._options[number])

    def signal(self, number: int, what: signal.Signals) -> None:
        self.processes[number].signal(what)

    def apply(self, step: Step) -> Fault:
        """Carry out a step of a plan."""
        (number,) = step.arguments
        assert isinstance(number, int)
        if step.kind == "kill":
            self.processes[number].kill()
            return Fault(f"kill m{number}", lambda: self.start(number))
        self.signal(number, signal.SIGSTOP)
        return Fault(f"pause m{number}", lambda: self.signal(number, signal.SIGCONT))

    def clients(self, count: int) -> list[Client]:
        """Each talks to one member only."""
        endpoints = [process.endpoint for process in self.processes.values()]
        return [Client([endpoints[number % 3]], timeout=CLIENT_S) for number in range(count)]


@pytest.fixture
def members(make_etcd: Callable[..., EtcdProcess]) -> Members:
    return Members(make_etcd)


@contextlib.contextmanager
def clients_of(members: Members, count: int) -> Iterator[list[Client]]:
    clients = members.clients(count)
    try:
        yield clients
    finally:
        for client in clients:
            client.close()


def test_under_faults_it_keeps_its_word(members: Members, seed: int) -> None:
    """Registers, sets and locks, each with clients of its own, while members are killed and paused: one at a time, so
    that it stays alive.
    """
    plan = draw(seed=seed, nodes=[1, 2, 3], seconds=9, menu=["kill", "pause"], gap_s=1, length_s=(0.5, 2), boot_s=0.5)
    print(plan)
    workloads: list[Workload] = [Registers("/t/"), Sets("/t/"), Locks("/t/", ttl_s=1)]
    histories: dict[int, list[Operation]] = {}
    stop = threading.Event()

    def run(number: int) -> None:
        with clients_of(members, 3) as clients:
            histories[number] = work(workloads[number], clients, seed, stop, pause_s=0.01)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(workloads))]
    for thread in threads:
        thread.start()
    with Storm(plan, members.apply) as storm:
        assert storm.wait(60)
    time.sleep(1)  # work: what is healed is used, too
    stop.set()
    for thread in threads:
        thread.join()
    for number, workload in enumerate(workloads):
        history = histories[number]
        outcomes = {outcome: sum(each.outcome == outcome for each in history) for outcome in ("ok", "unknown", "fail")}
        print(type(workload).__name__, outcomes)
        assert outcomes["ok"] > 100
        assert judge(workload, history) == [], f"seed {seed}"
    assert any(each.outcome != "ok" for history in histories.values() for each in history), "no fault was felt"


def put(client: Client, key: str, value: int) -> None:
    """Write it; the revision is no result to a register."""
    client.put(key, str(value).encode())


def test_a_lost_write_is_caught(make_etcd: Callable[..., EtcdProcess]) -> None:
    """An etcd whose disk is put back to an older state has forgotten what it had acknowledged: the checker objects."""
    journal, process = Journal(), make_etcd()
    backup = process.directory.with_suffix(".backup")
    registers = Registers("/t/", count=1)
    process.start()
    process.wait_healthy()
    with contextlib.closing(Client([process.endpoint], timeout=CLIENT_S)) as client:
        for value in (1, 2):
            journal.write_down(1, "write", "/x", value, partial(put, client, "/x", value))
            process.kill()
            if value == 1:
                shutil.copytree(process.directory, backup)
            process.start()
            process.wait_healthy()
        process.kill()
        shutil.rmtree(process.directory)
        backup.rename(process.directory)
        process.start()
        process.wait_healthy()
        found = client.get("/x")
        assert found is not None
        journal.write_down(2, "read", "/x", None, lambda: int(found.value), reads=True)
    assert [each.outcome for each in journal.operations] == ["ok", "ok", "ok"]
    (violation,) = judge(registers, journal.operations)
    assert (violation.culprit.kind, violation.culprit.result) == ("read", 1)
    assert str(violation).endswith("its value is 2")


class TestOutcomes:
    """What a client writes down of trouble: never more than it knows."""

    @pytest.mark.parametrize(
        ("trouble", "reads", "outcome"),
        [
            (Unavailable("no answer", maybe_applied=True), False, "unknown"),
            (Unavailable("no answer", maybe_applied=True), True, "fail"),
            (Unavailable("refused", maybe_applied=False), False, "fail"),
            (EtcdError("too many requests"), False, "unknown"),
            (EtcdError("too many requests"), True, "fail"),
        ],
    )
    def test_trouble(self, trouble: EtcdError, reads: bool, outcome: str) -> None:
        def act() -> None:
            raise trouble

        assert Journal().write_down(1, "write", "k", 1, act, reads=reads).outcome == outcome

    def test_a_mistake_of_ours_is_no_outcome(self) -> None:
        class Wrong:
            def verdict(self, _: object) -> None:
                """It is never asked for."""

            def act(self, client: object) -> None:
                raise TypeError("mine")

        with pytest.raises(TypeError, match="mine"):
            work(Wrong(), [Client(["http://127.0.0.1:1"])], 1, threading.Event())

    def test_a_paused_member_leaves_writes_unknown(self, members: Members) -> None:
        journal = Journal()
        pid = members.processes[2].pid
        with clients_of(members, 2) as (_, client):
            os.kill(pid, signal.SIGSTOP)
            try:
                done = journal.write_down(1, "write", "/y", 1, lambda: client.put("/y", b"1") and None)
            finally:
                os.kill(pid, signal.SIGCONT)
        assert done.outcome == "unknown"
        assert done.returned - done.invoked == pytest.approx(CLIENT_S, abs=0.9)
