"""What ``cluster`` refuses before anything starts, and what it says then; and torsos that cannot be read."""

import contextlib
import json
import shutil
import socket
from pathlib import Path

import pytest

from cluster.cli import main, main_down, main_up
from cluster.client.cluster import Cluster
from cluster.lifecycle import ports, preflight, snapshot
from cluster.lifecycle.snapshot import Snapshot
from cluster.model.layout import Layout
from terminal import Failure
from tests.cluster.commands import call, nothing_is_left
from tests.ports import free_ports


@pytest.mark.parametrize("size", ["0", "-1", "abc", "1000", "2.5", ""])
def test_a_number_of_nodes_that_cannot_be_is_wrong_usage(
    home: Path, size: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(main_up, size) == 2
    assert "error" in capsys.readouterr().err
    assert nothing_is_left(home)


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["3", "--name", "../x"], "'../x' is no cluster name"),
        (["3", "--memory", "1"], "--memory 1: from 384"),
        (["3", "--agent-ttl", "soon"], "--agent-ttl 'soon' is no duration"),
        (["3", "--agent-ttl", "1ms"], "--agent-ttl 1ms: from 1s to 24h"),
        (["3", "--agent-ttl", "25h"], "--agent-ttl 25h: from 1s to 24h"),
        (["3", "--load-image", __file__], "test_refusals.py: this is no docker-archive: not a tar file"),
        (["3", "--ssh-port", "80"], "--ssh-port 80: ports go from 1024"),
        (["3", "--ssh-port", "65534"], "and 3 in a row are needed"),
    ],
)
def test_options_that_cannot_be_meant(
    home: Path, standin: Path, image: Path, argv: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(main_up, *argv, "--image", str(image)) == 2
    assert says in capsys.readouterr().err
    assert nothing_is_left(home)


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["3", "--load-image", "/nowhere.tar"], "/nowhere.tar: No such file or directory"),
        (["3", "--load-image", "/"], "/: Is a directory"),
        (["3", "--user-data", "/nowhere.j2"], "--user-data /nowhere.j2: no such file"),
    ],
)
def test_a_file_that_cannot_be_read(
    home: Path, standin: Path, image: Path, argv: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(main_up, *argv, "--image", str(image)) == 1
    assert says in capsys.readouterr().err
    assert nothing_is_left(home)


def test_a_port_that_is_taken_is_named(
    home: Path, standin: Path, image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # One that Linux gives to no outgoing connection: the port before it has to be free.
    port = next(port for port in free_ports(20) if ports.is_free(port - 1))
    with socket.create_server(("127.0.0.1", port)):
        assert call(main_up, "2", "--image", str(image), "--ssh-port", str(port - 1)) == 1
        assert f"port {port} is taken" in capsys.readouterr().err
        assert call(main_up, "2", "--image", str(image), "--discovery-port", str(port)) == 1
        err = capsys.readouterr().err
    assert f"port {port} is taken" in err
    assert f"ss -tlnp 'sport = :{port}'" in err
    assert nothing_is_left(home)


def test_ports_in_use_are_passed_over_when_none_is_requested(
    standin: Path, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STANDIN_NODES", "1")
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with contextlib.suppress(OSError):  # then another process has it: as good
            taken.bind(("127.0.0.1", ports.first()))
        taken.listen()
        assert call(main_up, "1", "--image", str(image)) == 0
        assert Cluster.open().nodes[0].ssh_port > ports.first()
        assert call(main_down) == 0


def test_no_disk_space(
    home: Path, standin: Path, image: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=100 << 20))
    assert call(main_up, "3", "--image", str(image)) == 1
    err = capsys.readouterr().err
    assert "the cluster needs 1536 MiB of disk space, 100 MiB are free" in err
    assert "XDG_STATE_HOME" in err
    assert nothing_is_left(home)


def test_no_memory(
    home: Path, standin: Path, image: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "free_memory_mib", lambda: 3000)
    assert call(main_up, "3", "--image", str(image)) == 1
    err = capsys.readouterr().err
    assert "3 nodes need 4122 MiB of memory (1374 each), 3000 MiB are free" in err
    assert "fewer nodes (cluster-up 2), or smaller ones (--memory 650)" in err
    assert nothing_is_left(home)


def test_a_folder_without_an_image(home: Path, standin: Path, image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (image / "root.img").unlink()
    assert call(main_up, "3", "--image", str(image)) == 1
    assert "this is no image folder: no root.img" in capsys.readouterr().err
    assert nothing_is_left(home)


def test_a_template_that_does_not_render(
    home: Path, standin: Path, image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    template = tmp_path / "mine.yaml.j2"
    template.write_text("#cloud-config\nhostname: {{ nodee.name }}\n")
    assert call(main_up, "3", "--image", str(image), "--user-data", str(template)) == 1
    err = capsys.readouterr().err
    assert f"{template}: this is no user-data for node-1\n  caused by: template line 2: 'nodee' is undefined" in err
    assert "docs/cluster.md" in err
    assert nothing_is_left(home)


def test_qemu_too_old_for_emulation(
    home: Path, standin: Path, image: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STANDIN_VERSION", "7.2.22")
    assert call(main_up, "3", "--image", str(image)) == 1
    err = capsys.readouterr().err
    assert "QEMU 7.2 is too old: without KVM, guests are emulated, which needs QEMU 10.0 or newer" in err
    assert "./scripts/setup installs QEMU 10" in err
    assert nothing_is_left(home)


def test_qemu_missing(
    home: Path, image: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FLOTILLA_QEMU", raising=False)
    monkeypatch.setenv("PATH", str(home))
    assert call(main_up, "3", "--image", str(image)) == 1
    err = capsys.readouterr().err
    assert "QEMU is missing: no program qemu-system-x86_64" in err
    assert "./scripts/setup installs QEMU 10" in err
    assert nothing_is_left(home)


def test_nodes_of_another_architecture_have_a_qemu_of_their_own(
    home: Path, standin: Path, image: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STANDIN_NODES", "1")
    other = home / "qemu-other"
    shutil.copy(standin, other)
    monkeypatch.setenv("FLOTILLA_QEMU_ARM64", str(other))
    up = ("1", "--image", str(image))
    assert call(main_up, *up, "--arch", "arm64") == 0
    assert "nodes are emulated, which is slow: arm64 is not this computer's architecture" in capsys.readouterr().err
    description = Cluster.open().description
    assert (description.architecture, description.qemu, description.accelerator.name) == ("arm64", str(other), "tcg")
    assert call(main_up, *up) == 1
    assert "cluster 'default' exists and is arm64, not amd64" in capsys.readouterr().err
    assert call(main_down) == 0

    monkeypatch.setenv("FLOTILLA_QEMU_ARM64", str(home / "none"))
    assert call(main_up, *up, "--arch", "arm64") == 1
    assert "./scripts/setup --tests installs QEMU 10" in capsys.readouterr().err
    assert nothing_is_left(home)


def test_commands_about_a_cluster_that_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    for argv in (["status"], ["env"], ["ssh", "1"], ["console", "1"], ["start", "1"], ["fault", "kill", "1"]):
        assert call(main, *argv) == 1
        err = capsys.readouterr().err
        assert "there is no cluster 'default' (there are: none)" in err
        assert "hint: cluster-up 3 makes one" in err
    assert call(main, "list") == 0
    assert call(main, "list", "--json") == 0
    assert capsys.readouterr().out.endswith("[]\n")


def test_a_state_folder_that_holds_no_clusters(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file where the folder should be, and a folder whose name no cluster can have."""
    (home / "state/flotilla/clusters/Not Ours").mkdir(parents=True)
    (home / "state/flotilla/clusters/Not Ours/cluster.json").write_text("{}")
    assert call(main, "list") == 0
    (home / "file").write_text("in the way")
    monkeypatch.setenv("XDG_STATE_HOME", str(home / "file"))
    assert call(main, "status") == 1
    assert (
        "file/flotilla/clusters/default/cluster.json: the cluster's description cannot be read"
        in capsys.readouterr().err
    )


def test_a_runtime_folder_that_cannot_be_made(
    home: Path, standin: Path, image: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/proc/nowhere")
    assert call(main_up, "1", "--image", str(image)) == 1
    err = capsys.readouterr().err
    assert "/proc/nowhere/flotilla: the folder for sockets cannot be made" in err
    assert "hint: XDG_RUNTIME_DIR may be another user's" in err
    assert not any((home / "state/flotilla/clusters").iterdir())


def test_a_broken_description_can_still_be_removed(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layout = Layout.of("default")
    layout.state.mkdir(parents=True)
    layout.description.write_text('{"v": 99}')
    assert call(main, "status") == 1
    assert "cluster down --name default" in capsys.readouterr().err
    assert call(main_down) == 0
    assert nothing_is_left(home)


def test_a_cluster_without_certificates_is_refused_with_what_makes_it_again(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layout = Layout.of("old")
    layout.state.mkdir(parents=True)
    layout.description.write_text(json.dumps({**WHOLE, "v": 1, "name": "old"}))
    assert call(main, "status", "--name", "old") == 1
    said = capsys.readouterr().err
    assert "nodes had no certificates" in said
    assert "cluster down --name old, then cluster up 2 --name old" in said
    assert call(main_down, "--name", "old") == 0
    assert nothing_is_left(home)


@pytest.mark.parametrize("version", [1, 2])
def test_so_is_a_snapshot(home: Path, version: int) -> None:
    folder = snapshot.folder_of("healthy")
    folder.mkdir(parents=True)
    (folder / "snapshot.json").write_text(json.dumps({"v": version}))
    with pytest.raises(Failure, match="no certificates") as refused:
        Snapshot.open("healthy")
    assert "cluster snapshots --remove healthy" in (refused.value.hint or "")


WHOLE = {
    "v": 2,
    "name": "whole",
    "runtime": "/nowhere",
    "qemu": "/usr/bin/qemu",
    "memory_mib": 512,
    "agent_ttl": "30s",
    "accelerator": {"name": "tcg", "factor": 1.0, "reason": "none"},
    "ssh_ports": [2201, 2202],
    "discovery_port": 2203,
    "ready": True,
}


BROKEN: tuple[dict[str, object], ...] = (
    {"runtime": 5},
    {"ssh_ports": 7},
    {"ssh_ports": ["x"]},
    {"ssh_ports": []},
    {"node_numbers": [1]},
    {"node_numbers": [1, 1]},
    {"member_numbers": [9]},
    {"accelerator": []},
    {"accelerator": {"name": "tcg", "factor": float("inf"), "reason": ""}},
    {"discovery_port": float("inf")},
    {"driver": None},
    {"connect": [7]},
    {"memory_mib": "512"},
)
"""What a description may not say."""


@pytest.mark.parametrize(
    "text",
    [
        *["", "[]", "7", "null", "[" * 100_000, '{"v": 99}'],
        *(json.dumps({**WHOLE, **change}) for change in BROKEN),
    ],
)
def test_one_broken_description_spoils_no_other_cluster(
    home: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    for name, content in (("broken", text), ("whole", json.dumps(WHOLE))):
        layout = Layout.of(name)
        layout.state.mkdir(parents=True)
        layout.description.write_text(content)
        layout.supervisor.write_text(text)
    assert call(main, "list") == 0
    printed = capsys.readouterr().out
    assert "whole" in printed
    assert "\nbroken" not in printed
    assert call(main, "status", "--name", "broken") == 1
    assert "cluster down --name broken" in capsys.readouterr().err
    assert call(main_down, "--name", "broken") == 0
