"""The supervisor with real QEMU processes: a guest of a few instructions in place of a kernel, but every option and
device is real.
"""

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cluster.cli import main
from cluster.client import control
from cluster.client.cluster import Cluster, changing, end_processes, processes
from cluster.machines.process import Process
from cluster.model import timeline
from cluster.model.layout import Layout
from cluster.model.protocol import NewToken, Request, StartNode, Status
from terminal import Failure
from tests.cluster.reported import connections, pid
from tests.cluster.tinyguest import GREETING, end_supervisor, tiny_cluster
from tests.eventually import eventually


@dataclass(frozen=True)
class Dance(Request[None]):
    """No supervisor knows it."""


@pytest.fixture
def cluster(image: Path) -> Iterator[Cluster]:
    """Two nodes of the tiny kernel, supervised, not started."""
    with tiny_cluster(image) as made:
        yield made


def test_a_real_machine_starts_talks_pauses_dies_and_starts_again(cluster: Cluster) -> None:
    node = cluster.nodes[0]
    node.start()
    assert eventually(lambda: GREETING.decode().strip() in node.console_tail())
    number = pid(cluster)
    node.pause()
    assert cluster.status()["nodes"][0]["state"] == "paused"
    node.resume()
    with pytest.raises(Failure, match="node-1 runs already"):
        node.start()
    node.kill()
    assert Process.of(number) is None
    assert cluster.status()["nodes"][0]["state"] == "off"
    assert cluster.status()["nodes"][0]["ended"] == "signal 9"
    node.start()
    assert eventually(lambda: connections(cluster) == 2)
    assert eventually(lambda: node.console_tail().count(GREETING.decode().strip()) == 2)


def test_kill_9_of_the_supervisor_takes_every_machine_and_the_next_command_cleans_up(cluster: Cluster) -> None:
    end_supervisor(cluster, signal.SIGKILL)
    assert not cluster.is_running
    assert cluster.layout.control.exists()  # what it could not remove any more
    cluster.launch()
    cluster.nodes[0].start()
    assert cluster.status()["nodes"][0]["state"] == "running"


def test_sigterm_to_the_supervisor_takes_every_machine_and_its_files(cluster: Cluster) -> None:
    end_supervisor(cluster, signal.SIGTERM)
    assert not cluster.layout.supervisor.exists()
    assert list(cluster.layout.runtime.iterdir()) == []


def test_a_machine_that_qemu_refuses_is_reported_with_qemus_words(cluster: Cluster) -> None:
    (cluster.layout.image / "initrd.img").unlink()
    with pytest.raises(Failure, match=r"QEMU did not start node-1: .*initrd\.img"):
        cluster.nodes[0].start()


def test_a_hung_supervisor_is_ended_all_the_same(cluster: Cluster) -> None:
    cluster.nodes[0].start()
    recorded = processes(cluster.layout)
    os.kill(recorded[0].pid, signal.SIGSTOP)
    begin = time.monotonic()
    with pytest.raises(Failure, match="does not answer"):
        control.ask(cluster.layout.control, Status(), deadline_s=0.2)
    for process in recorded[:1]:
        process.end(grace_s=0.2)
    end_processes(cluster.layout)
    assert not any(process.alive for process in recorded)
    assert time.monotonic() - begin < 20


def test_nodes_are_switched_on_and_off_on_a_full_disk(cluster: Cluster) -> None:
    layout, node = cluster.layout, cluster.nodes[0]
    processes(layout)[0].end()
    for path in (layout.supervisor_log, layout.timeline):
        path.unlink(missing_ok=True)
        path.symlink_to("/dev/full")
    cluster.launch()
    layout.supervisor.with_suffix(".part").symlink_to("/dev/full")
    node.start()
    with node.pause():
        assert cluster.status()["nodes"][0]["state"] == "paused"
    node.kill().heal()
    node.kill()
    assert cluster.status()["nodes"][0]["state"] == "off"
    layout.timeline.unlink()
    node.start()
    events = [event.what for event in timeline.read(layout.timeline)]
    assert [what for what in events if what.endswith(" on")] == ["node-1 on"] * 3, "nothing is lost"


