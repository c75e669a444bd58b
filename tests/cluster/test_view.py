"""What people see of clusters: status, its changes, the timeline, and the configuration for their own ssh."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cluster.cli import main, main_down, main_up
from cluster.cli.view import Reports, changes, event_text, status_text, with_reports
from cluster.client import backups
from cluster.client.cluster import Cluster
from cluster.client.room import Room
from cluster.model import timeline
from cluster.model.protocol import Mark
from cluster.model.status import ClusterStatus, RoomStatus
from cluster.model.timeline import Event
from discovery.backup.state import Last, State
from tests.cluster.commands import call
from tests.cluster.test_sweep import CLUSTER
from upkeep.space import Fill
from upkeep.status import Status


@pytest.fixture
def cluster(standin: Path, image: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """One node, up; the test takes it down."""
    monkeypatch.setenv("STANDIN_NODES", "1")
    assert call(main_up, "1", "--image", str(image)) == 0
    return Cluster.open()


def test_the_configuration_serves_the_real_ssh_client(
    cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert call(main, "ssh-config") == 0
    path = tmp_path / "nodes.conf"
    path.write_text(capsys.readouterr().out)
    ssh = shutil.which("ssh")
    assert ssh is not None
    environment = {**os.environ, "HOME": str(tmp_path)}
    for host in ("node-1", "node-1.default"):
        done = subprocess.run(
            [ssh, "-F", path, "-o", "BatchMode=yes", host, "fleetctl list-machines"],
            capture_output=True,
            text=True,
            timeout=60,
            env=environment,
        )
        assert done.stdout.startswith("machine1\t10.77.0.11"), done.stderr
    assert call(main_down) == 0


def test_stop_and_start_of_a_whole_cluster(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    disk = cluster.layout.node(1) / "state.img"
    disk.write_bytes(b"precious")
    assert call(main, "start") == 0
    assert "all nodes are on" in capsys.readouterr().out
    cluster.nodes[0].kill()
    assert call(main, "start") == 0
    assert "1 of 1 nodes were off" in capsys.readouterr().out
    assert call(main, "stop") == 0
    assert "its disks are kept: cluster start" in capsys.readouterr().out
    assert not cluster.is_running
    assert call(main, "stop") == 0
    assert "is stopped already" in capsys.readouterr().out
    # The stand-in makes a host key at each start; a real node keeps its own.
    cluster.layout.known_hosts.write_text("")
    assert call(main, "start") == 0
    assert Cluster.open().is_running
    assert disk.read_bytes() == b"precious"
    assert call(main_down) == 0


def test_a_watched_status_prints_changes_line_by_line_where_there_is_no_terminal(cluster: Cluster) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(
        [sys.executable, "-c", CLUSTER, "status", "--watch"], stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().endswith("cluster default is running\n")
        assert process.stdout.readline().endswith("node-1 is running\n")
        cluster.nodes[0].pause()
        assert process.stdout.readline().endswith("node-1 is paused\n")
        assert process.stdout.readline().endswith("fault 1: pause node-1\n")
        process.send_signal(2)
        assert process.wait(60) == 0
    assert call(main_down) == 0


def test_a_timeline_is_followed(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(
        [sys.executable, "-c", CLUSTER, "timeline", "-f"], stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().endswith("power  node-1 on\n")
        cluster.ask(Mark("here it begins"))
        assert process.stdout.readline().endswith("mark   here it begins\n")
        process.send_signal(2)
        assert process.wait(60) == 0
    capsys.readouterr()
    assert call(main, "timeline", "--json") == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["kind"], line["nodes"]) for line in lines] == [("power", [1]), ("mark", [])]
    assert call(main_down) == 0


def test_faults_are_listed_and_healed_by_the_command(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(main, "fault", "pause", "1") == 0
    capsys.readouterr()
    assert call(main, "fault", "list") == 0
    assert "1   pause node-1" in capsys.readouterr().out
    assert call(main, "fault", "heal") == 0
    assert capsys.readouterr().out == "healed: 1\n"
    assert cluster.status()["nodes"][0]["state"] == "running"
    assert call(main, "fault", "kill", "1") == 0
    assert call(main, "fault", "heal", "2") == 0
    assert cluster.status()["nodes"][0]["state"] == "running"
    assert call(main, "fault", "list") == 0
    assert "nothing is broken on purpose" in capsys.readouterr().out
    kinds = [(event.kind, event.id) for event in timeline.read(cluster.layout.timeline) if event.id]
    assert kinds == [("fault", 1), ("heal", 1), ("fault", 2), ("heal", 2)]
    assert call(main, "fault", "heal", "9") == 1
    assert call(main, "fault", "power-cut", "--all") == 0
    assert call(main, "fault", "power-cut") == 2
    for wrong in (
        ["disk-slow", "1"],
        ["disk-slow", "1", "--rate", "fast"],
        ["clock", "1", "--step", "-5y"],
        ["clock", "1"],
    ):
        assert call(main, "fault", *wrong) == 2
    assert call(main_down) == 0


def status(nodes: dict[str, str], faults: dict[int, str], state: str = "running") -> ClusterStatus:
    """Of a cluster with nodes in these states."""
    return {
        "name": "lab",
        "state": state,
        "accelerator": {"name": "tcg", "factor": 1.0, "reason": ""},
        "memory_mib": 1024,
        "discovery": "",
        "folder": "",
        "services": {},
        "nodes": [
            {
                "name": name,
                "state": each,
                "address": "",
                "role": "member",
                "ssh_port": 1,
                "pid": None,
                "ended": None,
                "network": None,
            }
            for name, each in nodes.items()
        ],
        "faults": [{"id": number, "what": what, "nodes": []} for number, what in faults.items()],
    }


def test_changes_from_one_status_to_the_next() -> None:
    first, second = status({"node-1": "running"}, {1: "cut"}), status({"node-2": "running"}, {2: "slow"}, "stopped")
    assert changes(None, first) == ["cluster lab is running", "node-1 is running", "fault 1: cut"]
    assert changes(first, first) == []
    assert changes(first, second) == [
        "cluster lab is stopped",
        "node-2 is running",
        "node-1 is gone",
        "fault 2: slow",
        "healed 1: cut",
    ]


FULL = Status((Fill("/var", 1000, 91.4),), ("/var",), stuck=True, removed={"container": 1, "image": 3})


def test_status_shows_how_full_disks_are_and_what_was_removed(
    standin: Path, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As the node's own check has written it; nothing of a node that has not checked yet."""
    reported = tmp_path / "room"
    reported.write_text("")
    monkeypatch.setenv("STANDIN_NODES", "1")
    monkeypatch.setenv("STANDIN_ROOM", str(reported))
    assert call(main_up, "1", "--image", str(image)) == 0
    capsys.readouterr()

    def shown(*words: str) -> str:
        assert call(main, "status", *words) == 0
        return capsys.readouterr().out

    assert "DISK" in shown()
    assert "%" not in shown()
    assert json.loads(shown("--json"))["nodes"][0]["room"] is None
    reported.write_text(json.dumps(FULL.json()))
    assert "  91 %  " in shown()
    assert shown().splitlines()[3:6] == [
        "node-1: /var is 91 % full",
        "node-1: nothing more may be removed: see journalctl -t flotilla-room there",
        "node-1: removed since its start, to make room: 1 container, 3 images",
    ]
    assert json.loads(shown("--json"))["nodes"][0]["room"] == {
        "percent": {"/var": 91}, "above": ["/var"], "stuck": True, "removed": {"container": 1, "image": 3},
    }  # fmt: skip
    assert call(main_down) == 0


