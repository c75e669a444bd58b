"""Room of its own: a container fills the disk, on a machine with its own kernel; etcd, the journal and a reboot do not
mind. Two boots.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from cluster.client.node import Node
from cluster.client.room import Room, rooms
from cluster.lifecycle.restore import up_cached
from cluster.lifecycle.up import Options
from terminal import Phases
from upkeep.journal import Event

from . import keys
from .conftest import SETTLED_S, remove, settle, until
from .redis import IMAGE

pytestmark = [
    pytest.mark.full,
    pytest.mark.needs("machine"),
    pytest.mark.waive(r"No space left on device|space left", reason="the test fills the disk", until="2099-12-31"),
]

NAME: Final = "vm-room"
FILL_S: Final = 600
"""For a container to write 150 MB, or the journal 30, emulated."""
MIB: Final = 1 << 20

FILL: Final = (
    "s=0123456789abcdef; for i in 1 2 3 4 5 6 7 8 9 10 11 12; do s=$s$s; done;"
    " while echo $s; do :; done >/to/big; while echo x; do :; done >>/to/big; exec redis-server --save ''"
)
"""In a container: write until there is no room for a byte, and go on running."""


@pytest.fixture(scope="module")
def node(redis_archive: Path) -> Iterator[Node]:
    """A machine with etcd, and redis' image."""
    remove(NAME)
    try:
        options = Options(size=1, name=NAME, load_images=(redis_archive,), driver="qemu")
        yield up_cached(options, Phases(sys.__stderr__)).cluster.nodes[0]
    finally:
        remove(NAME)


def root(node: Node, command: str, timeout: float = FILL_S) -> str:
    """Run a command as root; it must succeed."""
    result = node.root(command, timeout)
    assert result.rc == 0, f"{command}: {result}"
    return result.out


def room(node: Node) -> tuple[int, int]:
    """MiB of /var that are free, and those of them that all may use."""
    block, free, available = map(int, root(node, "stat -f -c '%S %f %a' /var").split())
    return free * block // MIB, available * block // MIB


def test_a_container_that_fills_the_disk_stops_nothing_but_itself(node: Node) -> None:
    assert "resuid=993" in root(node, "findmnt -no OPTIONS /var")
    free, available = room(node)
    assert 780 < free - available < 840, "a tenth of 8 GiB"
    root(node, f"docker run --name ended {IMAGE} sh -c :")
    root(node, "tar -c -C /usr/share/flotilla . | docker import - unused:1")
    # All but 300 MiB, by a process that is not the system's: it would take an emulated node minutes to write so much.
    as_anybody = "setpriv --reuid core --clear-groups"
    root(node, f"install -d -o core /var/tmp/core && {as_anybody} fallocate -l {available - 300}M /var/tmp/core/most")
    assert "No space left" in node.root(f"{as_anybody} fallocate -l 400M /var/tmp/core/more").err
    root(node, "rm /var/tmp/core/more")  # what it got

    # One into its own file system, with all privileges; one into a volume, where no overlay is between it and the disk.
    for name, options in (("layer", "--privileged"), ("volume", "--mount type=volume,dst=/to")):
        fill = FILL if name == "volume" else FILL.replace("/to/", "/")
        root(node, f'docker run -d --user 0 --name {name} {options} {IMAGE} sh -c "{fill}"'.replace("$", r"\$"))
    until("the disk is full", lambda: room(node)[1] == 0, FILL_S)
    assert room(node)[0] > 700, "what is kept is there"

    for number in range(10):
        keys.put(node, f"/full/{number}", "x" * 1_000_000)
    # 24 MiB: more than one file of the journal, so that it has to begin another. While the disk is full, it keeps the
    # newest only.
    # One stream: the journal reads several in turn, and 8 MiB of one may wait while it reads the next.
    root(node, "(head -c 24M /dev/urandom | base64 -w 40000; echo the end) | systemd-cat -t flood")
    until("the journal has its end", lambda: "the end" in root(node, "journalctl -qt flood -n 1 -o cat"), FILL_S)
    running_on = root(node, "systemctl show -p NRestarts etcd.service systemd-journald.service").split()
    assert running_on == ["NRestarts=0", "NRestarts=0"]

    # The keeper: docker can remove things, too, and those that run go on.
    root(node, "flotilla-room --idle 0")
    assert set(root(node, "docker ps -a --format '{{.Names}} {{.State}}'").splitlines()) == {
        "layer running",
        "volume running",
    }
    assert "unused" not in root(node, "docker images")
    removed = root(node, f"journalctl -q -o cat MESSAGE_ID={Event.REMOVED.value}")
    assert "removed the container ended" in removed
    assert "removed the image unused:1" in removed
    stuck = root(node, f"journalctl -q -o cat MESSAGE_ID={Event.STUCK.value}")
    assert "/var is still 100 % full, and nothing more may go" in stuck
    (shown,) = rooms([node])
    assert shown == Room({"/var": 100}, ("/var",), stuck=True, removed={"container": 1, "image": 1})
    assert "flotilla_room_stuck 1" in root(node, "cat /run/flotilla-room/room.prom").splitlines()

    # Whatever the superblock says (a disk formatted by an older image) the next boot keeps the room again, on a full
    # disk, too.
    root(node, "tune2fs -r 1000 $(findmnt -no SOURCE /var)")
    node.reboot()
    settle(node)
    assert root(node, "systemctl is-system-running").strip() == "running", root(node, "systemctl --failed")
    until("etcd has it all", lambda: keys.get(node, "/full/9") == "x" * 1_000_000, SETTLED_S)
    keys.put(node, "/full/after", "the reboot")
    assert room(node)[0] - room(node)[1] > 600
    assert "flotilla-initrd" not in root(node, "journalctl -qb -k -o cat")
