"""CD drives early in boot: whose drivers are loaded, and which disk is taken."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloudconfig.host import seed
from cloudconfig.node import datasource, drives
from terminal import Failure

SATA, IDE, NETWORK = "0x010601", "0x01018a", "0x020000"


def pci(system: Path, slot: str, kind: str) -> str:
    """A PCI device of this class; returns its alias."""
    device = system / "sys/bus/pci/devices" / f"0000:00:{slot}"
    device.mkdir(parents=True)
    (device / "class").write_text(f"{kind}\n")
    (device / "modalias").write_text(f"pci:{slot}\n")
    return f"pci:{slot}"


def drive(system: Path, name: str, content: bytes | None) -> Path:
    """A CD drive, with a disk if there is ``content``."""
    (system / "sys/block" / name).mkdir(parents=True)
    device = system / "dev" / name
    if content is not None:
        device.parent.mkdir(exist_ok=True)
        device.write_bytes(content)
    return device


def test_the_drivers_of_controllers_come_before_that_of_the_drives(tmp_path: Path) -> None:
    sata, ide = pci(tmp_path, "1f.2", SATA), pci(tmp_path, "01.1", IDE)
    pci(tmp_path, "02.0", NETWORK)
    (tmp_path / "sys/bus/pci/devices/0000:00:03.0").mkdir()  # half gone
    loaded: list[str] = []
    drives.bring_up(tmp_path, loaded.append)
    assert loaded == [ide, sata, "sr_mod"]


def test_nothing_is_loaded_where_no_drive_can_be(tmp_path: Path) -> None:
    loaded: list[str] = []
    drives.bring_up(tmp_path, loaded.append)
    pci(tmp_path, "02.0", NETWORK)
    drives.bring_up(tmp_path, loaded.append)
    assert loaded == []


def test_the_disk_is_found_by_its_label(tmp_path: Path) -> None:
    volume = seed.volume({"user-data": "#cloud-config\n", "meta-data": ""})
    assert drives.labelled(tmp_path, "cidata") is None
    drive(tmp_path, "sr0", None)
    drive(tmp_path, "sr1", b"an audio disk")
    (tmp_path / "sys/block/sda").mkdir()
    (tmp_path / "dev/sda").write_bytes(volume)
    assert drives.labelled(tmp_path, "cidata") is None
    found = drive(tmp_path, "sr2", volume)
    assert drives.labelled(tmp_path, "cidata") == found


def test_user_data_on_a_disk_that_udev_has_not_seen_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a vagrant box finds it: a datasource that is not the last is not waited for, and the drive is there all the
    same.
    """
    pci(tmp_path, "1f.2", SATA)
    volume = seed.volume({"user-data": "#cloud-config\nhostname: a\n", "meta-data": ""})

    def load(alias: str) -> None:
        if alias == "sr_mod":
            drive(tmp_path, "sr0", volume)

    monkeypatch.setattr(drives, "load", load)
    found = datasource.fetch("installed,nocloud,file:/no/such/file", system=tmp_path)
    assert found is not None
    assert (found.source, found.user_data) == ("nocloud", b"#cloud-config\nhostname: a\n")


def test_without_any_disk_the_next_one_is_read(tmp_path: Path) -> None:
    other = tmp_path / "user-data"
    other.write_text("#cloud-config\n")
    found = datasource.fetch(f"installed,nocloud,file:{other}", system=tmp_path)
    assert found is not None
    assert found.source == f"file:{other}"
    with pytest.raises(Failure, match="no volume called cidata"):
        datasource.nocloud(system=tmp_path, wait_s=0)
