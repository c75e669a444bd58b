"""The ISO: a CD for BIOS and for UEFI, a USB disk for UEFI; live, and what its installer leaves on a disk.

Four boots.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from builder.debian.tools import Tools
from builder.pipeline.build import build_image
from builder.pipeline.order import Settings
from cloudconfig.host import seed
from terminal import Phases

from .firmware import Machine, drive, machine

pytestmark = [pytest.mark.fast, pytest.mark.needs("machine")]

PROMPT: Final = r"core@\w+:~\$"
"""Of a shell: a user is logged in at the console."""
DISK_BYTES: Final = 4 << 30
TARGET: Final = "/dev/nvme0n1"


@pytest.fixture(scope="module")
def iso() -> Path:
    """The node's ISO."""
    return build_image(Settings(target="iso", phases=Phases(sys.__stderr__))).directory / "flotilla.iso"


def public(key: Path) -> str:
    """Its public half."""
    return key.with_suffix(".pub").read_text().strip()


@pytest.mark.parametrize("uefi", [False, True], ids=["bios", "uefi"])
def test_it_boots_as_a_cd_and_whoever_is_at_the_console_is_logged_in(
    iso: Path, folder: Path, key: Path, uefi: bool
) -> None:
    """Without a seed and without a disk: nothing but the drive."""
    name = "uefi" if uefi else "bios"
    with machine(folder / name, key, ["-cdrom", str(iso)], uefi=uefi) as running:
        running.wait_for(PROMPT)
        assert ("ISOLINUX" in running.console) is not uefi


@pytest.fixture(scope="module")
def stick(iso: Path, folder: Path) -> Path:
    """The ISO as a user writes it to a USB stick, which can be written to."""
    return Path(shutil.copyfile(iso, folder / "stick"))


@pytest.fixture(scope="module")
def target(folder: Path) -> Path:
    """A disk with a file system on it that may still be needed."""
    path = folder / "target"
    with path.open("wb") as file:
        file.truncate(DISK_BYTES)
    Tools.ours().run("mke2fs", "-q", "-F", "-t", "ext4", "-L", "precious", str(path))
    return path


@pytest.fixture(scope="module")
def live(stick: Path, target: Path, folder: Path, key: Path) -> Iterator[Machine]:
    """The machine that runs from the stick; with an NVMe disk, a disk that is too small, and a seed volume that lets us
    in.
    """
    volume, small = folder / "seed.iso", folder / "small"
    text = f"#cloud-config\nhostname: live\nssh_authorized_keys:\n  - {public(key)}\n"
    seed.make(volume, text, seed.meta_data("live", "live"))
    with small.open("wb") as file:
        file.truncate(64 << 20)
    devices = [
        *("-device", "qemu-xhci"),
        *drive("stick", stick, "usb-storage,bootindex=1"),
        *drive("seed", volume, "virtio-blk-pci,serial=cidata", writable=False),
        *drive("small", small, "virtio-blk-pci,serial=small"),
        *drive("target", target, "nvme,serial=target"),
    ]
    with machine(folder / "live", key, devices, uefi=True) as running:
        running.wait_for(PROMPT)
        yield running


def test_it_boots_from_usb_and_runs_from_the_medium_alone(live: Machine) -> None:
    assert "live" in live.check("hostname")
    assert live.check("findmnt -no SOURCE,FSTYPE /run/medium").split() == ["/dev/sda", "iso9660"]
    assert live.check("findmnt -no FSTYPE /var").strip() == "tmpfs"
    assert "verity" in live.check("sudo dmsetup table root")
    assert live.check("systemctl --failed --no-legend --plain").strip() == ""


@pytest.mark.parametrize(
    ("device", "code", "said"),
    [
        (TARGET, 1, "holds data: ext4 'precious'"),
        ("/dev/sda", 1, "is in use: /dev/sda is mounted on /run/medium"),
        ("/dev/sda --force", 1, "is in use: /dev/sda is mounted on /run/medium"),
        ("/dev/loop0 --force", 1, "is in use"),
        ("/dev/disk/by-id/virtio-small", 1, "is too small"),
        ("/dev/disk/by-id/virtio-cidata --force", 1, "is read-only"),
        ("/dev/sda1", 2, "is a partition"),
        ("/dev/null", 2, "is no disk"),
    ],
)
def test_what_should_not_be_overwritten_is_refused(live: Machine, device: str, code: int, said: str) -> None:
    before = live.check(f"sudo wipefs {TARGET}")
    result = live.run(f"sudo flotilla-install {device}")
    assert (result.rc, result.out) == (code, "")
    assert said in result.err
    assert live.check(f"sudo wipefs {TARGET}") == before


def test_user_data_with_errors_is_refused(live: Machine) -> None:
    broken = io.BytesIO(b"#cloud-config\nhostname: [1]\n")
    result = live.run(f"sudo flotilla-install --force {TARGET} --user-data -", broken)
    assert result.rc == 1
    assert "<stdin>:2:" in result.err
    assert "precious" in live.check(f"sudo wipefs {TARGET}")


@pytest.fixture(scope="module")
def installed(live: Machine, target: Path, stick: Path, iso: Path, folder: Path, key: Path) -> Iterator[Machine]:
    """The machine that boots from the disk, once the installer has been at it and the stick is gone."""
    text = f"#cloud-config\nhostname: installed\nssh_authorized_keys:\n  - {public(key)}\nusers:\n  - name: alice\n"
    command = f"sudo flotilla-install --force --json {TARGET} --user-data -"
    said = json.loads(live.check(command, io.BytesIO(text.encode())))
    assert (said["device"], said["user_data"]) == (TARGET, True)
    again = live.run(f"sudo flotilla-install {TARGET}")
    assert (again.rc, "holds data: gpt" in again.err) == (1, True)
    live.power_off()
    assert digest(stick) == digest(iso), "something wrote to the stick"
    # On another controller than it was installed through: a disk may move.
    disk = drive("target", target, "ide-hd,bus=ide.0")
    with machine(folder / "installed", key, disk, uefi=True) as running:
        yield running


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def test_the_installed_disk_boots_alone_and_is_what_its_user_data_says(installed: Machine) -> None:
    installed.wait_for(r"installed login:")
    assert installed.check("hostname").strip() == "installed"
    installed.check("id alice")
    status = json.loads(installed.check("cloudconfig status --wait --json"))
    assert status["result"] == "done"
    installed.check("test $(sudo stat -c %a:%u /var/lib/flotilla/user-data) = 600:0")


def test_its_state_fills_the_disk_and_its_root_is_verified(installed: Machine) -> None:
    size = int(installed.check("findmnt -bno SIZE /var"))
    assert size > DISK_BYTES - (1400 << 20)
    assert "verity" in installed.check("sudo dmsetup table root")
    assert installed.check("findmnt -no FSTYPE /var").strip() == "ext4"
    assert installed.check("systemctl --failed --no-legend --plain").strip() == ""


def test_its_partition_table_is_whole(installed: Machine, target: Path) -> None:
    """Last: it switches the machine off."""
    installed.power_off()
    tools = Tools.ours()
    assert b"No errors detected" in tools.run("sfdisk", "--verify", str(target))
    parts = json.loads(tools.run("sfdisk", "--json", str(target)))["partitiontable"]["partitions"]
    assert [part["name"].partition("-")[0] for part in parts] == ["esp", "root", "verity", "_empty", "_empty", "state"]
