"""What fleet's own functional tests had around them: their units, and one cluster that is left as it was by each test.

A change is one of ``fleetctl``'s, run on a node; a look is one of the API, by one ssh connection from this computer, so
that looking again costs nothing.
"""

from __future__ import annotations

import contextlib
import json
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from cluster.client.cluster import Cluster
from cluster.client.eventually import eventually
from cluster.client.node import Node
from fleet.ctl.client import Client
from fleet.ctl.endpoint import Endpoint
from fleet.ctl.reach import Reach, Settings
from fleet.ctl.transport import Ssh, parse_tunnel

from .conftest import Answer, Fleetctl

T = TypeVar("T")
SOCKET = "unix:///run/fleet.sock"
FOLDER = "units"
"""Of the unit files, in the home of ``core`` on the first node."""
WITHIN_S = 60.0
"""With hardware; what these tests wait for takes seconds."""
COMMAND_S = 120.0
LOOK_S = 0.1


def service(says: str, *fleet: str, unit: str = "", more: str = "") -> str:
    """A loop that says something each second; ``fleet`` are lines of ``[X-Fleet]``, ``unit`` and ``more`` of others."""
    command = f'/bin/sh -c "while :; do echo {says}; sleep 1; done"'
    loop = f"[Unit]\nDescription={says}\n{unit}\n[Service]\nExecStart={command}\n"
    section = "".join(f"{line}\n" for line in fleet)
    return loop + more + (f"\n[X-Fleet]\n{section}" if fleet else "")


ONE_NODE = "MachineMetadata=name=node-2"
"""Where the ancestor's cluster had one node."""
CORPUS = {
    "hello.service": service("Hello"),
    "hello@.service": service("Hello from %i"),
    "goodbye.service": service("Goodbye"),
    "discovery.service": service(
        "Discovery",
        "MachineOf=hello.service",
        unit="BindsTo=hello.service\nAfter=hello.service\n",
        more="\n[Install]\nWantedBy=hello.service\n",
    ),
    **{f"ping.{number}.service": service("ping") for number in range(3)},
    **{f"pong.{number}.service": service("pong", f"MachineOf=ping.{number}.service") for number in range(3)},
    **{f"conflict.{number}.service": service("conflict", "Conflicts=conflict.*.service") for number in range(5)},
    "conflict.multiple.0.service": service(
        "many", ONE_NODE, "Conflicts=conflict.multiple.2.service conflict.multiple.1.*"
    ),
    "conflict.multiple.1.service": service(
        "many", ONE_NODE, "Conflicts=conflict.multiple.0.*", "Conflicts=conflict.multiple.2.*"
    ),
    "conflict.multiple.2.service": service("many", ONE_NODE, "Conflicts=none.*", "Conflicts=*.multiple.*"),
    "conflicts-with-hello.service": service("alone", ONE_NODE, "Conflicts=hello-here.service"),
    "hello-here.service": service("Hello", ONE_NODE),
    "global.service": service("everywhere", "Global=true"),
    **{
        f"conflict-global.{number}.service": service("first", "Global=true", "Conflicts=conflict-global.*.service")
        for number in range(2)
    },
    "pin@.service": service("pinned", "MachineID=%i"),
    "metadata@.service": service("chosen", "MachineMetadata=name=%i"),
    "replace.0.service": service("old"),
    "replace.kick.service": service("kick", ONE_NODE, "Replaces=replace.circle.service"),
    "replace.circle.service": service("circle", ONE_NODE, "Replaces=replace.kick.service"),
}
"""What of the ancestor's 31 unit files differs in more than its name. A test of several machines there, whose cluster
had one, has its units on one here.
"""


