"""Bringing a cluster up and down through the real commands, real supervisor and real ssh; only QEMU is a stand-in."""

import json
import os
import signal
import stat
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path

import pytest

from cluster.cli import main, main_down, main_up
from cluster.client.cluster import Cluster, processes
from cluster.lifecycle import readiness
from cluster.lifecycle.up import Options, up
from discovery.client import read
from fleet.ctl import contexts
from terminal import Failure
from tests.cluster.commands import call, nothing_is_left
from webserver import selfmade

pytestmark = pytest.mark.slow


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nodes that have two seconds to let us in."""
    monkeypatch.setattr(readiness, "SSH_S", 0.3)
    monkeypatch.setattr(readiness, "BANNER_DEADLINE_S", 0.2)


def test_three_nodes_come_up_are_found_up_and_go(
    home: Path, standin: Path, image: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The life of a cluster: up, up again, another size, load an image, kill, start, stop, down; then nothing is left."""
    archive = tmp_path / "redis.tar"
    with tarfile.open(archive, "w") as tar:
        tar.addfile(tarfile.TarInfo("manifest.json"))
    assert call(main_up, "3", "--image", str(image), "--load-image", str(archive)) == 0
    out = capsys.readouterr().out
    assert "cluster 'default' is up: 3 nodes" in out
    assert "fleetctl list-machines" in out

    cluster = Cluster.open()
    supervisor = processes(cluster.layout)[0]
    assert call(main_up, "3", "--image", str(image)) == 0
    assert "is up already with 3 nodes; nothing was changed" in capsys.readouterr().out
    assert processes(cluster.layout)[0] == supervisor
    assert call(main_up, "5", "--image", str(image)) == 1
    assert "exists and has 3 nodes, not 5" in capsys.readouterr().err

    assert call(main, "status", "--json") == 0
    status = json.loads(capsys.readouterr().out)
    assert [node["state"] for node in status["nodes"]] == ["running"] * 3
    assert [node["address"] for node in status["nodes"]] == ["10.77.0.11", "10.77.0.12", "10.77.0.13"]
    assert len({node["ssh_port"] for node in status["nodes"]}) == 3

    hosts = cluster.layout.known_hosts.read_text().splitlines()
    assert len(hosts) == 3
    assert any(line.startswith(f"[127.0.0.1]:{cluster.nodes[1].ssh_port},10.77.0.12,node-2 ") for line in hosts)
    assert cluster.layout.key.stat().st_mode & 0o777 == 0o600

    assert call(main, "fault", "kill", "node-2") == 0
    assert call(main, "status") == 0
    assert "node-2  off      10.77.0.12  member" in capsys.readouterr().out
    assert call(main_up, "3") == 0
    assert "node-2 is off: cluster start node-2" in capsys.readouterr().out
    assert call(main, "fault", "pause", "node-2") == 1
    assert "node-2 is off" in capsys.readouterr().err
    assert call(main, "start", "2") == 0
    assert call(main, "start", "2") == 1
    assert call(main, "fault", "pause", "2") == 0
    assert cluster.status()["nodes"][1]["state"] == "paused"
    assert call(main, "fault", "resume", "2") == 0
    assert call(main, "stop", "node-3") == 0
    assert cluster.status()["nodes"][2]["state"] == "off"
    assert call(main, "console", "node-1", "--log") == 0
    assert "[  OK  ] Stand-in reached target\n" in capsys.readouterr().out
    assert call(main, "console", "--log", "--lines", "1", "node-1") == 0
    assert capsys.readouterr().out == "[  OK  ] Stand-in reached target\n"
    assert call(main, "console", "node-1", "--lines", "0") == 2
    assert call(main, "console", "node-1", "-f") == 2
    assert "-f goes with --log" in capsys.readouterr().err
    assert call(main, "console", "node-9", "true") == 2
    capsys.readouterr()
    assert call(main, "logs", "1", "-u", "fleet") == 0
    assert capsys.readouterr().out == (
        "root did journalctl --no-pager --boot --output=short-iso-precise --lines=50 --unit=fleet\n"
    )
    assert call(main, "logs", "1", "3") == 1
    assert "no root shell on node-3: off" in capsys.readouterr().err

    assert call(main_down) == 0
    assert not supervisor.alive
    assert nothing_is_left(home)
    assert call(main_down) == 0
    assert "nothing to do" in capsys.readouterr().out


