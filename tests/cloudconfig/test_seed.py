"""Seed volumes: what `seed` writes, `iso` reads, and what else a volume may be."""

from __future__ import annotations

import io
import os
import time
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudconfig.host import seed
from cloudconfig.node import cloud, datasource, iso
from cloudconfig.node.datasource import OfflineError, Seed
from terminal import Failure, UsageFailure

USER_DATA = b"#cloud-config\nhostname: a\n"
META_DATA = seed.meta_data("i-1", "node-1")
NAMES = ("user-data", "meta-data")
VOLUME = seed.volume({"user-data": USER_DATA, "meta-data": META_DATA})


def test_exact_names_come_back() -> None:
    assert iso.label(io.BytesIO(VOLUME)) == "cidata"
    assert iso.read(io.BytesIO(VOLUME), NAMES) == {"user-data": USER_DATA, "meta-data": META_DATA.encode()}


def test_names_come_from_rock_ridge_too() -> None:
    """Tools that write no Joliet: the same volume with that descriptor's mark removed."""
    plain = bytearray(VOLUME)
    plain[VOLUME.index(b"%/E")] = 0
    assert set(iso.read(io.BytesIO(bytes(plain)), NAMES)) == {"user-data", "meta-data"}


def test_equal_input_equal_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """At another time, in another zone."""
    monkeypatch.setattr(time, "time", lambda: 1.9e9)
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        assert seed.volume({"meta-data": META_DATA, "user-data": USER_DATA}) == VOLUME
    finally:
        monkeypatch.undo()
        time.tzset()


def test_the_file_is_private_and_whole(tmp_path: Path) -> None:
    path = tmp_path / "seed.iso"
    path.write_text("old")
    path.chmod(0o644)
    seed.make(path, USER_DATA, META_DATA)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.read_bytes() == VOLUME
    assert [entry.name for entry in tmp_path.iterdir()] == ["seed.iso"]


def test_nothing_stays_of_a_failed_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        seed.make(tmp_path / "seed.iso", USER_DATA, META_DATA)
    assert list(tmp_path.iterdir()) == []


@given(st.binary(max_size=5000), st.binary(max_size=100))
@settings(max_examples=20, deadline=None)
def test_round_trip(user_data: bytes, meta_data: bytes) -> None:
    volume = io.BytesIO(seed.volume({"user-data": user_data, "meta-data": meta_data}))
    assert iso.read(volume, NAMES) == {"user-data": user_data, "meta-data": meta_data}


def test_many_records_of_one_large_extent_cost_what_is_read() -> None:
    """100 files of 8 MiB that are one, as directory records can say: only files that are wanted are read, each once."""
    names = [f"f{number}" for number in range(90)]
    volume = bytearray(seed.volume({**dict.fromkeys(names, b"x"), "user-data": USER_DATA}))
    size = (8 << 20).to_bytes(4, "little")
    at = 0
    while (at := volume.find(b"\x01\0\0\0\0\0\0\x01", at)) >= 0:  # the size of each file "x", in both byte orders
        volume[at : at + 4] = size
        at += 8
    volume += bytes(8 << 20)
    tracemalloc.start()
    try:
        assert iso.read(io.BytesIO(bytes(volume)), NAMES) == {"user-data": USER_DATA}
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()
    with pytest.raises(iso.IsoError, match="f1 is larger than 2 MiB"):
        iso.read(io.BytesIO(bytes(volume)), ("f1",))


