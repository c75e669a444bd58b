#!/usr/bin/env python3
"""How long a node takes to boot, a cluster to come up, and a unit to be back after its node's plug was pulled.

* **boot**: one node of a cluster of one, by its own clock: from the kernel's first instruction to etcd healthy (its unit is active: the
  member answers) and to the machine listed by fleet (fleetd's own line in the journal).
* **cluster-up N**: from a built image to fleet on every node listing all machines, by phase.
* **failover**: from SIGKILL of a QEMU to fleetctl showing the unit active on another machine, against the lease's time to live. The unit is
  /bin/sleep, so that what is measured is fleet, not docker.

Nothing else should run on the computer; the load before is in the JSON line.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from report import machine, spread, tell

from cluster.cluster import Cluster
from cluster.node import Node
from cluster.up import Options, up
from terminal import Phases

NAME = "bench"
UNIT = "bench.service"
TEXT = "[Service]\nExecStart=/usr/bin/sleep infinity\n"
PATIENCE_S = 600.0
POLL_S = 0.5


def main() -> int:
    """Measure and tell; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=3, help="nodes of the cluster (default: %(default)s)")
    parser.add_argument("--repeat", type=int, default=1, help="how often each is done (default: %(default)s)")
    parser.add_argument("--ttl", type=int, default=20, help="of a machine's lease, in seconds (default: %(default)s)")
    arguments = parser.parse_args()
    facts = machine()
    boots: list[dict[str, float]] = []
    ups: list[dict[str, float]] = []
    failovers: list[float] = []
    for _ in range(arguments.repeat):
        boots.append(boot())
        seconds, failover = cluster_up(arguments.size, arguments.ttl)
        ups.append(seconds)
        failovers.append(failover)
    rows = [[f"boot: {what}", spread([each[what] for each in boots])] for what in boots[0]]
    rows += [[f"cluster-up {arguments.size}: {what}", spread([each[what] for each in ups])] for what in ups[0]]
    rows.append([f"failover, lease of {arguments.ttl} s", spread(failovers)])
    tell(["what", "seconds"], rows, {**facts, "boot": boots, "up": ups, "failover": failovers, "ttl": arguments.ttl})
    return 0


def boot() -> dict[str, float]:
    """Seconds since the kernel's start at which one node got somewhere."""
    down()
    try:
        cluster = up(Options(size=1, name=NAME), Phases()).cluster
        node = cluster.nodes[0]
        return {
            "user-data applied": active(node, "cloudconfig.service"),
            "ssh": active(node, "ssh.service"),
            "etcd healthy": active(node, "etcd.service"),
            "machine listed": registered(node),
        }
    finally:
        down()


def active(node: Node, unit: str) -> float:
    """When ``unit`` became active, in seconds since the kernel's start."""
    return int(node.check(f"systemctl show -P ActiveEnterTimestampMonotonic {unit}")) / 1e6


def registered(node: Node) -> float:
    """When fleetd wrote that its machine is registered, in seconds since the kernel's start."""
    words = "journalctl --unit fleet --output short-monotonic --no-pager --grep registered | head -n 1"
    return float(node.check(words).partition("[")[2].partition("]")[0])


def cluster_up(size: int, ttl: int) -> tuple[dict[str, float], float]:
    """The seconds of each phase, and of one failover."""
    down()
    try:
        begin = time.monotonic()
        outcome = up(Options(size=size, name=NAME, agent_ttl=f"{ttl}s"), Phases())
        total = time.monotonic() - begin
        return {**outcome.seconds, "all": total}, failover(outcome.cluster)
    finally:
        down()


def failover(cluster: Cluster) -> float:
    """Seconds from SIGKILL to the unit active elsewhere, as a user sees it."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / UNIT).write_text(TEXT)
        fleetctl(cluster, "start", str(Path(folder) / UNIT))
    home = place(cluster)
    node = next(node for node in cluster.nodes if node.address == home)
    begin = time.monotonic()
    node.kill()
    while place(cluster) in ("", home):
        if time.monotonic() - begin > PATIENCE_S:
            raise SystemExit(f"{UNIT} was not active elsewhere within {PATIENCE_S:.0f} s")
        time.sleep(POLL_S)
    return time.monotonic() - begin


def place(cluster: Cluster) -> str:
    """The address of the machine on which the unit is active; empty for none."""
    for line in fleetctl(
        cluster, "list-units", "--no-legend", "--full", "--fields", "unit,machine,active"
    ).splitlines():
        unit, at, state = line.split()
        if unit == UNIT and state == "active":
            return at.partition("/")[2]
    return ""


def fleetctl(cluster: Cluster, *arguments: str) -> str:
    """What fleetctl printed; empty while the cluster does not answer."""
    command = [str(Path(sys.executable).parent / "fleetctl"), *arguments]
    environment = {**os.environ, **cluster.exports()}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False).stdout


def down() -> None:
    """As ``cluster-down --name bench``."""
    command = [str(Path(sys.executable).parent / "cluster-down"), "--name", NAME]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


if __name__ == "__main__":
    sys.exit(main())
