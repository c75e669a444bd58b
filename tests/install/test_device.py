"""What is refused, and why: from what the kernel and wipefs say."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from builder.debian.tools import Tools
from install import device
from install.device import Device
from terminal import Failure, UsageFailure

DISK = Device(Path("/dev/vda"), 8 << 30, 512)


@pytest.mark.parametrize(
    ("disk", "said"),
    [
        (replace(DISK, uses=("/dev/vda1 is mounted on /",)), "is in use: /dev/vda1 is mounted on /"),
        (replace(DISK, read_only=True), "is read-only"),
        (replace(DISK, sector=4096), "sectors of 4096 bytes"),
        (replace(DISK, size=1 << 30), "too small: 1.07 GB, 2.15 GB are needed"),
        (
            replace(DISK, contents=("ext4 'precious' on vda", "gpt on vda")),
            "holds data: ext4 'precious' on vda; gpt on vda",
        ),
    ],
)
def test_what_is_refused_says_why_and_that_nothing_happened(disk: Device, said: str) -> None:
    with pytest.raises(Failure, match=said) as caught:
        device.check(disk, 2 << 30, force=False)
    assert caught.value.where == "/dev/vda"
    assert caught.value.hint is not None
    assert "nothing was changed" in caught.value.hint


def test_an_empty_disk_is_fine() -> None:
    device.check(DISK, 2 << 30, force=False)
    device.check(replace(DISK, size=2 << 30), 2 << 30, force=False)


def test_force_is_for_data_and_for_nothing_else() -> None:
    device.check(replace(DISK, contents=("gpt on vda",)), 2 << 30, force=True)
    for disk in (replace(DISK, uses=("/dev/vda is swap space",)), replace(DISK, sector=4096), replace(DISK, size=1)):
        with pytest.raises(Failure):
            device.check(disk, 2 << 30, force=True)


def test_mounts_are_found_by_device_number() -> None:
    """Names in the table are whatever the mounting program said; numbers are the kernel's."""
    table = (
        "22 1 0:21 / /proc rw - proc proc rw\n"
        "29 1 8:0 / /run/medium ro,nosuid shared:3 - iso9660 /dev/sda ro\n"
        "30 1 8:17 / /mnt/two\\040words rw - ext4 /dev/other rw\n"
    )
    assert device.mounted(table, {"8:0": "/dev/sda", "8:1": "/dev/sda1"}) == ["/dev/sda is mounted on /run/medium"]
    assert device.mounted(table, {"8:17": "/dev/sdb1"}) == ["/dev/sdb1 is mounted on /mnt/two words"]
    assert device.mounted(table, {"8:32": "/dev/sdc"}) == []


def test_swap_is_a_use() -> None:
    table = "Filename\t\t\t\tType\t\tSize\n/dev/vda2                               partition\t1048572\t0\t-2\n"
    assert device.swapped(table, ["/dev/vda", "/dev/vda2"]) == ["/dev/vda2 is swap space"]
    assert device.swapped(table, ["/dev/vdb"]) == []


def wipefs(path: Path) -> bytes:
    """What the host's wipefs (util-linux) says; the node has the same."""
    return subprocess.run(["wipefs", "--json", path], check=True, capture_output=True).stdout


def test_what_wipefs_says_of_real_contents(tmp_path: Path, closure: Tools) -> None:
    image = tmp_path / "disk"
    with image.open("wb") as file:
        file.truncate(16 << 20)
    assert device.signatures(wipefs(image)) == []
    closure.run("mke2fs", "-q", "-F", "-t", "ext4", "-L", "precious", str(image))
    assert device.signatures(wipefs(image)) == ["ext4 'precious' on disk"]
    with image.open("wb") as file:
        file.truncate(16 << 20)
    closure.run("sfdisk", "--quiet", str(image), feed=b"label: gpt\nsize=4MiB\n")
    # Both copies of the table and the protective boot sector; each is reported once.
    assert device.signatures(wipefs(image)) == ["gpt on disk", "PMBR on disk"]


def test_nothing_said_is_nothing_found() -> None:
    assert device.signatures(b"") == []
    assert device.signatures(json.dumps({"signatures": []}).encode()) == []


@pytest.mark.parametrize("path", ["/dev/null", "/etc/passwd", "/"])
def test_only_a_disk_is_a_disk(path: str) -> None:
    with pytest.raises(UsageFailure, match="is no disk"):
        device.inspect(Path(path))


def test_a_name_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(Failure, match="No such file") as caught:
        device.inspect(tmp_path / "sdz")
    assert caught.value.hint is not None
