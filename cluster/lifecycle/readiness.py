"""Waiting for nodes.

It shows which are not ready yet and what their consoles print, and ends early when success is impossible.

Nodes report their progress themselves (:mod:`cluster.lifecycle.startup`). A node without a root shell, of an older
image for example, is checked by ssh.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

from cluster.client.node import Node
from cluster.faults import stall
from cluster.lifecycle import startup
from cluster.lifecycle.startup import StartupReports
from cluster.model.protocol import Ask, Status
from terminal import Failure, Phases

SHELL_S, SSH_S, ETCD_S, FLEET_S = 40.0, 40.0, 30.0, 30.0
"""How long each stage may take with hardware; times the accelerator's factor."""
POLL_S = 0.5
UNITS_S = 2.0
"""Between two looks at a node for failed units, likewise scaled: each is a program run there."""
MUTE_S = 3.0
"""How long the root shell may come after ssh, likewise, before the node counts as one without.

It normally comes well before ssh.
"""
KNOCK_S = 2.0
"""Between two checks for ssh without a root shell. Each is a connection that a node refuses while it starts."""
BANNER_DEADLINE_S = 5.0
EXPLAIN_S = 10.0
"""For collecting the diagnosis of a node in trouble, likewise."""
HOST_KEY = "/etc/ssh/ssh_host_ed25519_key.pub"
DIAGNOSIS = (
    "cat /run/cloudconfig/status.json; systemctl --failed --no-legend --plain; "
    "journalctl --no-pager -o cat -n 15 -u etcd -u fleet -u cloudconfig"
)


class NotReady(Failure):
    """A node did not get there: which one is in :attr:`node`."""

    def __init__(self, message: str, node: Node, *, hint: str | None = None) -> None:
        super().__init__(message, where=node.name, hint=hint)
        self.node = node


class Readiness:
    """Waits for nodes of one cluster, stage by stage, from the start of their machines to :meth:`close`.

    All ``wait_...`` raise :class:`NotReady` at the deadline, or earlier if success is impossible: a node is off, or a
    unit has failed on it.
    """

    def __init__(self, nodes: Sequence[Node], size: int, ask: Ask, phases: Phases) -> None:
        """``size`` is how many nodes the cluster has, ``ask`` sends requests to its supervisor.

        Raises :class:`Failure` if the supervisor does not answer.
        """
        self._nodes, self._size, self._ask, self._phases = nodes, size, ask, phases
        self._factor = nodes[0].factor
        self._reports = StartupReports(nodes[0].control, [node.number for node in nodes], size, self._factor)
        self._mute: set[int] = set()
        self._knocked: dict[int, float] = {}
        self._greeted: dict[int, float] = {}

    def __enter__(self) -> Readiness:
        return self

    def __exit__(self, *_: object) -> None:
        self._reports.close()

    def wait_shell(self) -> None:
        """Wait for every node's root shell. Nodes without one that accept ssh are checked by ssh from now on."""
        self._wait("root shell", self._begins, SHELL_S)
        if mute := [node for node in self._nodes if node.number in self._mute]:
            self._phases.line(
                f"no root shell on {names(mute)} (an older image?): checked by ssh, "
                "and 'cluster console' has only its log"
            )

    def wait_ssh(self) -> None:
        """Every node's ssh server lets us in, and its key is known."""
        self._wait("ssh", self._lets_in, SSH_S)

    def wait_etcd(self) -> None:
        """etcd, or the proxy for it, is healthy on every node."""
        self._wait(
            "etcd", self._reported_or(startup.ETCD, is_etcd_healthy), ETCD_S, ("cloudconfig.service", "etcd.service")
        )

    def wait_fleet(self) -> None:
        """Fleet on every node lists all machines."""
        ready = self._reported_or(startup.FLEET, lambda node: len(machines(node)) == self._size)
        if not self._mute:
            self._wait("fleet", ready, FLEET_S)
            return
        # One node after the other: each check runs a program on the node, and the others make progress meanwhile.
        for node in self._nodes:
            self._wait("fleet", ready, FLEET_S, ("etcd.service", "fleet.service"), [node])

    def _begins(self, node: Node) -> bool:
        if self._reports.of(node.number).uptime is not None:
            return True
        if time.monotonic() - self._knocked.get(node.number, 0.0) < KNOCK_S:
            return False
        self._knocked[node.number] = time.monotonic()
        if greets(node):
            since = self._greeted.setdefault(node.number, time.monotonic())
            if time.monotonic() - since > MUTE_S * self._factor:
                self._mute.add(node.number)
        return node.number in self._mute

    def _lets_in(self, node: Node) -> bool:
        if node.number in self._mute:
            return greets(node) and node.run("true").rc == 0
        if startup.SSH not in self._reports.of(node.number).holds:
            return False
        node.pin(node.root(f"cat {HOST_KEY}").out)
        return True

    def _reported_or(self, what: str, check: Callable[[Node], bool]) -> Callable[[Node], bool]:
        return lambda node: check(node) if node.number in self._mute else what in self._reports.of(node.number).holds

    def _wait(
        self,
        what: str,
        ready: Callable[[Node], bool],
        seconds: float,
        units: tuple[str, ...] = (),
        nodes: Sequence[Node] | None = None,
    ) -> None:
        """Return when ``ready(node)`` was true once for each of ``nodes`` (all).

        ``what`` names the stage, ``seconds`` is with hardware.

        ``ready`` may raise :class:`Failure`, which means "not yet". ``units`` are checked on nodes that do not report
        by themselves.
        """
        seconds *= self._factor
        begin = looked = time.monotonic()
        unmet = {node.number: node for node in (self._nodes if nodes is None else nodes)}
        is_reported = False
        executor = ThreadPoolExecutor(len(unmet))
        try:
            while True:
                answers = executor.map(lambda node: _is(ready, node), unmet.values())
                for number, is_ready in zip(list(unmet), answers, strict=True):
                    if is_ready:
                        del unmet[number]
                if not unmet:
                    return
                self._require_on(unmet.values())
                self._require_no_failure()
                waited = time.monotonic() - begin
                first = next(iter(unmet.values()))
                if units and first.number in self._mute and time.monotonic() - looked > UNITS_S * self._factor:
                    require_not_failed(first, units)
                    looked = time.monotonic()
                if waited > seconds:
                    raise NotReady(f"{what}: not within {seconds:.0f} s on {names(unmet.values())}", first)
                self._phases.detail(f"{names(unmet.values())}; {first.name} says: {first.console_tail(1)[:100]}")
                if not is_reported and waited > seconds / 2:
                    is_reported = True
                    tail = indented(first.console_tail(5))
                    self._phases.line(f"{what} takes long; the console of {first.name}:\n{tail}")
                self._reports.wait(POLL_S)
        finally:
            executor.shutdown(wait=False, cancel_futures=True)

    def _require_on(self, nodes: Iterable[Node]) -> None:
        states = {state.node: state for state in self._ask(Status()).nodes}
        for node in nodes:
            state = states[node.number]
            if state.state == "off":
                raise NotReady(f"its machine is off: {state.ended}", node)
            if state.state == "stalled":
                raise NotReady(f"it is stalled: {stall.WHY}", node, hint=stall.HINT)

    def _require_no_failure(self) -> None:
        for node in self._nodes:
            if failed := self._reports.of(node.number).failed:
                raise NotReady(f"{', '.join(failed)} has failed", node)


