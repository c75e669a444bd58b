"""The disk of an installed node under UEFI: grown, verified, kept.

And a root that is not what was built: nothing runs from it. Nine boots.
"""

from __future__ import annotations

import json
import re
import shutil
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from builder.core.toolbox import ToolFailure
from builder.debian.tools import Tools
from cloudconfig.host import seed

from .firmware import STATE_BYTES, Machine, direct, drive, machine

pytestmark = [pytest.mark.fast, pytest.mark.needs("machine")]

SIZE: Final = 6 << 30
"""Of the disk, in bytes; the image is a third of that."""
BLOCK: Final = 4096
LOGIN: Final = r"\bflotilla login:|node-of-disk login:"
PANIC: Final = "Kernel panic - not syncing: dm-verity device corrupted"


# --- a disk ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Installed:
    """The machine after its first boot, running for the second time; ``tables`` are the partition tables as built and
    after the first boot, ``seen`` is what the first boot looked like from inside.
    """

    machine: Machine
    tables: tuple[dict[str, Any], dict[str, Any]]
    seen: dict[str, str]


LOOK: Final = {
    "machine-id": "cat /etc/machine-id",
    "host key": "cat /etc/ssh/ssh_host_ed25519_key.pub",
    "file system": "sudo blkid -s UUID -o value $(findmnt -no SOURCE /var)",
    "partitions": "lsblk -bJo NAME,SIZE,PARTLABEL,PARTUUID /dev/vda",
}


def table(disk: Path, tools: Tools) -> dict[str, Any]:
    """The partition table of the qcow2 image ``disk``, of which sfdisk finds that all is well: both copies are there
    and agree.
    """
    raw = disk.with_suffix(".raw")
    tools.run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", str(disk), str(raw))
    try:
        assert b"No errors detected" in tools.run("sfdisk", "--verify", str(raw))
        with raw.open("rb") as file:
            file.seek(-512, 2)
            assert file.read(8) == b"EFI PART", "the backup of the table is at the end"
        table: dict[str, Any] = json.loads(tools.run("sfdisk", "--json", str(raw)))["partitiontable"]
    finally:
        raw.unlink()
    for name in ("device", "lastlba"):
        del table[name]
    for part in table["partitions"]:
        del part["node"]
    return table


@pytest.fixture(scope="module")
def installed(image: Path, folder: Path, key: Path) -> Iterator[Installed]:
    """A larger disk on top of ``disk.qcow2``: booted, its plug pulled, booted again."""
    tools, disk, volume = Tools.ours(), folder / "disk.qcow2", folder / "seed.iso"
    backing = ("-b", str(image / "disk.qcow2"), "-F", "qcow2")
    tools.run("qemu-img", "create", "-q", "-f", "qcow2", *backing, str(disk), str(SIZE))
    public = key.with_suffix(".pub").read_text().strip()
    text = f"#cloud-config\nhostname: node-of-disk\nssh_authorized_keys:\n  - {public}\n"
    seed.make(volume, text.encode(), seed.meta_data("disk", "disk"))
    devices = [
        *("-drive", f"if=none,id=disk,format=qcow2,file={disk},cache=unsafe"),
        *("-device", "virtio-blk-pci,drive=disk"),
        *drive("seed", volume, "virtio-blk-pci,serial=cidata", writable=False),
    ]
    tables = [table(image / "disk.qcow2", tools)]
    with machine(folder / "first", key, devices, uefi=True) as running:
        running.wait_for(LOGIN)
        seen = {name: running.check(command) for name, command in LOOK.items()}
        running.check("echo precious | sudo tee /var/lib/kept /etc/kept >/dev/null && sync")
    tables.append(table(disk, tools))
    with machine(folder / "second", key, devices, uefi=True) as running:
        running.wait_for(LOGIN)
        yield Installed(running, (tables[0], tables[1]), seen)


def test_partitions_are_those_that_are_documented(installed: Installed) -> None:
    built, _ = installed.tables
    parts = built["partitions"]
    assert [part["name"].partition("-")[0] for part in parts] == ["esp", "root", "verity", "_empty", "_empty", "state"]
    assert [(a["size"], a["type"]) for a in parts[1:3]] == [(b["size"], b["type"]) for b in parts[3:5]]
    root_hash = installed.machine.check("grep -o 'flotilla.verity=[^ ]*' /proc/cmdline").strip().partition(":")[2]
    assert parts[1]["name"] == f"root-{root_hash[:16]}"
    assert (parts[1]["uuid"] + parts[2]["uuid"]).replace("-", "").lower() == root_hash


