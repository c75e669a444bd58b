"""A node's doors: trying them from a node and from a container on it, and user-data that says who may come in."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Final

import yaml

from cluster.client.node import Node

from .conftest import until
from .redis import IMAGE, START_S

PROBE: Final = Path(__file__).with_name("probe.py")
SILENT_S: Final = 20
"""A refusal comes at once; emulated nodes have so long to let one in."""
REFUSED: Final = frozenset({"EHOSTUNREACH", "EACCES"})
"""What ICMP's "administratively prohibited" becomes, in IPv4 and IPv6."""
HOST: Final = "10.77.0.1"
"""This computer, as nodes see it."""
_UNPRIVILEGED = "--cap-drop ALL --user 65534:65534 --security-opt no-new-privileges"


def prepare(node: Node, *, container: bool = True) -> None:
    """Put the probe onto the node and, with a ``container``, into one that has no privilege, and the node's own Python."""
    node.put(PROBE, "/tmp/probe.py")
    # The kernel reports six refusals to a container at once, and then one a second.
    node.ask("sysctl -q net.ipv4.icmp_ratelimit=0 net.ipv6.icmp.ratelimit=0")
    if container:
        mounts = "-v /usr:/usr:ro -v /tmp/probe.py:/tmp/probe.py:ro"
        node.ask(f"docker run -d --name intruder --dns {HOST} {_UNPRIVILEGED} {mounts} {IMAGE} sleep infinity", START_S)


def tried(node: Node, *targets: str, inside: bool = False) -> dict[str, str]:
    """What became of a connection to each, from the node, or from ``inside`` its container."""
    where = "docker exec intruder " if inside else ""
    command = f"{where}python3 -I /tmp/probe.py {SILENT_S} {shlex.join(targets)}"
    found: dict[str, str] = json.loads(node.ask(command, START_S))
    return found


def at(host: str, *ports: int) -> list[str]:
    return [f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for port in ports]


class Applied:
    """``with Applied(node, firewall):`` while the node's user-data says so."""

    def __init__(self, node: Node, firewall: object) -> None:
        self._node = node
        self._before = (node.folder / "user-data").read_text()
        self._wanted = "#cloud-config\n" + yaml.safe_dump({**yaml.safe_load(self._before), "firewall": firewall})

    def __enter__(self) -> None:
        self._apply(self._wanted)

    def __exit__(self, *_: object) -> None:
        self._apply(self._before)

    def _apply(self, text: str) -> None:
        loaded = "systemctl show --value --property=ExecMainStartTimestampMonotonic firewall"
        before = self._node.ask(loaded)
        self._node.ask(f"umask 077; printf %s {shlex.quote(text)} >/root/user-data")
        self._node.ask("cloudconfig apply --datasource file:/root/user-data && rm /root/user-data")
        until("the firewall is loaded again", lambda: self._node.ask(loaded) != before, 60, 0.1)
        near = "nft list set inet flotilla near4"
        until("it knows its neighbours", lambda: "10.77.0.0/24" in self._node.root(near).out, 60, 0.1)