def names(nodes: Iterable[Node]) -> str:
    """Their names, for people."""
    return ", ".join(node.name for node in nodes)


def greets(node: Node) -> bool:
    """Whether an ssh server answers on the node's port.

    This is cheaper than a log-in, and QEMU accepts connections before the node does.
    """
    try:
        with socket.create_connection(("127.0.0.1", node.ssh_port), timeout=BANNER_DEADLINE_S) as line:
            return line.recv(4) == b"SSH-"
    except OSError:
        return False


def is_etcd_healthy(node: Node) -> bool:
    """Whether the node's etcd takes writes, or its proxy reaches one that does. Raises :class:`Failure` without ssh."""
    return node.run("etcdctl endpoint health").rc == 0


def machines(node: Node) -> list[str]:
    """The machines that fleet on ``node`` knows, a line each. Raises :class:`Failure` if it does not answer."""
    return node.check("fleetctl list-machines --no-legend").splitlines()


def require_not_failed(node: Node, units: tuple[str, ...]) -> None:
    """Raise :class:`NotReady` if one of ``units`` has failed on ``node`` for good.

    For a node that does not answer, none has.
    """
    try:
        result = node.run(f"systemctl is-failed {' '.join(units)}")
    except Failure:
        return
    failed = [unit for unit, state in zip(units, result.out.split(), strict=False) if state == "failed"]
    if failed:
        raise NotReady(f"{', '.join(failed)} has failed", node)


def explain(node: Node, factor: float = 1.0) -> str:
    """The diagnosis of a node that did not become ready.

    It has the end of its console and, if it lets us in, its failed units and logs.
    """
    text = f"--- console of {node.name}, last lines ---\n{indented(node.console_tail(20))}"
    try:
        if node.has_shell:
            result = node.root(DIAGNOSIS, EXPLAIN_S * factor)
        elif greets(node):
            result = node.run(DIAGNOSIS)
        else:
            return text
    except Failure as failure:
        return f"{text}\n--- {node.name} does not say more: {failure.message} ---"
    return f"{text}\n--- failed units and logs of {node.name} ---\n{indented((result.out + result.err).strip())}"


def indented(text: str) -> str:
    """``text`` set off from what surrounds it."""
    return "\n".join(f"  | {line}" for line in text.splitlines()) or "  | (nothing)"


def _is(ready: Callable[[Node], bool], node: Node) -> bool:
    try:
        return ready(node)
    except Failure:
        return False
