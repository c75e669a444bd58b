"""Connections to libvirt that cannot be made, and the small things around them that need no libvirt."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.lifecycle.up import Options, up
from cluster.machines import libvirt_connection
from cluster.machines.hosts import common, share, version_text
from cluster.machines.libvirt_connection import emulator, emulator_text, hint, library, read_pid, require
from cluster.model.accelerator import Accelerator
from cluster.model.connection_uri import parse
from cluster.model.layout import Layout
from terminal import Failure, Phases
from tests.cluster.ordinary import write_program

SESSION, FAR = parse("qemu:///session"), parse("qemu+ssh://me@far/session")


@pytest.fixture
def without_binding(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(sys.modules, "libvirt", None)
    library.cache_clear()
    yield
    library.cache_clear()


def test_a_missing_binding_is_reported_with_what_installs_it(without_binding: None) -> None:
    with pytest.raises(Failure, match="libvirt's Python binding is not installed") as caught:
        require(SESSION)
    assert caught.value.hint == "./scripts/setup --libvirt installs libvirt and its Python binding"


def test_root_is_refused_before_anything_is_made(monkeypatch: pytest.MonkeyPatch, standin: Path, image: Path) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(Failure, match="root has no libvirt of its own, only the system's") as caught:
        up(Options(size=1, driver="libvirt", image=image), Phases(quiet=True))
    assert caught.value.hint == "run the cluster as an ordinary user, or with --driver qemu"
    assert not Layout.of("default").state.exists()
    require(FAR)  # who we are here does not matter there


def test_a_folder_that_cannot_be_made_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    (tmp_path / "file").touch()
    with pytest.raises(Failure, match="the embedded driver's folder cannot be made: Not a directory"):
        libvirt_connection.connect(parse("qemu:///embed?root=/dev/null/lab"))


@pytest.mark.parametrize(
    ("said", "what_to_do"),
    [
        ("Failed to find user record for uid '1000'", "this user is in no /etc/passwd"),
        ("Failed to acquire pid file '/run/lab/driver.pid'", "another cluster uses this folder; give each its own"),
        ("Cannot create user runtime directory '/run/x': Permission denied", "unset XDG_RUNTIME_DIR"),
        ("Failed to connect socket: No such file or directory", "./scripts/setup --libvirt"),
    ],
)
def test_what_libvirt_says_has_a_hint(said: str, what_to_do: str) -> None:
    assert what_to_do in hint(SESSION, said)
    assert hint(FAR, said) == "'ssh -l me far' must log in without a question, and find libvirt-daemon there"


def test_the_emulator_may_start_programs_and_nothing_else_changes(tmp_path: Path) -> None:
    qemu = write_program(tmp_path / "the qemu", 'printf "%s\\n" "$@"\n')
    script = write_program(tmp_path / "emulator", emulator_text(str(qemu)).removeprefix("#!/bin/sh\n"))
    given = [
        "-name",
        "a b",
        "-sandbox",
        "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
        "*",
        "",
        "spawn=deny",
        "-sandbox",
        "on",
    ]
    said = subprocess.run([script, *given], capture_output=True, text=True, check=True).stdout.split("\n")[:-1]
    given[3] = "on,obsolete=deny,elevateprivileges=allow,spawn=allow,resourcecontrol=deny"
    assert said == given


def test_the_emulator_is_written_once() -> None:
    path = emulator(Path("/usr/bin/qemu"))
    assert os.access(path, os.X_OK)
    before = path.stat().st_mtime_ns
    assert emulator(Path("/usr/bin/qemu")) == path
    assert path.stat().st_mtime_ns == before
    assert emulator(Path("/usr/bin/other")) != path


def test_pids_are_of_this_computer_only(tmp_path: Path) -> None:
    run = tmp_path / "run" / "qemu"
    run.mkdir(parents=True)
    (run / "one.pid").write_text("17\n")
    (run / "half.pid").touch()
    place = parse("qemu:///embed?root=/x")
    place = type(place)(place.uri, "embed", root=tmp_path)
    assert [read_pid(place, name) for name in ("one", "half", "none")] == [17, None, None]
    assert read_pid(FAR, "one") is None


@given(st.integers(1, 99), st.integers(1, 9))
def test_every_node_is_dealt_to_one_place(size: int, places: int) -> None:
    shares = [share(size, places, index) for index in range(places)]
    assert sum(shares) == size
    assert shares == [len([n for n in range(1, size + 1) if (n - 1) % places == index]) for index in range(places)]


def test_nodes_have_the_accelerator_that_all_places_have_and_the_patience_of_the_slowest() -> None:
    kvm, fast, slow = Accelerator("kvm", 1.0, "ran"), Accelerator("tcg", 8.0, "no KVM"), Accelerator("tcg", 20.0, "old")
    assert common([kvm]) == kvm
    assert common([kvm, fast]) == fast
    assert common([slow, kvm, fast]) == slow


def test_versions_are_written_as_people_do() -> None:
    assert version_text(9_000_000) == "9.0.0"
    assert version_text(11_003_002) == "11.3.2"
