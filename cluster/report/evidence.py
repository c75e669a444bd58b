"""What can be learned from the nodes of a cluster after a test failed, before they are gone."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from cluster.client.cluster import Cluster
from cluster.client.node import Node
from cluster.lifecycle import snapshot
from cluster.machines import qemu
from terminal import Failure

CONSOLE_LINES = 30
LOOK_S = 10.0
"""For looking at a node, with hardware; times the accelerator's factor."""
SEPARATOR = "\x1e"
UNITS = r"""
systemctl --failed --plain --no-legend
systemctl --failed --plain --no-legend | while read -r unit rest; do
    echo "-- journal of $unit"; journalctl --no-pager --quiet --output=short-precise --lines=15 --unit="$unit"
done"""
ETCD = r"""
etcdctl --command-timeout=4s --write-out=table endpoint status 2>&1
etcdctl --command-timeout=4s --write-out=table member list 2>&1
etcdctl --command-timeout=4s alarm list 2>&1"""
QUESTIONS = rf"{UNITS}; printf '\036'; {ETCD}"


@dataclass(frozen=True, slots=True)
class NodeEvidence:
    """One node.

    It has its machine's ``state``, the end of its console, failed units with their journals, and its etcd's report.
    """

    name: str
    state: str
    console: str
    units: str
    etcd: str

    def section(self) -> str:
        """All of it for a terminal."""
        parts = [("console, last lines", self.console or "(nothing)"), ("failed units", self.units or "none")]
        parts += [("etcd", self.etcd)] if self.etcd else []
        return "\n".join([f"machine: {self.state}", *(f"--- {title} ---\n{text}" for title, text in parts)])


def gather(cluster: Cluster) -> list[NodeEvidence]:
    """The evidence from each node, collected from all at once. For a node that does not answer, it has the reason."""
    try:
        states = {
            entry["name"]: entry["state"] + (f" ({entry['ended']})" if entry["ended"] else "")
            for entry in cluster.status()["nodes"]
        }
    except Failure as trouble:
        states = {node.name: f"unknown: {trouble}" for node in cluster.nodes}
    with ThreadPoolExecutor(len(cluster.nodes)) as executor:
        return list(executor.map(lambda node: look(node, states[node.name]), cluster.nodes))


def look(node: Node, state: str) -> NodeEvidence:
    """The evidence from ``node``; ``state`` is its machine's."""
    units, etcd = "", ""
    if state.startswith("running"):
        try:
            units, _, etcd = node.root(QUESTIONS, LOOK_S * node.factor).out.partition(SEPARATOR)
        except Failure as trouble:
            units = f"(it does not answer: {trouble})"
    return NodeEvidence(node.name, state, node.console_tail(CONSOLE_LINES), units.strip(), etcd.strip())


def provenance(cluster: Cluster, root: Path) -> dict[str, str]:
    """What was tested, on what: for the properties of a report. ``root`` is the folder of the tests."""
    description = cluster.description
    accelerator = description.accelerator
    try:
        program = qemu.find(architecture=description.architecture)
        version = program.build or program.version_text
        image = snapshot.image_hash(cluster.layout.image)
    except (Failure, OSError) as trouble:
        version, image = "", f"unknown: {trouble}"
    return {
        "image": image,
        "commit": commit(root),
        "qemu": version,
        "accelerator": f"{accelerator.name}, {accelerator.factor:g} times slower than hardware ({accelerator.reason})",
        "nodes": f"{description.size} of {description.memory_mib} MiB, {description.architecture}",
    }


def commit(root: Path) -> str:
    """The commit of the checkout around ``root``, with "+" if files differ from it; empty if it is none."""
    git: Sequence[str] = ("git", "-C", str(root), "-c", "safe.directory=*")
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
        if head.returncode:
            return ""
        changed = subprocess.run(
            [*git, "status", "--porcelain", "--untracked-files=no"], capture_output=True, text=True, check=False
        )
    except OSError:
        return ""
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")
