"""The root shell of a node: with no network, with no ssh, through a reboot; and what the node says of itself, against a
real PID 1.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pty
import select
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from cluster.client.cluster import Cluster
from cluster.client.node import Node
from cluster.client.root_shell import Line
from cluster.lifecycle.up import Options, up
from cluster.model.protocol import Condition, Status, Watch
from cluster.model.run import RunResult
from terminal import Phases

from .conftest import until

pytestmark = [pytest.mark.fast, pytest.mark.needs("clock", "machine")]

NAME: Final = "vm-shell"
SOON_S: Final = 60.0
REQUESTED: Final = pytest.mark.waive(
    r"[Rr]escue|root account is locked",
    reason="a test requests it; the console reports it after the end of the test, too",
    until="2099-12-31",
)
COMMAND: Final = [str(Path(sys.executable).parent / "cluster")]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """One node, without any container."""
    remove = [str(Path(sys.executable).parent / "cluster-down"), "--name", NAME]
    subprocess.run(remove, check=True, capture_output=True)
    try:
        yield up(Options(size=1, name=NAME), Phases(sys.__stderr__)).cluster
    finally:
        subprocess.run(remove, check=True, capture_output=True)


@pytest.fixture(scope="module")
def node(cluster: Cluster) -> Node:
    """The one."""
    return cluster.nodes[0]


def root(node: Node, command: str) -> str:
    """Run a command as root; it must succeed."""
    result = node.root(command, SOON_S)
    assert result.rc == 0, f"{command}: {result}"
    return result.out


def test_it_costs_a_boot_little(node: Node) -> None:
    """Idle, nothing; and from the start until here less than a tenth of what the whole boot took.

    The first test: the others give it work.
    """
    usage = "grep usage_usec /sys/fs/cgroup/system.slice/flotilla-shell.service/cpu.stat"
    agent = "cut -d' ' -f14,15 /proc/$PPID/stat"
    before = sum(map(int, root(node, agent).split()))
    time.sleep(10)
    after = sum(map(int, root(node, agent).split()))
    total = float(root(node, "awk '/usage_usec/ {print $2 / 1e6}' /sys/fs/cgroup/cpu.stat"))
    print(f"agent: {before / 100} s of {total} s; {root(node, usage).strip()}")
    assert after - before <= 30, "more than 0.3 s in ten idle ones, of which one command"
    assert before / 100 < total / 10


def test_it_is_root_with_a_shells_surroundings(node: Node) -> None:
    assert root(node, "id -u; pwd; echo $HOME").split() == ["0", "/", "/root"]
    assert node.root("echo out; echo err >&2; exit 3", SOON_S) == RunResult(3, "out\n", "err\n")


def test_nothing_listens_for_it(node: Node) -> None:
    fds = root(
        node, "cd /proc/$PPID/fd; for fd in *; do [ $fd -lt 3 ] || readlink $fd; done"
    )  # 1 and 2 are the journal
    assert "vport" in fds
    assert "socket:" not in fds


def test_two_commands_at_once(node: Node) -> None:
    slow: list[str] = []
    thread = threading.Thread(target=lambda: slow.append(root(node, "sleep 5; echo slow")))
    thread.start()
    assert root(node, "echo fast") == "fast\n"
    assert slow == []
    thread.join()
    assert slow == ["slow\n"]


def test_a_large_file_arrives_whole(node: Node, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(os.urandom(1 << 20) * 4)
    here = subprocess.run(["sha256sum", file], check=True, capture_output=True, text=True).stdout.split()[0]
    assert node.root("sha256sum", SOON_S, stdin=file).out.split()[0] == here


def test_with_every_network_down_and_without_ssh_one_gets_in(node: Node) -> None:
    root(node, "systemctl stop ssh.service; for nic in /sys/class/net/e*; do ip link set ${nic##*/} down; done")
    try:
        assert "state UP" not in root(node, "ip -o link show | grep -v ' lo: '")
        done = subprocess.run(
            [*COMMAND, "console", "--name", NAME, "node-1", "systemctl is-active ssh; exit 4"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SOON_S,
        )
        assert (done.returncode, done.stdout) == (4, "inactive\n")
        logs = [*COMMAND, "logs", "--name", NAME, "-u", "cloudconfig", "node-1"]
        assert "cloudconfig: done" in subprocess.run(logs, capture_output=True, text=True, timeout=SOON_S).stdout
    finally:
        root(node, "for nic in /sys/class/net/e*; do ip link set ${nic##*/} up; done; systemctl start ssh.service")


def test_a_person_has_a_terminal(node: Node) -> None:
    """As at a terminal: typed, seen, resized, left by Ctrl-]."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(COMMAND[0], [*COMMAND, "console", "--name", NAME, "node-1"])
    seen = b""

    def expect(text: bytes) -> None:
        nonlocal seen
        end = time.monotonic() + SOON_S
        while text not in seen:
            assert select.select([terminal], [], [], max(0.0, end - time.monotonic()))[0], seen
            seen += os.read(terminal, 4096)
        seen = seen[seen.index(text) + len(text) :]

    expect(b"Ctrl-] leaves")
    expect(b"# ")
    os.write(terminal, b"PS1='ask''ing> '\n")
    expect(b"asking> ")
    os.write(terminal, b"tty; id -un; sleep 1000\n")
    expect(b"/dev/pts/")
    expect(b"root")
    # Between two commands Ctrl-C reaches neither the one that has ended nor the one that is still to come.
    until("it sleeps", lambda: root(node, "pgrep -x -c sleep || true").strip() == "1", SOON_S)
    os.write(terminal, b"\x03")
    expect(b"asking> ")
    os.write(terminal, b"\x1d")
    _, status = os.waitpid(pid, 0)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(status) == 0
    until("leaving ends what was left", lambda: root(node, "pgrep -x -c sleep || true").strip() == "0", SOON_S)


