"""A watch reads each line of a console or journal once, wherever it begins."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from cluster.client.cluster import Cluster
from cluster.testing.watch import Watch
from terminal import Failure

OOM = "Out of memory: Killed process 9 (stress)"


class Node:
    """A node with a console file and a journal of lines; the cursor is the count of lines read."""

    factor = 1.0

    def __init__(self, number: int, folder: Path) -> None:
        self.number, self.name = number, f"node-{number}"
        self.folder = folder / self.name
        self.folder.mkdir()
        self.lines: list[str] = []
        self.reachable = True

    def say(self, text: str) -> None:
        with (self.folder / "console.log").open("a") as file:
            file.write(f"\x1b[1m[    1.000000]\x1b[0m {text}\r\n")

    def log(self, text: str) -> None:
        self.lines.append(f"2026-11-23T14:00:0{len(self.lines)}.5+00:00 {self.name} kernel: {text}")

    def ask(self, command: str, timeout: float | None = None) -> str:
        if not self.reachable:
            raise Failure("no root shell", where=self.name)
        assert "--show-cursor" in command
        if "--lines=0" in command:
            return f"-- cursor: {len(self.lines)}\n"
        after = re.search(r"--after-cursor=(\d+)", command)
        assert after or "--boot" in command
        lines = self.lines[int(after[1]) if after else 0 :]
        return "\n".join([*lines, f"-- cursor: {len(self.lines)}"]) + "\n"


class Nodes:
    """What a watch needs of a cluster."""

    def __init__(self, folder: Path) -> None:
        self.nodes = [Node(1, folder), Node(2, folder)]
        self.states = {"node-1": "running", "node-2": "running"}
        self.layout = SimpleNamespace(timeline=folder / "timeline.jsonl")

    def status(self) -> dict[str, Any]:
        return {"nodes": [{"name": name, "state": state} for name, state in self.states.items()]}


@pytest.fixture
def nodes(tmp_path: Path) -> Nodes:
    return Nodes(tmp_path)


def begun(nodes: Nodes) -> Watch:
    return Watch.begun(cast("Cluster", nodes))


def sources(watch: Watch) -> list[tuple[str, str]]:
    return [(found.node, found.source) for found in watch.look()]


def test_trouble_in_both_is_one_finding_and_stays(nodes: Nodes) -> None:
    watch = begun(nodes)
    assert sources(watch) == []
    nodes.nodes[1].say(OOM)
    nodes.nodes[1].log(OOM)
    assert sources(watch) == [("node-2", "console")]
    assert sources(watch) == [("node-2", "console")]
    nodes.nodes[0].log(OOM)
    assert sources(watch) == [("node-2", "console"), ("node-1", "journal")]


def test_the_next_test_reads_on(nodes: Nodes) -> None:
    watch = begun(nodes)
    nodes.nodes[0].say(OOM)
    nodes.nodes[1].log(OOM)
    assert len(watch.look()) == 2
    later = watch.renewed()
    assert later.look() == []
    nodes.nodes[1].log(f"{OOM} again")
    assert sources(later) == [("node-2", "journal")]


def test_what_a_snapshot_brought_is_history(nodes: Nodes) -> None:
    nodes.nodes[0].log(OOM)
    assert sources(begun(nodes)) == [("node-1", "journal")]
    nodes.layout.timeline.write_text(
        '{"t": 1.0, "kind": "mark", "what": "restored from a snapshot", "nodes": [], "id": null}\n'
    )
    watch = begun(nodes)
    assert sources(watch) == []
    nodes.nodes[0].log(f"{OOM} again")
    assert sources(watch) == [("node-1", "journal")]


def test_a_node_that_cannot_be_queried_still_has_a_console(nodes: Nodes) -> None:
    watch = begun(nodes)
    nodes.nodes[0].reachable = False
    nodes.states["node-2"] = "off"
    for node in nodes.nodes:
        node.log(OOM)
    nodes.nodes[1].say(OOM)
    assert sources(watch) == [("node-2", "console")]
    assert watch.unread == ["node-1: no root shell"]
    nodes.nodes[0].reachable = True
    assert sources(watch) == [("node-2", "console"), ("node-1", "journal")]
