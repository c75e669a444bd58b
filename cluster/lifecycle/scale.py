"""Nodes that join a running cluster, and nodes that leave it.

Either is complete once it is in ``cluster.json``; until then, the torso is cleaned up.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from cluster.client import cluster as clusters
from cluster.client.cluster import Cluster
from cluster.client.node import Node
from cluster.faults import stall
from cluster.lifecycle import membership, ports, preflight, provision, readiness
from cluster.lifecycle.readiness import Readiness
from cluster.model import connection_uri
from cluster.model.description import members_of
from cluster.model.layout import Layout
from cluster.model.machine import NODES_MAX
from cluster.model.protocol import Adopt
from terminal import Failure, Phases, UsageFailure

PROMOTION_S = 60.0
"""For a new member of etcd to have what the others have, with hardware; times the accelerator's factor."""


def add(name: str, count: int, phases: Phases, load_images: Sequence[Path] = ()) -> list[Node]:
    """Have ``count`` further nodes join the running cluster ``name``, one after the other; returns them.

    Each is a member of etcd if the cluster, as large as it is now, should have more members than it has, else a proxy.
    It gets the images that all nodes were given, and ``load_images``. Raises :class:`Failure`; the node that did not
    become ready is gone then.
    """
    layout = Layout.of(name)
    with clusters.changing(layout):
        cluster = _whole(name)
        if not 1 <= count <= NODES_MAX - max(cluster.description.last_number, *cluster.description.numbers):
            raise UsageFailure(f"{count} more nodes: numbers go from 1 to {NODES_MAX}", hint="cluster add")
        kind, memory_mib = cluster.description.accelerator.name, cluster.description.memory_mib
        first = max(cluster.description.last_number, *cluster.description.numbers) + 1
        here = connection_uri.count_here(cluster.description.connect, range(first, first + count))
        preflight.require_memory(here, memory_mib, kind, preflight.free_memory_mib())
        preflight.require_disk(cluster.layout.state, count, 0, preflight.free_disk_bytes(cluster.layout.state))
        return [_add(cluster.name, phases, load_images) for _ in range(count)]


def _add(name: str, phases: Phases, load_images: Sequence[Path]) -> Node:
    before = Cluster.open(name)
    old = before.description
    is_member = members_of(old.size + 1) > old.members
    joins = _Joining(before)
    try:
        with clusters.choosing_ports():
            reserved = {
                port
                for other in Cluster.list()
                for port in (*other.description.ssh_ports, other.description.discovery_port)
            }
            new = old.joined(ports.choose(1, reserved)[0], member=is_member)
            cluster = Cluster(before.layout, new)
            node = cluster.nodes[-1]
            with phases.phase(f"preparing {node.name}, a {new.role(node.number)} of etcd"):
                joins.prepare(cluster, node)
        joins.boot(cluster, node, phases)
        for archive in (*map(Path, old.load_images), *load_images):
            if archive.exists():
                with phases.phase(f"loading {archive.name} on {node.name}"):
                    node.load_image(archive)
            else:
                phases.line(f"{archive} is gone: {node.name} does not have what is in it")
        new.save(cluster.layout.description)
        return node
    except BaseException:
        with clusters.undisturbed():
            joins.undo()
        raise
    finally:
        before.close()


class _Joining:
    """One node on its way into a cluster, and the way back."""

    def __init__(self, before: Cluster) -> None:
        self._before = before
        self._learner: membership.Member | None = None

    def prepare(self, cluster: Cluster, node: Node) -> None:
        description, initial_cluster = cluster.description, ""
        if description.role(node.number) == "member":
            self._learner, initial_cluster = membership.add(self._before.nodes[0], node)
        variables = provision.variables(
            description,
            cluster.layout,
            node.number,
            token=description.token,
            public_key=cluster.layout.key.with_suffix(".pub").read_text().strip(),
            initial_cluster=initial_cluster,
        )
        template = description.template or provision.template_text(None)
        provision.provision_node(
            description, cluster.layout, node.number, template, variables, "the cluster's template"
        )
        cluster.ask(Adopt(description))
        node.start()

    def boot(self, cluster: Cluster, node: Node, phases: Phases) -> None:
        try:
            with Readiness([node], cluster.description.size, cluster.ask, phases) as ready:
                with phases.phase(f"waiting for {node.name}"):
                    ready.wait_shell()
                    ready.wait_ssh()
                if self._learner is not None:
                    with phases.phase("waiting for it to know what etcd knows"):
                        self._promote(self._before.nodes[0])
                with phases.phase("waiting for etcd"):
                    ready.wait_etcd()
                with phases.phase("waiting for fleet to list it"):
                    ready.wait_fleet()
        except readiness.NotReady as failure:
            phases.line(readiness.explain(failure.node, cluster.description.accelerator.factor))
            raise
        finally:
            node.close()

    def _promote(self, by: Node) -> None:
        assert self._learner is not None
        deadline = time.monotonic() + PROMOTION_S * by.factor
        while True:
            try:
                return membership.promote(by, self._learner)
            except Failure:
                if time.monotonic() > deadline:
                    raise
            time.sleep(1)

    def undo(self) -> None:
        if self._learner is not None:
            with suppress(
                Failure
            ):  # the error that brought us here is the one to report; the next 'add' forgets the learner
                membership.remove(self._before.nodes[0], self._learner)
        self._before.tidy()


