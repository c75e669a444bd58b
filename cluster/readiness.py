"""Waiting for nodes: who is not ready yet, what its console says meanwhile, and giving up early when hope is gone."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from cluster.cluster import Cluster
from cluster.node import Node
from terminal import Failure, Phases

SSH_S, ETCD_S, FLEET_S = 40.0, 30.0, 30.0
"""How long each stage may take with hardware; times the accelerator's factor."""
POLL_S = 0.5
UNITS_S = 2.0
"""Between two looks at a node for failed units, likewise scaled: each is a program run there."""
BANNER_DEADLINE_S = 5.0
ETCD_PORT = 2379
DIAGNOSIS = "cat /run/cloudconfig/status.json; systemctl --failed --no-legend --plain; journalctl --no-pager -o cat -n 15 -u etcd -u fleet -u cloudconfig"


class NotReady(Failure):
    """A node did not get there: which one is in :attr:`node`."""

    def __init__(self, message: str, node: Node, *, hint: str | None = None) -> None:
        super().__init__(message, where=node.name, hint=hint)
        self.node = node


def wait(
    cluster: Cluster,
    what: str,
    ready: Callable[[Node], bool],
    seconds: float,
    phases: Phases,
    units: tuple[str, ...] = (),
    nodes: Sequence[Node] | None = None,
) -> None:
    """Return when ``ready(node)`` was true once for each of ``nodes`` (all); ``what`` names it, ``seconds`` is with hardware.

    ``ready`` may raise :class:`Failure`, which means "not yet". Raises :class:`NotReady` in the end, and before it when hope is
    gone: a node is off, or one of ``units`` has failed on it.
    """
    factor = cluster.description.accelerator.factor
    seconds *= factor
    begin = looked = time.monotonic()
    unmet = {node.number: node for node in (cluster.nodes if nodes is None else nodes)}
    told = False
    executor = ThreadPoolExecutor(len(unmet))
    try:
        while True:
            for number, is_ready in zip(
                list(unmet), executor.map(lambda node: _is(ready, node), unmet.values()), strict=True
            ):
                if is_ready:
                    del unmet[number]
            if not unmet:
                return
            _require_on(cluster, list(unmet.values()))
            waited = time.monotonic() - begin
            first = next(iter(unmet.values()))
            if units and time.monotonic() - looked > UNITS_S * factor:
                require_not_failed(first, units)
                looked = time.monotonic()
            if waited > seconds:
                names = ", ".join(node.name for node in unmet.values())
                raise NotReady(f"{what}: not within {seconds:.0f} s on {names}", first)
            phases.detail(
                f"{', '.join(node.name for node in unmet.values())}; {first.name} says: {first.console_tail(1)[:100]}"
            )
            if not told and waited > seconds / 2:
                told = True
                phases.line(f"{what} takes long; the console of {first.name}:\n{indented(first.console_tail(5))}")
            time.sleep(POLL_S)
    finally:
        executor.shutdown(wait=False, cancel_futures=True)


def wait_ssh(cluster: Cluster, phases: Phases) -> None:
    """Every node's ssh server lets us in."""
    wait(cluster, "ssh", lambda node: greets(node) and node.run("true").rc == 0, SSH_S, phases)


def wait_etcd(cluster: Cluster, phases: Phases) -> None:
    """etcd, or the proxy for it, is healthy on every node."""
    wait(cluster, "etcd", is_etcd_healthy, ETCD_S, phases, ("cloudconfig.service", "etcd.service"))


def wait_fleet(cluster: Cluster, phases: Phases) -> None:
    """Fleet on every node lists all machines.

    One node after the other: asking is a program run on the node, and while one waits the others may as well get on with it.
    """
    size = cluster.description.size
    units = ("etcd.service", "fleet.service")
    for node in cluster.nodes:
        wait(cluster, "fleet", lambda node: len(machines(node)) == size, FLEET_S, phases, units, [node])


def greets(node: Node) -> bool:
    """Whether an ssh server speaks on the node's port: cheaper than a log-in, and QEMU takes connections before the node does."""
    try:
        with socket.create_connection(("127.0.0.1", node.ssh_port), timeout=BANNER_DEADLINE_S) as line:
            return line.recv(4) == b"SSH-"
    except OSError:
        return False


def is_etcd_healthy(node: Node) -> bool:
    """Whether the node's etcd takes writes, by its own word (``GET /health``). Raises :class:`Failure` if it does not listen."""
    status, body = node.http(ETCD_PORT, "GET", "/health")
    try:
        return status == 200 and json.loads(body).get("health") == "true"
    except (ValueError, AttributeError):
        return False


def machines(node: Node) -> list[str]:
    """The machines that fleet on ``node`` knows, a line each. Raises :class:`Failure` if it does not answer."""
    return node.check("fleetctl list-machines --no-legend").splitlines()


def require_not_failed(node: Node, units: tuple[str, ...]) -> None:
    """Raise :class:`NotReady` if one of ``units`` has failed on ``node`` for good; a node that cannot be asked has not."""
    try:
        result = node.run(f"systemctl is-failed {' '.join(units)}")
    except Failure:
        return
    failed = [unit for unit, state in zip(units, result.out.split(), strict=False) if state == "failed"]
    if failed:
        raise NotReady(f"{', '.join(failed)} has failed", node)


def explain(node: Node) -> str:
    """What can be said about a node that did not get there: its console's tail and, if it lets us in, its failed units and logs."""
    text = f"--- console of {node.name}, last lines ---\n{indented(node.console_tail(20))}"
    if greets(node):
        try:
            result = node.run(DIAGNOSIS)
        except Failure:
            return text
        text += f"\n--- failed units and logs of {node.name} ---\n{indented((result.out + result.err).strip())}"
    return text


def indented(text: str) -> str:
    """``text`` set off from what surrounds it."""
    return "\n".join(f"  | {line}" for line in text.splitlines()) or "  | (nothing)"


def _is(ready: Callable[[Node], bool], node: Node) -> bool:
    try:
        return ready(node)
    except Failure:
        return False


def _require_on(cluster: Cluster, nodes: list[Node]) -> None:
    states = {entry["node"]: entry for entry in cluster.ask("status")["nodes"]}
    for node in nodes:
        if states[node.number]["state"] == "off":
            raise NotReady(f"its machine is off: {states[node.number]['ended']}", node)
