#!/usr/bin/env python3
"""How long a node takes to boot, a cluster to come up, and a unit to be back after its node's plug was pulled.

* **boot**: one node of a cluster of one, by its own clock: from the kernel's first instruction to etcd healthy (its
  unit is active: the member answers) and to the machine listed by fleet (fleetd's own line in the journal).
* **cluster-up N**: from a built image to fleet on every node listing all machines, by phase.
* **restored**: ``cluster up N --cached`` when a snapshot of such a cluster is there, until fleet on every node lists
  all again.
* **namespaces**: the same cluster without virtual machines (``--driver namespaces``), where this computer can; its size
  and image are the same.
* **idle**: what the host's processes take when there are no requests: QEMU of a node, and the supervisor with its
  switch and services.
* **by hand**: the same nodes as one QEMU each with user networking (they cannot see each other), started together,
  until all greet by ssh: what the harness adds to that.
* **failover**: from SIGKILL of a QEMU to fleetctl showing the unit active on another machine, against the lease's time
  to live. The unit is /bin/sleep, so that what is measured is fleet, not docker. With ``--kills`` nothing but that is
  measured, in namespaces and many times: see :mod:`bench.failover`.

Nothing else should run on the computer; the load before is in the JSON line.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.failover import measure
from bench.filesystem import cpu_seconds, ended
from bench.report import machine, report, spread
from cluster.client.cluster import Cluster
from cluster.client.node import Node
from cluster.lifecycle import readiness
from cluster.lifecycle.restore import up_cached
from cluster.lifecycle.up import Options, built, prepare, up
from cluster.machines.namespaces import requirements
from cluster.model.machine import management_mac
from cluster.model.protocol import Status
from terminal import Phases

NAME = "bench"
UNIT = "bench.service"
TEXT = "[Service]\nExecStart=/usr/bin/sleep infinity\n"
PATIENCE_S = 600.0
POLL_S = 0.5
SETTLE_S, IDLE_S = 30.0, 60.0
"""After a cluster has come up, until it is idle; and how long it is looked at."""


def main() -> int:
    """Measure and report; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=3, help="nodes of the cluster (default: %(default)s)")
    parser.add_argument("--repeat", type=int, default=1, help="how often each is done (default: %(default)s)")
    parser.add_argument("--ttl", type=int, default=20, help="of a machine's lease, in seconds (default: %(default)s)")
    parser.add_argument("--kills", type=int, default=0, help="measure failovers alone: how many, of random nodes")
    parser.add_argument("--runs", type=int, default=0, help="and disturbances that must move nothing: how many of each")
    parser.add_argument("--ttls", default="8,12,20,30", help="the leases to do both with (default: %(default)s)")
    parser.add_argument("--kinds", default="etcd,links,pause", help="of disturbances (default: %(default)s; outage)")
    parser.add_argument("--seed", type=int, default=1, help="of what chance decides in them (default: %(default)s)")
    arguments = parser.parse_args()
    if arguments.kills or arguments.runs:
        ttls = [int(each) for each in arguments.ttls.split(",")]
        kinds = arguments.kinds.split(",")
        return measure(arguments.size, ttls, arguments.kills, arguments.runs, kinds, arguments.seed)
    facts = machine()
    boots: list[dict[str, float]] = []
    ups: list[dict[str, float]] = []
    failovers: list[float] = []
    restored: list[float] = []
    namespaces: list[float] = []
    idles: list[dict[str, float]] = []
    hands: list[float] = []
    for _ in range(arguments.repeat):
        boots.append(boot())
        hands.append(by_hand(arguments.size))
        seconds, idle, failover = cluster_up(arguments.size, arguments.ttl)
        idles.append(idle)
        restored.append(restore(arguments.size))
        if not requirements.lacks():
            namespaces.append(in_namespaces(arguments.size))
        ups.append(seconds)
        failovers.append(failover)
    rows = [[f"boot: {what}", spread([each[what] for each in boots])] for what in boots[0]]
    rows += [[f"cluster-up {arguments.size}: {what}", spread([each[what] for each in ups])] for what in ups[0]]
    rows.append([f"by hand, {arguments.size} QEMUs to ssh", spread(hands)])
    rows.append([f"restored, {arguments.size} nodes", spread(restored)])
    rows.append(["  of the cold cluster-up", f"1/{sum(each['all'] for each in ups) / sum(restored):.0f}"])
    if namespaces:
        rows.append([f"cluster-up {arguments.size} in namespaces", spread(namespaces)])
        rows.append(["  of the cold cluster-up", f"1/{sum(each['all'] for each in ups) / sum(namespaces):.0f}"])
    rows += [[f"idle: {what}", spread([each[what] for each in idles])] for what in idles[0]]
    rows.append([f"failover, lease of {arguments.ttl} s", spread(failovers)])
    found = {
        "boot": boots,
        "up": ups,
        "by_hand": hands,
        "restored": restored,
        "namespaces": namespaces,
        "idle": idles,
        "failover": failovers,
    }
    report(["what", "seconds"], rows, {**facts, **found, "ttl": arguments.ttl})
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