def remove(name: str, text: str, phases: Phases) -> Node:
    """Remove the node called ``text`` from the running cluster ``name``; returns what it was.

    It leaves etcd, is switched off, and its files are removed.

    Its units go elsewhere, as when a machine is lost. Raises :class:`Failure` if etcd would not go on without it.
    """
    layout = Layout.of(name)
    with clusters.changing(layout):
        cluster = Cluster.open(name)
        cluster.require_running()
        node = cluster.node(text)
        if len(cluster.nodes) == 1:
            raise Failure(f"{node.name} is the last node", hint=f"cluster down --name {name} removes the cluster")
        cluster.tidy()
        others = [each for each in cluster.nodes if each.number != node.number]
        with phases.phase(f"taking {node.name} out of etcd"):
            _leave_etcd(node, others)
        left = cluster.description.left(node.number)
        with phases.phase(f"switching {node.name} off"):
            node.stop()
            # From here on it is gone, whatever happens: the rest is tidied by the next command, too.
            left.save(cluster.layout.description)
            after = Cluster(cluster.layout, left)
            after.tidy()
            _forget_key(cluster.layout.known_hosts, node)
        after.close()
        cluster.close()
        return node


def _leave_etcd(node: Node, others: list[Node]) -> None:
    """By etcd's own list: the nodes may have replaced members since the cluster was described."""
    asked = [each for each in others if each.has_shell and membership.is_healthy(each)]
    if not asked:
        raise Failure(f"no node but {node.name} has an etcd that answers", hint="start others first (cluster start)")
    by = asked[0]
    listed = membership.members(by)
    own = [member for member in listed if member.is_on(node)]
    voters = [each for each in others if any(member.is_on(each) and not member.learner for member in listed)]
    healthy = [each for each in voters if each in asked]
    needed = len(voters) // 2 + 1
    if own and len(healthy) < needed:
        names = ", ".join(each.name for each in voters if each not in healthy) or "none"
        raise Failure(
            f"without {node.name}, etcd has {len(voters)} members and needs {needed} that are well; "
            f"{len(healthy)} are (not: {names})",
            hint="start those first (cluster start), or add nodes (cluster add)",
        )
    membership.forget(by, node)
    for member in own:
        membership.remove(by, member)


def _whole(name: str) -> Cluster:
    """The cluster, running with all its nodes and without torsos."""
    cluster = Cluster.open(name)
    cluster.require_running()
    if not cluster.description.token:
        raise Failure(f"cluster {name!r} was made by an older version, and cannot take nodes in", hint="make it again")
    cluster.tidy()
    for entry in cluster.status()["nodes"]:
        if entry["state"] != "running":
            start = f"cluster start {entry['name']}, or, if it is lost for good: cluster remove {entry['name']}"
            hint = stall.HINT if entry["state"] == "stalled" else start
            raise Failure(f"{entry['name']} is {entry['state']}: a node can join only while all others run", hint=hint)
    _forget_torsos(cluster)
    return cluster


def _forget_torsos(cluster: Cluster) -> None:
    """Remove unknown members from etcd: a killed command may have added a node that was never made."""
    by = cluster.nodes[0]
    for member in membership.members(by):
        if not any(map(member.is_on, cluster.nodes)):
            membership.remove(by, member)


def _forget_key(known_hosts: Path, node: Node) -> None:
    lines = known_hosts.read_text().splitlines(keepends=True)
    known_hosts.write_text("".join(line for line in lines if node.name not in line.split(" ")[0].split(",")))
