"""``cluster status``, ``list`` and ``timeline``: what there is, and what was done to it."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from cluster.cli.verbs import Verbs, json_argument
from cluster.client.backups import backups
from cluster.client.cluster import Cluster
from cluster.client.room import rooms
from cluster.faults import stall
from cluster.model import timeline
from cluster.model.status import BackupStatus, ClusterStatus, NoAnswer, NodeName, NodeStatus, RoomStatus
from cluster.model.timeline import Event
from discovery.backup.listing import age
from terminal import Failure, table

WATCH_S = 1.0
"""Between two looks of ``status --watch``."""
ROOM_S = 30.0
"""There between two questions to the nodes about their disks, which they check every five minutes."""
FOLLOW_S = 0.2
"""Between two looks of ``timeline -f``."""
TO_TOP_AND_CLEAR = "\x1b[H\x1b[J"
"""ECMA-48: cursor to the first line, then erase all below it."""
CLEAR = "\x1b[2J"


def add(verbs: Verbs) -> None:
    """The three verbs."""
    sub = verbs.add("status", "show a cluster's nodes", _status)
    json_argument(sub)
    sub.add_argument(
        "--watch", action="store_true", help="go on until Ctrl-C: redrawn, or a line per change if not on a terminal"
    )
    json_argument(verbs.add("list", "show all clusters of yours", _list, named=False))
    sub = verbs.add("timeline", "show what was done to a cluster: power, faults, marks", _timeline)
    json_argument(sub)
    sub.add_argument("-f", "--follow", action="store_true", help="go on until Ctrl-C")


def _status(arguments: argparse.Namespace) -> int:
    cluster = Cluster.open(arguments.name)
    if arguments.watch:
        return _watch(cluster, as_json=arguments.json)
    status = cluster.status()
    status = with_reports(status, _reports(cluster, status))
    print(json.dumps(status) if arguments.json else status_text(status))
    return 0


class Reports(NamedTuple):
    """What nodes say of their disks (:class:`cluster.client.room.Room`) and of their backups of etcd, by name."""

    rooms: Mapping[str, RoomStatus] = {}
    backups: Mapping[str, BackupStatus] = {}


def _reports(cluster: Cluster, status: ClusterStatus) -> Reports:
    """Of those nodes that can answer."""
    on = {node["name"] for node in status["nodes"] if node["state"] == "running"}
    nodes = [node for node in cluster.nodes if node.name in on]
    with ThreadPoolExecutor(1) as beside:
        taken = beside.submit(backups, nodes)
        full = {node.name: room.data() for node, room in zip(nodes, rooms(nodes), strict=True) if room is not None}
    return Reports(full, {node.name: one for node, one in zip(nodes, taken.result(), strict=True) if one is not None})


def with_reports(status: ClusterStatus, known: Reports) -> ClusterStatus:
    """The result of :meth:`Cluster.status` with each node's ``room`` and ``backup``: objects, or None if not known."""
    nodes: list[NodeStatus] = [
        {**node, "room": known.rooms.get(node["name"]), "backup": known.backups.get(node["name"])}
        for node in status["nodes"]
    ]
    return {**status, "nodes": nodes}


def status_text(status: ClusterStatus) -> str:
    """The result of :meth:`Cluster.status`, for people, with what :func:`with_reports` adds."""
    how = status["accelerator"]
    rows = [
        [
            *(n["name"], n["state"], n["address"], n["role"], f"127.0.0.1:{n['ssh_port']}"),
            *(_disk(n), _backup(n), n["ended"] or "-"),
        ]
        for n in status["nodes"]
    ]
    lines = [
        (
            f"cluster {status['name']!r} is {status['state']} "
            f"({how['name']}, {status['memory_mib']} MiB a node, files in {status['folder']})"
        ),
        table(rows, ["NODE", "STATE", "ADDRESS", "ROLE", "SSH", "DISK", "BACKUP", "LAST END"]),
        *(f"{n['name']} is stalled: {stall.WHY}" for n in status["nodes"] if n["state"] == "stalled"),
        *(line for n in status["nodes"] for line in _lines(n)),
        *(f"fault {fault['id']}: {fault['what']}" for fault in status["faults"]),
    ]
    offered = [f"{name} {where}" for name, where in status["services"].items() if where is not None]
    lines += ["", "for nodes: " + ", ".join(offered)]
    return "\n".join(lines)


def _disk(node: NodeStatus) -> str:
    """How full the fullest of its file systems is."""
    room = node.get("room")
    return f"{max(room['percent'].values())} %" if room else "-"


def _backup(node: NodeStatus) -> str:
    """How old its last good backup of etcd is."""
    backup = node.get("backup")
    return age(backup["taken"], time.time()) if backup and backup["taken"] is not None else "-"


