"""Unit files on disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from fleet.agent.unitstore import StoreError, UnitStore
from unitfile.name import UnitNameError


@pytest.fixture
def store(tmp_path: Path) -> UnitStore:
    (tmp_path / "host").mkdir()
    made = UnitStore(tmp_path / "fleet", tmp_path / "systemd", [tmp_path / "none", tmp_path / "host"])
    made.prepare()
    return made


def test_a_unit_is_linked_and_found_again(store: UnitStore, tmp_path: Path) -> None:
    store.write("x@1.service", "[Service]\nExecStart=/bin/a\n")
    store.write("x@1.service", "[Service]\nExecStart=/bin/b\n")
    assert (tmp_path / "systemd/x@1.service").read_text() == "[Service]\nExecStart=/bin/b\n"
    assert list(UnitStore(tmp_path / "fleet", tmp_path / "systemd").units()) == ["x@1.service"]
    assert not store.is_launched("x@1.service")
    store.mark_launched("x@1.service", launched=True)
    assert store.is_launched("x@1.service")
    store.remove("x@1.service")
    store.remove("x@1.service")
    assert store.units() == {}
    assert not store.is_launched("x@1.service")
    assert list((tmp_path / "systemd").iterdir()) == []


@pytest.mark.parametrize("folder", ["systemd", "host"])
def test_a_unit_that_is_not_ours_is_left_alone(store: UnitStore, tmp_path: Path, folder: str) -> None:
    theirs = tmp_path / folder / "docker.service"
    theirs.write_text("theirs")
    with pytest.raises(StoreError, match="has a unit of that name already"):
        store.write("docker.service", "ours")
    assert store.units() == {}, "else the next daemon would take it for its own, and stop it"
    store.remove("docker.service")
    assert theirs.read_text() == "theirs"


def test_an_alias_of_the_machine_is_its_own_too(store: UnitStore, tmp_path: Path) -> None:
    (tmp_path / "host/etcd2.service").symlink_to("/nowhere/etcd.service")
    with pytest.raises(StoreError, match="has a unit of that name already"):
        store.write("etcd2.service", "ours")


def test_a_daemon_that_died_between_file_and_link_begins_again(store: UnitStore, tmp_path: Path) -> None:
    """Otherwise the next one would start, again and again, a unit that systemd cannot find."""
    store.write("x.service", "[Service]\n")
    (tmp_path / "systemd/x.service").unlink()
    assert store.units() == {}
    store.write("x.service", "[Service]\n")
    assert list(store.units()) == ["x.service"]


def test_names_cannot_leave_the_folder(store: UnitStore) -> None:
    with pytest.raises(UnitNameError):
        store.write("../x.service", "")


def test_other_files_are_none_of_ours(store: UnitStore, tmp_path: Path) -> None:
    (tmp_path / "fleet/units/.x.service.new").write_text("half")
    (tmp_path / "fleet/units/README").write_text("")
    (tmp_path / "fleet/units/dir.service").mkdir()
    assert store.units() == {}


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot make a folder"):
        UnitStore(tmp_path / "file/fleet", tmp_path).prepare()