def test_network_config_is_read_from_a_volume(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(seed.volume({"user-data": USER_DATA, "meta-data": META_DATA, "network-config": b"version: 2\n"}))
    assert datasource.read_volume(path).network == b"version: 2\n"


def test_vendor_data_is_reported_as_not_read(tmp_path: Path) -> None:
    path = tmp_path / "seed.iso"
    for content, notes in ((b"#cloud-config\n", 1), (b" \n", 0)):
        path.write_bytes(seed.volume({"user-data": USER_DATA, "meta-data": META_DATA, "vendor-data": content}))
        found = datasource.read_volume(path)
        assert len(found.notes) == notes
        assert found.user_data == USER_DATA
    path.write_bytes(seed.volume({"user-data": USER_DATA, "meta-data": META_DATA, "vendor-data": b"#!/bin/sh\n"}))
    (note,) = datasource.read_volume(path).notes
    assert note == "vendor-data is there and not read: only user-data is"


@given(st.lists(st.tuples(st.integers(16 * 2048, 32 * 2048), st.integers(0, 255)), max_size=30), st.booleans())
def test_a_damaged_volume_is_read_or_refused(damage: list[tuple[int, int]], cut: bool) -> None:
    volume = bytearray(VOLUME)
    for at, value in damage:
        volume[at % len(volume)] = value
    data = bytes(volume[: len(volume) // 2]) if cut else bytes(volume)
    try:
        iso.label(io.BytesIO(data))
        iso.read(io.BytesIO(data), NAMES)
    except iso.IsoError as error:
        assert error.message


def test_meta_data(tmp_path: Path) -> None:
    path = tmp_path / "seed.iso"
    seed.make(path, USER_DATA, "instance-id: i-9\nlocal-hostname: n9\npublic-keys:\n- a\n- b\n")
    assert datasource.read_volume(path) == Seed(
        "nocloud", USER_DATA, "i-9", "n9", ("a", "b"), {"instance-id": "i-9", "local-hostname": "n9"}
    )


@pytest.mark.parametrize(
    ("text", "keys"),
    [("public-keys: |\n  a\n  b\n", ("a", "b")), ("public-keys: {joe: a}\n", ("a",)), ("", ()), ("- x\n", ())],
)
def test_shapes_of_public_keys(text: str, keys: tuple[str, ...]) -> None:
    assert datasource.with_meta_data(Seed("x", b""), text.encode()).keys == keys


def test_broken_meta_data_names_its_line() -> None:
    with pytest.raises(Failure, match="meta-data line 2"):
        datasource.with_meta_data(Seed("x", b""), b"instance-id: a\ninstance-id: b\n")


def test_broken_meta_data_does_not_keep_user_data_back(tmp_path: Path) -> None:
    path = tmp_path / "seed.iso"
    path.write_bytes(seed.volume({"user-data": USER_DATA, "meta-data": b"instance-id: [\n"}))
    install(tmp_path, user_data=USER_DATA, meta_data=b"instance-id: [\n")
    for found in (datasource.read_volume(path), datasource.installed(tmp_path)):
        assert found.user_data == USER_DATA
        (failure,) = found.damage
        assert failure.path == "meta-data line 1"


@pytest.mark.parametrize(
    ("line", "chosen"),
    [
        ("quiet flotilla.datasource=nocloud", "nocloud"),
        ("flotilla.datasource=nocloud flotilla.datasource=file:/x", "file:/x"),
        ("xflotilla.datasource=nocloud", "none"),
        ("", "none"),
    ],
)
def test_auto_is_what_the_kernel_command_line_says(line: str, chosen: str) -> None:
    assert datasource.chosen("auto", line) == chosen
    assert datasource.chosen("file:/y", line) == "file:/y"


def test_an_unknown_datasource_is_wrong_usage() -> None:
    with pytest.raises(UsageFailure, match="no datasource is called 'gce'"):
        datasource.fetch("gce")


@pytest.mark.parametrize("name", ["installed,gce", "gce,nocloud", "nocloud,", ",", "none,nocloud", "nocloud,auto"])
def test_each_of_several_is_checked_before_any_is_read(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageFailure) as caught:
        datasource.fetch(name, wait_s=0, system=tmp_path)
    assert "installed, nocloud" in (caught.value.hint or "")


def test_what_the_network_has_comes_last() -> None:
    with pytest.raises(UsageFailure, match="ec2 must be the last"):
        datasource.fetch("ec2,nocloud")


def test_what_the_network_has_waits_for_it(tmp_path: Path) -> None:
    for name in ("ec2", "installed,openstack"):
        with pytest.raises(OfflineError):
            datasource.fetch(name, online=False, system=tmp_path)
    folder = tmp_path / "var/lib/flotilla"
    folder.mkdir(parents=True)
    (folder / "user-data").write_text("#cloud-config\n")
    found = datasource.fetch("installed,ec2", online=False, system=tmp_path)
    assert found is not None
    assert found.source == "installed"


def test_a_seed_from_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cloud.KINDS, "ec2", lambda _: cloud.Metadata(b"data", "i-1", "n1", ("key",)))
    assert datasource.fetch("ec2") == Seed("ec2", b"data", "i-1", "n1", ("key",))


class Machine:
    """A folder with /sys/block and /dev, whose disk shows up at the third look."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.now = 0.0
        self.looks = 0
        (root / "dev").mkdir()
        (root / "sys/block").mkdir(parents=True)

    def disk(self, name: str, serial: str, content: bytes = b"") -> None:
        (self.root / "sys/block" / name).mkdir()
        (self.root / "sys/block" / name / "serial").write_text(serial + "\n")
        (self.root / "dev" / name).write_bytes(content)

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.looks += 1
        if self.looks == 3:
            self.disk("vdc", "cidata", VOLUME)

    def clock(self) -> float:
        return self.now


def test_the_disk_is_waited_for(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.disk("vda", "root")
    found = datasource.nocloud(system=tmp_path, clock=machine.clock, sleep=machine.sleep)
    assert (found.user_data, found.instance_id, machine.looks) == (USER_DATA, "i-1", 3)


def test_the_hypervisors_disk_wins_over_a_label(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.disk("vdc", "cidata", VOLUME)
    (tmp_path / "dev/disk/by-label").mkdir(parents=True)
    (tmp_path / "dev/disk/by-label/cidata").write_bytes(b"another stick")
    assert datasource.nocloud(system=tmp_path, wait_s=0).user_data == USER_DATA


def test_a_label_found_by_udev_is_enough(tmp_path: Path) -> None:
    (tmp_path / "dev/disk/by-label").mkdir(parents=True)
    (tmp_path / "dev/sr0").write_bytes(VOLUME)
    (tmp_path / "dev/disk/by-label/cidata").symlink_to("../../sr0")
    assert datasource.nocloud(system=tmp_path, wait_s=0).hostname == "node-1"


def test_no_disk_is_reported_after_the_wait(tmp_path: Path) -> None:
    now = [0.0]
    with pytest.raises(Failure, match="nocloud: no volume called cidata after 2 s"):
        datasource.nocloud(
            system=tmp_path, wait_s=2, clock=lambda: now[0], sleep=lambda seconds: now.__setitem__(0, now[0] + seconds)
        )
    assert 2 <= now[0] < 2.2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the seed volume cannot be read"),
        (b"\0" * 100_000, "the seed volume cannot be read"),
        (VOLUME.replace(b"cidata ", b"config-"), "the volume's label is 'config-', not cidata"),
        (seed.volume({"other": b""}), "neither user-data nor meta-data"),
    ],
)
def test_a_wrong_volume(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "disk").write_bytes(content)
    with pytest.raises(Failure, match=message):
        datasource.read_volume(tmp_path / "disk")


def install(root: Path, **files: bytes) -> None:
    """As flotilla-install leaves ``user_data`` and ``meta_data`` behind."""
    folder = root / "var/lib/flotilla"
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name.replace("_", "-")).write_bytes(data)


def test_what_was_installed(tmp_path: Path) -> None:
    install(tmp_path, user_data=USER_DATA, meta_data=META_DATA.encode())
    assert datasource.fetch("installed", system=tmp_path) == Seed(
        "installed", USER_DATA, "i-1", "node-1", meta={"instance-id": "i-1", "local-hostname": "node-1"}
    )


@pytest.mark.parametrize(
    ("files", "seed"),
    [
        ({"user_data": USER_DATA}, Seed("installed", USER_DATA)),
        ({"meta_data": b"local-hostname: n9\n"}, Seed("installed", b"", hostname="n9", meta={"local-hostname": "n9"})),
    ],
)
def test_one_of_the_two_is_enough(files: dict[str, bytes], seed: Seed, tmp_path: Path) -> None:
    install(tmp_path, **files)
    assert datasource.installed(tmp_path) == seed


def test_nothing_installed_is_reported(tmp_path: Path) -> None:
    install(tmp_path)
    with pytest.raises(datasource.Absent, match="/var/lib/flotilla: there is neither user-data nor meta-data"):
        datasource.fetch("installed", system=tmp_path)


def test_the_first_that_is_there_wins(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.disk("vdc", "cidata", VOLUME)
    install(tmp_path)
    for several in ("installed,nocloud", "file:/no/such/file,nocloud,installed"):
        found = datasource.fetch(several, system=tmp_path)
        assert found is not None
        assert (found.source, found.hostname) == ("nocloud", "node-1")
    install(tmp_path, user_data=b"#cloud-config\n")
    assert datasource.fetch("installed,nocloud", system=tmp_path) == Seed("installed", b"#cloud-config\n")
    found = datasource.fetch("nocloud,installed", system=tmp_path)
    assert found is not None
    assert found.source == "nocloud"


def test_only_the_last_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    def absent(*, system: Path, wait_s: float) -> Seed:
        assert system == tmp_path
        waits.append(wait_s)
        raise datasource.Absent("not there")

    monkeypatch.setattr(datasource, "nocloud", absent)
    assert datasource.fetch("nocloud,installed", wait_s=9, system=tmp_path) is None
    assert datasource.fetch("installed,nocloud", wait_s=9, system=tmp_path) is None
    with pytest.raises(datasource.Absent):
        datasource.fetch("nocloud", wait_s=9, system=tmp_path)
    assert waits == [0, 9, 9]


def test_what_is_there_and_broken_is_not_passed_over(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.disk("vdc", "cidata", VOLUME)
    install(tmp_path, user_data=USER_DATA, meta_data=b"instance-id: a\ninstance-id: b\n")
    found = datasource.fetch("installed,nocloud", system=tmp_path)
    assert found is not None
    assert (found.source, [failure.path for failure in found.damage]) == ("installed", ["meta-data line 2"])
    (tmp_path / "var/lib/flotilla/user-data").unlink()
    (tmp_path / "var/lib/flotilla/user-data").mkdir()
    with pytest.raises(Failure, match="user-data: cannot be read: Is a directory"):
        datasource.fetch("installed,nocloud", system=tmp_path)