def test_a_disk_that_fills_up_is_a_change() -> None:
    before = status({"node-1": "running"}, {})
    full: dict[str, RoomStatus] = {
        "node-1": {"percent": {"/var": 91}, "above": ["/var"], "stuck": False, "removed": {}}
    }
    assert changes(before, with_reports(before, Reports(full))) == ["node-1: /var is 91 % full"]
    assert changes(with_reports(before, Reports(full)), with_reports(before, Reports(full))) == []


def test_what_a_hostile_node_says_of_its_room_is_bounded() -> None:
    names = {f"/var/{number}": 1 for number in range(1000)}
    hostile = Status(
        (Fill("/var\x1b[2J", 1, 50.0), Fill("/var", 1, 1e300)),
        ("/var\x1b[2J", "/elsewhere"),
        removed={"image": 10**400, **names},
    )
    room = Room.parse(json.dumps(hostile.json()))
    assert room == Room({"/var": 100}, (), False, {"container": 0, "image": 10**9})
    assert Room.parse("x" * (2 << 20)) is None
    assert Room.parse('{"v": 1}') is None


def test_status_shows_the_age_of_backups_and_what_failed() -> None:
    last = Last(round(time.time()) - 7200, revision=9, keys=3, raft_index=12, hash=1, size=2 << 20)
    good, failed = (backups.parse(json.dumps(State(last, trouble=why).json())) for why in ("", "no room\x1b[2J"))
    assert good is not None
    assert failed is not None
    assert (good["revision"], good["size"], good["trouble"]) == (9, 2 << 20, "")
    before = status({"node-1": "running"}, {})
    shown = status_text(with_reports(before, Reports({}, {"node-1": good})))
    assert "BACKUP" in shown
    assert "  2 h  " in shown
    after = with_reports(before, Reports({}, {"node-1": failed}))
    (change,) = changes(with_reports(before, Reports({}, {"node-1": good})), after)
    assert change.startswith("node-1: no backup of etcd: no room")
    assert "\x1b" not in change
    assert backups.parse("root did cat\n") is None
    assert backups.parse("x" * (1 << 20)) is None


def test_a_line_of_a_timeline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    assert event_text(Event(1.5, "heal", "cut node-1 -> node-2", (1, 2), 7)) == (
        "1970-01-01 00:00:01.500  heal   cut node-1 -> node-2 (fault 7)"
    )