def test_the_first_boot_grew_the_state_to_the_end_and_changed_nothing_else(installed: Installed) -> None:
    built, grown = installed.tables
    *others, state = grown["partitions"]
    assert others == built["partitions"][:-1]
    before = built["partitions"][-1]
    assert {**state, "size": 0} == {**before, "size": 0}
    assert (grown["id"], grown["label"]) == (built["id"], built["label"])
    assert SIZE - (2 << 20) <= (state["start"] + state["size"]) * 512 < SIZE
    available = int(installed.machine.check("findmnt -bno SIZE /var"))
    assert available > 0.9 * state["size"] * 512, "the file system was grown, too"


def test_the_root_is_verified_and_read_only(installed: Installed) -> None:
    node = installed.machine
    assert node.check("findmnt -no SOURCE,FSTYPE /").split() == ["/dev/mapper/root", "squashfs"]
    assert "ro" in node.check("findmnt -no OPTIONS /").strip().split(",")
    words = node.check("sudo dmsetup table root").split()
    assert words[2] == "verity"
    assert words[-1] == "panic_on_corruption"
    assert words[-4] in node.check("cat /proc/cmdline")
    assert node.run("sudo touch /usr/x").rc != 0


def test_the_last_tenth_of_the_state_is_for_etcd_and_the_system(installed: Installed) -> None:
    """What a container, an account, or root without the right to exceed limits cannot take: docs/room.md.

    The disk was formatted by an earlier boot.
    """
    node = installed.machine
    size, free, available = (int(word) * 4096 for word in node.check("stat -f -c '%b %f %a' /var").split())
    kept = min(max(size // 10, 512 << 20), 3 << 30, size // 4)
    assert kept - (1 << 20) < free - available < kept + (20 << 20)
    node.check(f"fallocate -l {available - (8 << 20)} /var/home/core/most")
    taking, unable = "fallocate -l 50M", "setpriv --bounding-set=-sys_resource --inh-caps=-sys_resource"
    for who in ("", f"sudo {unable}"):
        assert "No space left" in node.run(f"{who} {taking} /var/home/core/more").err
    node.check(f"sudo install -d -o etcd /var/etcd && sudo setpriv --reuid etcd --clear-groups {taking} /var/etcd/more")
    node.check(f"sudo {taking} /var/root/more")
    node.check("sudo rm -r /var/home/core/mo?? /var/root/more /var/etcd")
    journal = node.check("grep CapEff /proc/$(pidof systemd-journald)/status").split()[1]
    assert int(journal, 16) >> 24 & 1, "the journal has CAP_SYS_RESOURCE"


def test_user_data_came_from_the_seed_and_nothing_failed(installed: Installed) -> None:
    node = installed.machine
    status = json.loads(node.check("cloudconfig status --wait --json"))
    assert (status["result"], status["datasource"], status["instance_id"]) == ("done", "nocloud", "disk")
    assert node.check("systemctl --failed --no-legend --plain").strip() == ""


def test_the_second_boot_keeps_what_the_first_one_left(installed: Installed, folder: Path) -> None:
    """Last: it switches the machine off, and the plug had been pulled on the first boot."""
    node = installed.machine
    assert {name: node.check(command) for name, command in LOOK.items()} == installed.seen
    assert node.check("cat /var/lib/kept /etc/kept") == "precious\n" * 2
    assert "flotilla-initrd" not in node.console
    node.power_off()
    assert table(folder / "disk.qcow2", Tools.ours()) == installed.tables[1]


# --- a root that is not what was built -------------------------------------------------------------------------------


def data_bytes(image: Path) -> int:
    """Where the root's file system ends, and its hashes begin."""
    line = (image / "cmdline").read_text()
    return int(line.partition("flotilla.verity=")[2].partition(":")[0]) * BLOCK


def first_byte_of(path: str, image: Path, work: Path) -> int:
    """Where the first block of the root is that ``path`` in it cannot be read without: no tool says it, so blocks are
    taken away until it cannot.
    """
    root, tools = image / "root.img", Tools.ours()
    whole = tools.run("unsquashfs", "-cat", str(root), path)
    with root.open("rb") as file:
        (inodes,) = struct.unpack_from("<Q", file.read(96), 64)  # struct squashfs_super_block: inode_table_start

    def is_readable_without(count: int) -> bool:
        """The first ``count`` blocks, but for the superblock's."""
        copy = shutil.copyfile(root, work / "hollow.img")
        with Path(copy).open("r+b") as file:
            file.seek(BLOCK)
            file.write(bytes((count - 1) * BLOCK))
        try:
            return tools.run("unsquashfs", "-cat", str(copy), path) == whole
        except ToolFailure:
            return False

    low, high = 1, inodes // BLOCK
    assert not is_readable_without(high)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if is_readable_without(middle) else (low, middle)
    return low * BLOCK


PLACES: Final[Mapping[str, Callable[[Path, Path], int]]] = {
    "the file system's superblock": lambda image, _: 5,
    "the first block of systemd": lambda image, work: first_byte_of("usr/lib/systemd/systemd", image, work) + 77,
    "the top of the tree of hashes": lambda image, _: data_bytes(image) + BLOCK + 5,
}
"""Where a byte is flipped, in an image and with a folder to work in."""


def boot(image: Path, root: Path, command_line: str, work: Path, key: Path) -> str:
    """What such a machine says until it ends."""
    with direct(image, root, command_line, work, key) as running:
        return running.wait_until_off()


@pytest.mark.parametrize("place", PLACES)
def test_one_wrong_byte_and_nothing_runs_from_it(place: str, image: Path, tmp_path: Path, key: Path) -> None:
    root, at = Path(shutil.copyfile(image / "root.img", tmp_path / "root.img")), PLACES[place](image, tmp_path)
    with root.open("r+b") as file:
        file.seek(at)
        (byte,) = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ 1]))
    said = boot(image, root, (image / "cmdline").read_text(), tmp_path, key)
    kind = "metadata" if at >= data_bytes(image) else "data"
    message = f"byte {at} of root.img was flipped ({place})\n{said[-3000:]}"
    assert f"{kind} block {at // BLOCK} is corrupted" in said, message
    assert PANIC in said, message
    assert "login:" not in said, message