class Fleet:
    """The cluster for one test after the other. ``control`` is the node on which ``fleetctl`` runs; none harms it."""

    def __init__(self, cluster: Cluster, folder: Path, *, ttl_s: int) -> None:
        self.cluster = cluster
        self.control, *_ = cluster.nodes
        self.from_here = Fleetctl(cluster)
        self.ttl_s = ttl_s
        self._folder = folder
        self._factor = self.control.factor
        environment = cluster.exports()
        ssh = Ssh(
            user=environment["FLEETCTL_SSH_USERNAME"],
            timeout_s=float(environment["FLEETCTL_SSH_TIMEOUT"]),
            known_hosts=cluster.layout.known_hosts,
            identity=cluster.layout.key,
        )
        tunnel = tuple(parse_tunnel(environment["FLEETCTL_TUNNEL"])[:1])
        self._reach = Reach(Settings((Endpoint.parse(SOCKET),), tunnel, ssh, COMMAND_S * self._factor))
        self.write(CORPUS)

    @property
    def client(self) -> Client:
        """The API of ``control``."""
        return self._reach.client

    def close(self) -> None:
        """Hang up."""
        self._reach.close()

    def write(self, units: dict[str, str]) -> None:
        """Put unit files beside those of the corpus."""
        script = self._folder / "units.sh"
        lines = [f"printf %s {shlex.quote(text)} > {FOLDER}/{shlex.quote(name)}" for name, text in units.items()]
        script.write_text("\n".join(["set -e", f"mkdir -p {FOLDER}", *lines]) + "\n")
        written = self.control.run("sh", stdin=script)
        assert written.rc == 0, written

    def ctl(self, *arguments: str) -> Answer:
        """Run ``fleetctl`` where the unit files are; never raises for a bad exit code."""
        line = f"cd {FOLDER} && {shlex.join(['fleetctl', *arguments])}"
        done = self.control.run(line, COMMAND_S * self._factor)
        return Answer(done.rc, done.out, done.err)

    def check(self, *arguments: str) -> str:
        """The same; it must succeed. Returns what it printed."""
        answer = self.ctl(*arguments)
        assert answer.code == 0, f"fleetctl {arguments}: {answer}"
        return answer.out

    def http(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        """One request to the API: status, and the JSON of the answer, if it has any."""
        with contextlib.closing(self.client.endpoint.connection(COMMAND_S * self._factor)) as connection:
            headers = {} if body is None else {"Content-Type": "application/json"}
            connection.request(method, f"/fleet/v1/{path}", None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            content = answer.read()
            return answer.status, json.loads(content) if content else None

    def soon(self, holds: Callable[[], T], what: str = "") -> T:
        """The first true answer."""
        return eventually(holds, WITHIN_S * self._factor, what=what, pause_s=LOOK_S)

    def machines(self) -> dict[str, Node]:
        """Machine id -> node, of those that are alive."""
        nodes = {node.address: node for node in self.cluster.nodes}
        return {machine.id: nodes[machine.ip] for machine in self.client.machines()}

    def all_there(self) -> bool:
        """Whether the cluster has all machines."""
        return len(self.machines()) == len(self.cluster.nodes)

    def running(self) -> dict[str, list[Node]]:
        """Unit -> nodes whose machines report that systemd has it active, sorted."""
        nodes = self.machines()
        found: dict[str, list[Node]] = {}
        for state in self.client.states():
            if state.active == "active" and state.machine in nodes:
                found.setdefault(state.name, []).append(nodes[state.machine])
        return {unit: sorted(where, key=lambda node: node.number) for unit, where in found.items()}

    def home(self, unit: str) -> Node:
        """The one node where it is active. Raises AssertionError if there is none, or more."""
        where = self.running().get(unit, [])
        assert len(where) == 1, f"{unit} is active on {[node.name for node in where]}"
        return where[0]

    def files(self) -> dict[str, tuple[str, str]]:
        """Unit -> its desired and its current state."""
        return {each.name: (each.desired, each.current) for each in self.client.units()}

    def reason(self, unit: str) -> str:
        """Why it is nowhere, in the engine's words; "" if it has none."""
        found = self.client.unit(unit)
        return "" if found is None else found.reason

    @contextlib.contextmanager
    def without(self, node: Node, service: str) -> Iterator[None]:
        """A service of a node is stopped in this block."""
        node.ask(f"systemctl stop {service}")
        try:
            yield
        finally:
            node.ask(f"systemctl start {service}")

    def clean(self) -> None:
        """All machines are there, and no unit is."""
        self.soon(self.all_there, "all machines are there")
        for unit in self.client.units():
            self.client.delete(unit.name)
        self.soon(lambda: not self.client.states(), "no unit is left")


def since(node: Node, unit: str) -> dict[str, str]:
    """Whether the unit is active, its process, and systemd's time of its start; a restart changes the latter two."""
    return node.unit(unit).properties("ActiveState", "MainPID", "ActiveEnterTimestampMonotonic")


def is_active(node: Node, unit: str) -> bool:
    """Whether systemd has it active there, whatever fleet says."""
    return since(node, unit)["ActiveState"] == "active"


def says(node: Node, text: str, unit: str = "fleet") -> Callable[[], bool]:
    """Whether the node's journal has ``text``, of fleetd or about a unit, from now on."""
    begin = node.ask("date +%s.%N").strip()
    return lambda: text in node.journal(unit, since=f"@{begin}")
