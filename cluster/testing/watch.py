"""Reads a cluster's consoles and journals from where it stopped last time.

It returns what :mod:`cluster.testing.scan` finds there.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from cluster.client.cluster import Cluster
from cluster.client.node import TERMINAL_SEQUENCE, Node
from cluster.model import logs, timeline
from cluster.testing.scan import Finding, merged, scan
from terminal import Failure

CURSOR = "-- cursor: "
READ_S = 30.0
"""For reading a node's journal, with hardware; times the accelerator's factor."""


@dataclass(slots=True)
class Watch:
    """One cluster, from one test's point of view.

    ``consoles`` are bytes, ``cursors`` journalctl's, by node number: where to read on.
    """

    cluster: Cluster
    consoles: dict[int, int]
    cursors: dict[int, str]
    unread: list[str] = field(default_factory=list)
    """Journals that could not be read, and why."""
    _found: list[Finding] = field(default_factory=list)

    @classmethod
    def begun(cls, cluster: Cluster) -> Watch:
        """Of a cluster made for this test: from its beginning.

        Journal lines from before a snapshot was made are ignored.
        """
        return cls(cluster, {}, _at_end(cluster) if _is_restored(cluster) else {})

    def renewed(self) -> Watch:
        """For the next test with this cluster: it reads on where this one stopped."""
        return Watch(self.cluster, self.consoles, self.cursors)

    def look(self) -> list[Finding]:
        """All findings up to now."""
        with ThreadPoolExecutor(len(self.cluster.nodes)) as executor:
            for found in executor.map(self._read, self.cluster.nodes, _running(self.cluster)):
                self._found += found
        self._found = merged(self._found)
        return list(self._found)

    def _read(self, node: Node, is_running: bool) -> list[Finding]:
        found = scan(self._console(node), node=node.name, source="console")
        if is_running:
            try:
                found += scan(self._journal(node), node=node.name, source="journal")
            except Failure as trouble:
                self.unread.append(str(trouble))
        return found

    def _console(self, node: Node) -> list[str]:
        try:
            with (node.folder / "console.log").open("rb") as file:
                position = logs.resume(file, self.consoles.get(node.number, 0))
                data = file.read()
        except FileNotFoundError:
            return []
        self.consoles[node.number] = position + len(data)
        return TERMINAL_SEQUENCE.sub("", data.decode(errors="replace")).splitlines()

    def _journal(self, node: Node) -> list[str]:
        cursor = self.cursors.get(node.number)
        after = f"--after-cursor={shlex.quote(cursor)}" if cursor else "--boot"
        command = f"journalctl --no-pager --quiet --output=short-iso-precise --show-cursor {after}"
        lines = node.ask(command, READ_S * node.factor).splitlines()
        if lines and lines[-1].startswith(CURSOR):
            self.cursors[node.number] = lines.pop().removeprefix(CURSOR)
        return lines


def _running(cluster: Cluster) -> Sequence[bool]:
    try:
        states = {entry["name"]: entry["state"] for entry in cluster.status()["nodes"]}
    except Failure:
        states = {}
    return [states.get(node.name) == "running" for node in cluster.nodes]


def _is_restored(cluster: Cluster) -> bool:
    return any(event.what.startswith("restored") for event in timeline.read(cluster.layout.timeline))


def _at_end(cluster: Cluster) -> dict[int, str]:
    """Where each journal ends now; a node that does not answer is read from its boot."""

    def end(node: Node) -> tuple[int, str]:
        try:
            shown = node.ask("journalctl --no-pager --quiet --lines=0 --show-cursor")
        except Failure:
            return node.number, ""
        return node.number, shown.strip().removeprefix(CURSOR)

    with ThreadPoolExecutor(len(cluster.nodes)) as executor:
        return {number: cursor for number, cursor in executor.map(end, cluster.nodes) if cursor}