def other_hash(line: str) -> str:
    """The command line with another last digit of the root hash."""
    words = line.split()
    return " ".join(
        word[:-1] + ("0" if word[-1] != "0" else "1") if word.startswith("flotilla.verity=") else word for word in words
    )


def no_hash(line: str) -> str:
    """The command line without it."""
    return " ".join(word for word in line.split() if not word.startswith("flotilla.verity="))


@pytest.mark.parametrize(
    ("change", "messages"),
    [
        (other_hash, ["is corrupted", PANIC]),
        (no_hash, ["flotilla-initrd: no root hash (flotilla.verity): a root that cannot be verified is not started"]),
    ],
    ids=["another root hash", "no root hash"],
)
def test_a_command_line_that_does_not_fit_the_root(
    change: Callable[[str], str], messages: list[str], image: Path, tmp_path: Path, key: Path
) -> None:
    said = boot(image, image / "root.img", change((image / "cmdline").read_text()), tmp_path, key)
    for message in messages:
        assert message in said, said[-3000:]
    assert "login:" not in said, said[-3000:]


# --- a state disk that is not ready ----------------------------------------------------------------------------------


def half_formatted(state: Path, *, mark: bool) -> None:
    """A disk with something on it that is no file system; ``mark`` says that it was our formatting that ended there."""
    with state.open("wb") as file:
        file.seek(BLOCK)
        file.write(b"group descriptors, or a stranger's data" * 1000)
        if mark:
            file.seek(STATE_BYTES - 3 * 65536)
            file.write(b"flotilla formats this disk\n")
        file.truncate(STATE_BYTES)


def test_a_state_disk_that_holds_something_is_not_touched(image: Path, tmp_path: Path, key: Path) -> None:
    half_formatted(tmp_path / "state", mark=False)
    before = (tmp_path / "state").read_bytes()
    said = boot(image, image / "root.img", (image / "cmdline").read_text(), tmp_path, key)
    assert re.search(
        r"flotilla-initrd: the state disk /dev/\w+ is neither empty nor ours; nothing was changed", said
    ), said
    assert (tmp_path / "state").read_bytes() == before


def test_a_power_cut_while_the_state_was_formatted(image: Path, tmp_path: Path, key: Path) -> None:
    """On the oldest processor that hypervisors pretend: it has no instruction for the checksums of ext4."""
    half_formatted(tmp_path / "state", mark=True)
    line, oldest = (image / "cmdline").read_text(), ("-cpu", "kvm64")
    with direct(image, image / "root.img", line, tmp_path, key, oldest) as running:
        running.wait_for(r"Welcome to|OK ")
        assert "flotilla-initrd" not in running.console
    data = (tmp_path / "state").read_bytes()
    assert data[1080:1082] == b"\x53\xef", "there is an ext4"
    assert b"flotilla formats this disk" not in data[-4 * 65536 :]