def test_a_record_with_another_process_number_does_no_harm(cluster: Cluster) -> None:
    """After a reboot of this computer the recorded number may be another process's."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as bystander:
        real = Process.of(bystander.pid)
        assert real is not None
        assert not Process(real.pid, real.started - 1, real.boot).alive
        assert not Process(real.pid, real.started, "another boot").alive
        Process(real.pid, real.started - 1, real.boot).end(0.1)
        assert real.alive
        real.end()
        assert not real.alive


def test_requests_that_make_no_sense_are_refused_and_the_supervisor_lives(cluster: Cluster) -> None:
    nonsense: tuple[tuple[Request[Any], str], ...] = (
        (Dance(), "knows no such request: Dance"),
        (StartNode(9), "cluster tiny has no node-9"),
        (StartNode("1"), "knows no such request: StartNode: node is of another type"),  # type: ignore[arg-type]
        (NewToken(None), "knows no such request: NewToken: size is of another type"),  # type: ignore[arg-type]
    )
    for request, why in nonsense:
        with pytest.raises(Failure, match=why):
            cluster.ask(request)
    assert len(cluster.ask(NewToken(3))) == 32
    assert cluster.is_running


def test_a_second_supervisor_does_not_start(cluster: Cluster) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-m", "cluster.daemon.supervisor", str(cluster.layout.state)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert "another supervisor runs this cluster" in done.stdout
    assert cluster.is_running


def test_one_command_at_a_time_changes_a_cluster() -> None:
    layout = Layout.of("shared")
    with changing(layout), pytest.raises(Failure, match="another command"), changing(layout):
        pass
    assert not layout.lock.exists()
    with changing(layout):
        pass


def image_file(path: Path) -> Path:
    """A docker-archive of an image without layers."""
    manifest = json.dumps([{"Config": "config.json", "RepoTags": ["small:1"], "Layers": []}]).encode()
    with tarfile.open(path, "w") as archive:
        for name, data in (("manifest.json", manifest), ("config.json", b"{}")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def test_a_pushed_image_is_there_again_after_the_supervisors_end_and_the_registry_ends_with_it(
    cluster: Cluster, tmp_path: Path
) -> None:
    archive = image_file(tmp_path / "small.tar")
    assert cluster.push(archive) == ("registry:5000/small:1",)
    supervisor, registry = processes(cluster.layout)
    os.kill(supervisor.pid, signal.SIGKILL)
    assert eventually(lambda: not (supervisor.alive or registry.alive))
    with pytest.raises(Failure, match="is not running"):
        cluster.push(archive)
    cluster.launch()
    assert len(processes(cluster.layout)) == 2  # it has images, so it runs
    sent: list[str] = []
    assert cluster.push(archive, "again:2", sent.append) == ("registry:5000/again:2",)
    assert cluster.push(archive, "again:2", sent.append) == ("registry:5000/again:2",)
    assert len(sent) == 1
    cluster.remove()
    assert not any(process.alive for process in processes(cluster.layout))
    assert not cluster.layout.state.exists()


def test_a_time_server_that_is_wrong_is_a_fault(cluster: Cluster) -> None:
    with cluster.shift_time(-90.5) as fault:
        assert str(fault) == "time server -90.5 s"
        assert [one["what"] for one in cluster.status()["faults"]] == ["time server -90.5 s"]
    assert cluster.status()["faults"] == []
    events = [(event.kind, event.what) for event in timeline.read(cluster.layout.timeline)]
    assert events[-2:] == [("fault", "time server -90.5 s"), ("heal", "time server -90.5 s")]


def test_status_says_where_the_services_are(cluster: Cluster) -> None:
    assert cluster.status()["services"]["registry"] == "registry:5000"
    assert cluster.status()["services"]["files"] is None


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["fault", "time", "-3600"], 0, "time server -3600 s"),
        (["fault", "time", "nan"], 2, "not a time to shift the clock by"),
        (["push", "/nonexistent"], 1, "there is no such file or folder"),
        (["push", "/etc/hostname"], 1, "this is no container image"),
        (["status"], 0, "registry registry:5000"),
    ],
)
def test_commands(
    cluster: Cluster,
    words: list[str],
    code: int,
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "argv", ["cluster", *words, "--name", cluster.name])
    assert main() == code
    printed = capsys.readouterr()
    assert said in (printed.err if code else printed.out)


def test_a_machine_is_in_a_sandbox(cluster: Cluster) -> None:
    """In proc(5): a filter of system calls is on, and what the process starts gets no privileges that it has
    not.
    """
    cluster.nodes[0].start()
    status = Path(f"/proc/{processes(cluster.layout)[1].pid}/status").read_text().splitlines()
    assert {"Seccomp:\t2", "NoNewPrivs:\t1"} <= set(status)