def cluster_up(size: int, ttl: int) -> tuple[dict[str, float], dict[str, float], float]:
    """The seconds of each phase, what it takes when idle, and the seconds of one failover."""
    down()
    try:
        begin = time.monotonic()
        outcome = up(Options(size=size, name=NAME, agent_ttl=f"{ttl}s"), Phases())
        total = time.monotonic() - begin
        return {**outcome.seconds, "all": total}, idle(outcome.cluster), failover(outcome.cluster)
    finally:
        down()


def restore(size: int) -> float:
    """Seconds of ``cluster up --cached`` with a snapshot there."""
    down()
    try:
        options = Options(size=size, name=NAME)
        up_cached(options, Phases())  # makes the snapshot, if it is the first
        down()
        begin = time.monotonic()
        up_cached(options, Phases())
        return time.monotonic() - begin
    finally:
        down()


def in_namespaces(size: int) -> float:
    """Seconds of ``cluster up --driver namespaces``."""
    down()
    try:
        begin = time.monotonic()
        up(Options(size=size, name=NAME, driver="namespaces"), Phases())
        return time.monotonic() - begin
    finally:
        down()


def idle(cluster: Cluster) -> dict[str, float]:
    """Processor (per cent of one) and memory (MiB, as the kernel divides what is shared) of the cluster's processes."""
    time.sleep(SETTLE_S)
    status = cluster.ask(Status())
    machines = [node.pid for node in status.nodes if node.pid is not None]
    before = {pid: cpu_seconds(pid) for pid in (*machines, status.pid)}
    time.sleep(IDLE_S)
    used = {pid: 100 * (cpu_seconds(pid) - before[pid]) / IDLE_S for pid in before}
    return {
        "% of a processor, a node": sum(used[pid] for pid in machines) / len(machines),
        "MiB, a node of 1024": sum(map(memory_mib, machines)) / len(machines),
        "% of a processor, the supervisor": used[status.pid],
        "MiB, the supervisor": memory_mib(status.pid),
    }


def memory_mib(pid: int) -> float:
    """The proportional set size of a process, proc(5)."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return int(next(line for line in text.splitlines() if line.startswith("Pss:")).split()[1]) / 1024


def by_hand(size: int) -> float:
    """Seconds until ``size`` nodes greet by ssh that were started as a user would start them who has our image and no
    harness.
    """
    down()
    try:
        phases = Phases()
        cluster = prepare(built(Options(size=size, name=NAME), phases), phases)
        begin = time.monotonic()
        with contextlib.ExitStack() as running:
            for node in cluster.nodes:
                running.enter_context(ended(subprocess.Popen(plain_qemu(node, cluster.layout.image))))
            waiting = set(cluster.nodes)
            while waiting:
                waiting -= {node for node in waiting if readiness.greets(node)}
                if time.monotonic() - begin > PATIENCE_S:
                    raise SystemExit(f"{len(waiting)} nodes did not greet within {PATIENCE_S:.0f} s")
                time.sleep(POLL_S)
        return time.monotonic() - begin
    finally:
        down()


def plain_qemu(node: Node, image: Path) -> list[str]:
    """The command line for one node with user networking alone."""
    disks = (
        ("root", image / "root.img", "on"),
        ("state", node.folder / "state.img", "off"),
        ("cidata", node.folder / "cidata.iso", "on"),
    )
    words: list[object] = [
        *("qemu-system-x86_64", "-M", "q35", "-accel", "tcg,tb-size=256", "-cpu", "max", "-smp", "1", "-m", "1024"),
        *("-nodefaults", "-no-user-config", "-display", "none", "-serial", f"file:{node.folder / 'console.log'}"),
        *("-kernel", image / "vmlinuz", "-initrd", image / "initrd.img"),
        *("-append", f"{(image / 'cmdline').read_text().strip()} flotilla.datasource=nocloud"),
        *("-netdev", f"user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:{node.ssh_port}-:22"),
        *("-device", f"virtio-net-pci,netdev=net,mac={management_mac(node.number)}", "-device", "virtio-rng-pci"),
    ]
    for name, path, read_only in disks:
        words += ["-drive", f"if=none,id={name},file={path},format=raw,cache=unsafe,readonly={read_only}"]
        words += ["-device", f"virtio-blk-pci,drive={name},serial={name}"]
    return list(map(str, words))


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