def test_commands_on_a_node(standin: Path, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test holds: run, check, load, and the errors of each; exports for fleetctl."""
    monkeypatch.setenv("STANDIN_NODES", "1")
    assert call(main_up, "1", "--image", str(image), "--name", "one") == 0
    cluster = Cluster.open("one")
    node = cluster.node("1")
    assert node.run("fleetctl list-machines").out.startswith("machine1\t10.77.0.11")
    failed = node.run("fail")
    assert (failed.rc, failed.err) == (3, "no such thing\n")
    with pytest.raises(Failure, match=r"'fail' failed with exit code 3: no such thing"):
        node.check("fail")
    with pytest.raises(Failure, match=r"did not end within 2 s; the last it said: still sleeping"):
        node.run("sleep 30", timeout=2)
    assert node.root("id -u").out == "root did id -u\n"
    assert node.has_shell
    with pytest.raises(Failure, match="no node 'node-9'"):
        cluster.node("node-9")
    with pytest.raises(Failure, match="cannot be reached"):
        node.http(80, "GET", "/")
    exports = cluster.exports_text()
    assert f"export FLEETCTL_TUNNEL=127.0.0.1:{node.ssh_port}\n" in exports
    assert f"export FLEETCTL_SSH_IDENTITY_FILE={cluster.layout.key}\n" in exports
    cluster.close()
    cluster.remove()


def test_a_cluster_is_a_context_of_fleetctl_until_it_is_removed(
    standin: Path, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STANDIN_NODES", "1")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name in ("one", "two"):
        assert call(main_up, "1", "--image", str(image), "--name", name) == 0
        assert call(main, "env", "--context", "--name", name) == 0
    one, two = Cluster.open("one"), Cluster.open("two")
    known = contexts.load(contexts.file(os.environ))
    assert (known.current, sorted(known.contexts)) == ("two", ["one", "two"])
    assert known.contexts["one"]["tunnel"] == f"127.0.0.1:{one.nodes[0].ssh_port}"
    assert known.contexts["one"]["cert-file"] == str(one.layout.operator / "fleet-client.crt")
    elsewhere = {**known.contexts["one"], "ssh-identity-file": "/another/key"}
    with contexts.changing(contexts.file(os.environ)) as changed:
        changed[0] = changed[0].with_one("one", elsewhere)
    for name in ("one", "two"):
        assert call(main, "down", "--name", name) == 0
    assert contexts.load(contexts.file(os.environ)).contexts == {"one": elsewhere}, "which is another cluster's"
    two.close()


def test_two_clusters_by_name_have_nothing_in_common(
    home: Path, standin: Path, image: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STANDIN_NODES", "1")
    for name in ("east", "west"):
        assert call(main_up, "1", "--image", str(image), "--name", name) == 0
    east, west = Cluster.open("east"), Cluster.open("west")
    assert east.nodes[0].ssh_port != west.nodes[0].ssh_port
    assert east.description.discovery_port != west.description.discovery_port
    # Each has a certificate of its own, which its nodes pin.
    assert read(f"{east.status()['discovery'].replace('#', f'/{east.description.token}#')}").size == 1
    stranger = west.status()["discovery"].partition("#")[2]
    with pytest.raises(Failure, match="another certificate"):
        read(f"https://127.0.0.1:{east.description.discovery_port}/{east.description.token}#{stranger}")
    given = (east.nodes[0].folder / "user-data").read_text()
    assert f"/{east.description.token}#sha256={selfmade.read_fingerprint(east.layout.services_certificate)}" in given
    assert "/etc/docker/certs.d/registry:5000/ca.crt" in given
    assert stat.S_IMODE(east.layout.services_certificate.stat().st_mode) == 0o600
    assert east.layout.key.read_text() != west.layout.key.read_text()
    assert call(main_down, "--name", "east") == 0
    assert west.is_running
    assert west.nodes[0].run("true").rc == 0
    west.close()
    assert call(main_down, "--name", "west") == 0
    assert nothing_is_left(home)


def test_a_stopped_cluster_boots_again_with_its_disks(
    standin: Path, image: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The computer was switched off, say: cluster-up of the same size resumes the cluster, and makes no new one."""
    monkeypatch.setenv("STANDIN_NODES", "1")
    assert call(main_up, "1", "--image", str(image)) == 0
    cluster = Cluster.open()
    disk = cluster.layout.node(1) / "state.img"
    disk.write_bytes(b"precious")
    processes(cluster.layout)[0].end()
    assert not cluster.is_running
    assert call(main, "ssh", "node-1", "true") == 1
    assert "is not running" in capsys.readouterr().err
    # The stand-in makes a host key at each start; a real node keeps its own, so here the old one is forgotten by hand.
    cluster.layout.known_hosts.write_text("")
    assert call(main_up, "1", "--image", str(image)) == 0
    assert disk.read_bytes() == b"precious"
    assert call(main_down) == 0


def test_a_changed_host_key_is_refused(standin: Path, image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STANDIN_NODES", "1")
    assert call(main_up, "1", "--image", str(image)) == 0
    node = Cluster.open().nodes[0]
    node.kill()
    node.start()
    with pytest.raises(Failure, match="host key is not the one that was pinned"):
        while True:
            if readiness.greets(node):
                node.run("true")
    node.close()
    assert call(main_down) == 0


def test_what_does_not_come_up_is_shown_and_removed(
    home: Path,
    standin: Path,
    image: Path,
    impatient: None,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("STANDIN_DEAF", "1")
    assert call(main_up, "2", "--image", str(image)) == 1
    err = capsys.readouterr().err
    assert "node-1: ssh: not within" in err
    assert "--- console of node-1, last lines ---\n  | [  OK  ] Stand-in reached target" in err
    assert nothing_is_left(home)


def test_nodes_without_a_root_shell_are_checked_by_ssh(
    home: Path,
    image: Path,
    standin: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An older image, or a user's own: it comes up all the same, with a note, and the console is the serial one."""
    monkeypatch.setenv("STANDIN_MUTE", "1")
    monkeypatch.setenv("STANDIN_NODES", "1")
    monkeypatch.setattr(readiness, "MUTE_S", 0.3)
    monkeypatch.setattr(readiness, "KNOCK_S", 0.1)
    assert call(main_up, "1", "--image", str(image)) == 0
    assert "no root shell on node-1 (an older image?): checked by ssh" in capsys.readouterr().err
    assert Cluster.open().layout.known_hosts.exists()
    assert call(main, "logs") == 1
    assert "no root shell on node-1" in capsys.readouterr().err
    with pytest.raises(Failure, match=r"within 0 s"):
        Cluster.open().nodes[0].root("true", timeout=0.3)
    assert call(main_down) == 0


def test_a_node_whose_machine_ends_is_not_waited_for(
    home: Path, image: Path, standin: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """ssh has minutes; the failure comes at once, since a machine that is off cannot get ready."""
    monkeypatch.setenv("STANDIN_DEAF", "1")
    begin = time.monotonic()
    wait_ssh = readiness.Readiness.wait_ssh

    def pull_the_plug(self: readiness.Readiness) -> None:
        Cluster.open().nodes[0].kill()
        wait_ssh(self)

    monkeypatch.setattr(readiness.Readiness, "wait_ssh", pull_the_plug)
    assert call(main_up, "1", "--image", str(image)) == 1
    assert "node-1: its machine is off: signal 9" in capsys.readouterr().err
    assert time.monotonic() - begin < 30
    assert nothing_is_left(home)


def test_a_unit_that_failed_is_not_waited_for_but_reported(
    home: Path, image: Path, standin: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STANDIN_UNIT", "failed")
    monkeypatch.setattr(readiness, "UNITS_S", 0)
    begin = time.monotonic()
    assert call(main_up, "1", "--image", str(image)) == 1
    assert "node-1: etcd.service has failed" in capsys.readouterr().err
    assert time.monotonic() - begin < 30
    assert nothing_is_left(home)


def test_a_state_folder_that_cannot_be_written(
    home: Path, standin: Path, image: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "file").write_text("in the way")
    monkeypatch.setenv("XDG_STATE_HOME", str(home / "file"))
    assert call(main_up, "1", "--image", str(image)) == 1
    assert "clusters cannot be kept here" in capsys.readouterr().err


def test_keep_leaves_the_failed_cluster_and_the_next_up_removes_it(
    standin: Path,
    image: Path,
    impatient: None,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("STANDIN_DEAF", "1")
    monkeypatch.setenv("STANDIN_NODES", "1")
    assert call(main_up, "1", "--image", str(image), "--keep") == 1
    torso = Cluster.open()
    assert torso.is_running
    monkeypatch.delenv("STANDIN_DEAF")
    monkeypatch.setattr(readiness, "SSH_S", 40)
    capsys.readouterr()
    assert call(main_up, "1", "--image", str(image)) == 0
    assert "removing what an interrupted cluster-up of 'default' left" in capsys.readouterr().err
    assert call(main_down) == 0


def test_ctrl_c_while_nodes_boot_leaves_nothing(home: Path, standin: Path, image: Path) -> None:
    environment = {**os.environ, "STANDIN_DEAF": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    code = "import sys; from cluster.cli import main_up; sys.exit(main_up())"
    with subprocess.Popen(
        [sys.executable, "-c", code, "2", "--image", str(image)], env=environment, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "waiting for ssh" in line:
                break
        process.send_signal(signal.SIGINT)
        assert process.stderr.read().endswith("cluster-up: interrupted\n")
    assert process.returncode == 130
    assert nothing_is_left(home)


def test_a_second_ctrl_c_does_not_stop_the_clean_up(home: Path, standin: Path, image: Path) -> None:
    environment = {**os.environ, "STANDIN_DEAF": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    code = """if True:
        import os, signal, sys
        from cluster import cli
        from cluster.client import cluster

        def end_processes(layout, end=cluster.end_processes):
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGHUP)
            end(layout)

        def launch(self, launch=cluster.Cluster.launch):
            launch(self)
            cluster.end_processes = end_processes
            os.kill(os.getpid(), signal.SIGINT)
        cluster.Cluster.launch = launch
        sys.exit(cli.main_up())
    """
    done = subprocess.run(
        [sys.executable, "-c", code, "2", "--image", str(image)], env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr.splitlines()[-1]) == (130, "cluster-up: interrupted")
    assert nothing_is_left(home)


def test_ctrl_c_before_the_supervisor_has_written_itself_down(
    home: Path, standin: Path, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No other process knows of it then: the room's fixture would find it alive."""

    def interrupted(self: Cluster, pid: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Cluster, "_wait_for_supervisor", interrupted)
    assert call(main_up, "1", "--image", str(image)) == 130
    assert nothing_is_left(home)


def test_two_clusters_at_once_choose_different_ports(
    home: Path, standin: Path, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both see the same free ports; who is first writes its own down before the other looks."""
    monkeypatch.setenv("STANDIN_NODES", "1")
    names = ("east", "west")
    threads = [threading.Thread(target=up, args=(Options(size=1, name=name, image=image),)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    east, west = map(Cluster.open, names)
    assert {east.nodes[0].ssh_port, east.description.discovery_port}.isdisjoint(
        {west.nodes[0].ssh_port, west.description.discovery_port}
    )
    for cluster in (east, west):
        cluster.remove()
    assert nothing_is_left(home)


# Bad input