def backup_lines(node: NodeStatus) -> list[str]:
    """What there is to say about a node's backups of etcd: that the last attempt failed."""
    backup = node.get("backup")
    return [f"{node['name']}: no backup of etcd: {backup['trouble']}"] if backup and backup["trouble"] else []


def room_lines(node: NodeStatus) -> list[str]:
    """What there is to say about a node's disk: that it is too full, and what was removed."""
    room = node.get("room")
    if not room:
        return []
    lines = [f"{node['name']}: {path} is {room['percent'][path]} % full" for path in room["above"]]
    if room["stuck"]:
        lines.append(f"{node['name']}: nothing more may be removed: see journalctl -t flotilla-room there")
    counts = [f"{count} {kind}{'s' * (count != 1)}" for kind, count in room["removed"].items() if count]
    if counts:
        lines.append(f"{node['name']}: removed since its start, to make room: {', '.join(counts)}")
    return lines


def _lines(node: NodeStatus) -> list[str]:
    return room_lines(node) + backup_lines(node)


def changes(before: ClusterStatus | None, now: ClusterStatus) -> list[str]:
    """What has changed from one status to the next, a line each; of the first one, all of it."""
    old = {} if before is None else {node["name"]: node["state"] for node in before["nodes"]}
    lines = (
        [] if before is not None and before["state"] == now["state"] else [f"cluster {now['name']} is {now['state']}"]
    )
    lines += [f"{node['name']} is {node['state']}" for node in now["nodes"] if old.get(node["name"]) != node["state"]]
    new = {node["name"] for node in now["nodes"]}
    lines += [f"{name} is gone" for name in old if name not in new]
    said = set() if before is None else {line for node in before["nodes"] for line in _lines(node)}
    lines += [line for node in now["nodes"] for line in _lines(node) if line not in said]
    held = {} if before is None else {fault["id"]: fault["what"] for fault in before["faults"]}
    holds = {fault["id"]: fault["what"] for fault in now["faults"]}
    lines += [f"fault {number}: {what}" for number, what in holds.items() if number not in held]
    lines += [f"healed {number}: {what}" for number, what in held.items() if number not in holds]
    return lines


def _watch(cluster: Cluster, *, as_json: bool) -> int:
    redraws = sys.stdout.isatty() and not as_json
    before = None
    known = Reports()
    looked = -ROOM_S
    if redraws:
        print(CLEAR, end="")
    try:
        while True:
            cluster = Cluster.open(cluster.name)  # nodes may have joined or left
            now = cluster.status()
            if time.monotonic() - looked >= ROOM_S:
                known, looked = _reports(cluster, now), time.monotonic()
            now = with_reports(now, known)
            if redraws:
                print(TO_TOP_AND_CLEAR + status_text(now), flush=True)
            else:
                for line in [json.dumps(now)] if as_json and now != before else [] if as_json else changes(before, now):
                    print(line if as_json else f"{time.strftime('%H:%M:%S')} {line}", flush=True)
            before = now
            time.sleep(WATCH_S)
    except KeyboardInterrupt:  # the way to end it
        return 0


def _list(arguments: argparse.Namespace) -> int:
    states = [_status_or_why(cluster) for cluster in Cluster.list()]
    if arguments.json:
        print(json.dumps(states))
    else:
        rows = [[s["name"], s["state"], str(len(s["nodes"])), s["folder"]] for s in states]
        print(table(rows, ["CLUSTER", "STATE", "NODES", "FOLDER"]))
    return 0


def _status_or_why(cluster: Cluster) -> ClusterStatus | NoAnswer:
    try:
        return cluster.status()
    except Failure as failure:  # one that hangs, or is of another version, hides no other
        print(f"cluster {cluster.name!r}: {failure.message}", file=sys.stderr)
        nodes: list[NodeName] = [{"name": node.name} for node in cluster.nodes]
        return {"name": cluster.name, "state": "no answer", "nodes": nodes, "folder": str(cluster.layout.state)}


def _timeline(arguments: argparse.Namespace) -> int:
    path = Cluster.open(arguments.name).layout.timeline
    try:
        for event in _events(path, follow=arguments.follow):
            print(json.dumps(asdict(event)) if arguments.json else event_text(event), flush=arguments.follow)
    except KeyboardInterrupt:
        return 0
    return 0


def _events(path: Path, *, follow: bool) -> Iterator[Event]:
    printed = 0
    while True:
        events: Sequence[Event] = timeline.read(path)
        yield from events[printed:]
        printed = len(events)
        if not follow:
            return
        time.sleep(FOLLOW_S)


def event_text(event: Event) -> str:
    """One line of a timeline, for people, in this computer's time zone."""
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event.t)) + f".{int(event.t * 1000) % 1000:03}"
    number = "" if event.id is None else f" (fault {event.id})"
    return f"{when}  {event.kind:<6} {event.what}{number}"
