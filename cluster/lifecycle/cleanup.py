"""Cleaning up after commands and supervisors that were killed.

Every ``cluster`` command begins with it, so nothing stays behind.

Locks and processes show what is left over, never age: a cluster that is in use by a command, or that runs, is not
touched.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cluster.client import cluster as clusters
from cluster.client.cluster import Cluster
from cluster.lifecycle import snapshot
from cluster.model.description import Description
from cluster.model.layout import NAME_PATTERN, Layout, clusters_root, runtime_roots
from terminal import Failure


@dataclass(frozen=True, slots=True)
class Leftover:
    """What a killed command or supervisor left of the cluster ``name``: ``what`` is a line for people."""

    name: str
    what: str
    is_torso: bool
    """It never came up: all of it goes. Else only what was half-done goes; its disks stay."""


def find() -> list[Leftover]:
    """What there is to clean up; clusters in use by another command may be among them."""
    found = [_of_folder(path) for path in sorted(clusters_root().glob("*")) if NAME_PATTERN.fullmatch(path.name)]
    locks = [path.name[1:].removesuffix(".lock") for path in sorted(clusters_root().glob(".*.lock"))]
    states = {each.name for each in found if each is not None}
    for name in [*locks, *_runtimes_without_state()]:
        if NAME_PATTERN.fullmatch(name) and name not in states and not Layout.of(name).state.exists():
            states.add(name)
            found.append(Leftover(name, "locks or sockets of a cluster that is not there", True))
    return [each for each in found if each is not None]


def sweep() -> list[Leftover]:
    """Remove all that is left over and not in use by another command; returns what was removed."""
    swept = []
    for leftover in find():
        layout = Layout.of(leftover.name)
        with suppress(Failure), clusters.changing(layout), clusters.undisturbed():
            # Check again: the previous holder of the lock may have completed it.
            now = _of_folder(layout.state) if layout.state.exists() else leftover
            if now is None:
                continue
            if now.is_torso:
                clusters.remove(layout)
            else:
                _end_remains(layout)
            swept.append(now)
    if snapshot.root().exists():
        snapshot.clean()
    return swept


def _of_folder(state: Path) -> Leftover | None:
    layout = Layout.of(state.name)
    if not layout.state.is_dir():
        return None
    try:
        description = Description.load(layout.description)
    except FileNotFoundError:
        return Leftover(state.name, "a cluster that was hardly begun", True)
    except Failure:
        return None  # of another version, or made by hand
    if not description.ready and not layout.kept.exists():
        return Leftover(state.name, "a cluster that never came up", True)
    recorded = clusters.processes(layout)
    if recorded and not recorded[0].alive:
        return Leftover(state.name, "sockets of a supervisor that was killed", False)
    if description.ready and Cluster(layout, description).strays:
        return Leftover(state.name, "a node that was joining or leaving", False)
    return None


def _end_remains(layout: Layout) -> None:
    description = Description.load(layout.description)
    runtime = Path(description.runtime)
    cluster = Cluster(Layout(layout.state, runtime), description)
    cluster.tidy()
    if cluster.is_running:
        return
    clusters.end_processes(layout)
    clusters.remove_tree(runtime)
    with suppress(OSError):
        runtime.parent.rmdir()


def _runtimes_without_state() -> Iterator[str]:
    for root in runtime_roots():
        for folder in root.glob("*"):
            match = re.fullmatch(rf"({NAME_PATTERN.pattern})-[0-9a-f]{{8}}", folder.name)
            if match is not None and Layout.of(match[1]).runtime == folder and not Layout.of(match[1]).state.exists():
                yield match[1]