def test_what_the_node_says_of_units_is_true(cluster: Cluster, node: Node) -> None:
    """Our few lines of D-Bus, and systemd's own answers."""
    root(node, "systemctl reset-failed; systemd-run --unit=bad-one -p Type=oneshot --no-block sh -c 'sleep 3; exit 1'")
    conditions: tuple[Condition, ...] = (
        {"unit": "ssh.service", "is": "active"},
        {"unit": "bad-one.service", "is": "failed"},
    )
    request = Watch(node.number, conditions, ("bad-one.service", "ssh.service"), 0.5)
    try:
        with Line(cluster.layout.control, request, SOON_S) as line:
            messages = list(line.messages())
    finally:
        root(node, "systemctl reset-failed bad-one")
    assert [message["held"] for message in messages if "held" in message] == [0, 1]
    assert messages[-1] == {"exit": 0}


def test_its_clock_can_be_set(node: Node) -> None:
    """A month ahead and back; the hardware's clock, too."""
    root(node, "systemctl stop systemd-timesyncd")
    month = 30 * 86400.0
    before, after = node.clock_set(time.time() + month, rtc=True)
    try:
        assert abs(before - time.time()) < 600
        assert abs(after - time.time() - month) < 10
        assert abs(float(root(node, "date +%s")) - time.time() - month) < 30
        assert abs(float(root(node, "cat /sys/class/rtc/rtc0/since_epoch")) - time.time() - month) < 30
    finally:
        node.clock_set(time.time(), rtc=True)
        root(node, "systemctl start systemd-timesyncd")
    assert abs(float(root(node, "date +%s")) - time.time()) < 30


@REQUESTED
def test_rescue_mode_does_not_take_it_away(node: Node) -> None:
    root(node, "systemctl --no-block isolate rescue.target")
    # A target does not wait for what it stops.
    states = "systemctl is-active rescue.target etcd.service || true"
    until("etcd has stopped", lambda: root(node, states).split() == ["active", "inactive"], 4 * SOON_S)
    assert root(node, "echo here") == "here\n"


@REQUESTED
def test_a_reboot_is_another_boot(cluster: Cluster, node: Node) -> None:
    """Out of rescue mode by a reset; the shell is there again, and says that it is another boot."""

    def status() -> dict[str, object]:
        (state,) = cluster.ask(Status()).nodes
        return dataclasses.asdict(state)

    first, pid = status()["boot"], status()["pid"]
    assert root(node, "cat /proc/sys/kernel/random/boot_id").strip() == first
    root(node, "systemctl --no-block reboot --force")
    deadline = time.monotonic() + 6 * SOON_S
    while not (status()["shell"] and status()["boot"] != first):
        assert time.monotonic() < deadline, node.console_tail()
        time.sleep(0.5)
    assert status()["pid"] == pid, "the same QEMU"
    assert root(node, "cat /proc/sys/kernel/random/boot_id").strip() == status()["boot"]
    conditions: tuple[Condition, ...] = (
        {"file": "/run/cloudconfig/status.json", "has": '"result": "done"'},
        {"listens": 22},
    )
    request = Watch(node.number, conditions, (), 0.5)
    with Line(cluster.layout.control, request, 6 * SOON_S) as line:
        assert list(line.messages())[-1] == {"exit": 0}
    assert json.loads(root(node, "cat /run/cloudconfig/status.json"))["result"] == "done"
