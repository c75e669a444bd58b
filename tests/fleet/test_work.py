"""One step on one unit: names that are the machine's own are not taken over."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from fleet.agent.steps import Here, Known, Outcome, Step, perform
from fleet.agent.unitstore import UnitStore
from fleet.model.entities import Desired, Placement
from tests.fleet.world import FakeSystemd

TEXT = "[Unit]\nDescription=ours\n"


def order(unit: str) -> Placement:
    digest = hashlib.sha1(TEXT.encode(), usedforsecurity=False).hexdigest()
    return Placement(unit, "a", Desired.LAUNCHED, TEXT, digest)


@pytest.fixture
def systemd(tmp_path: Path) -> FakeSystemd:
    (tmp_path / "systemd").mkdir()
    return FakeSystemd(tmp_path / "systemd")


@pytest.fixture
def store(tmp_path: Path) -> UnitStore:
    made = UnitStore(tmp_path / "fleet", tmp_path / "systemd")
    made.prepare()
    return made


def load(unit: str, systemd: FakeSystemd, store: UnitStore) -> Outcome:
    return perform(Step.LOAD, unit, order(unit), Here(), systemd, store)


@pytest.mark.parametrize(
    ("unit", "known", "why"),
    [
        # As systemd 252 and 257 report them: an instance of a template, one without file, a mount of the kernel's, a
        # slice by its use.
        (
            "serial-getty@ttyS0.service",
            Known("loaded", "active", "/usr/lib/systemd/system/serial-getty@.service"),
            "/usr/lib/systemd/system/serial-getty@.service",
        ),
        (
            "ssh.service",
            Known("loaded", "inactive", "/run/systemd/generator/ssh.service"),
            "/run/systemd/generator/ssh",
        ),
        ("system.slice", Known("loaded", "active", is_perpetual=True), "as long as the machine"),
        ("-.mount", Known("loaded", "active", "/run/systemd/generator/-.mount", True), "as long as the machine"),
        ("proc-fs-nfsd.mount", Known("loaded", "mounted"), "it is mounted"),
        ("sleep.target", Known("masked"), "it is masked"),
        (
            "system-getty.slice",
            Known("loaded", "active", members=("getty@tty1.service",)),
            "getty@tty1.service is in it",
        ),
    ],
)
def test_a_name_that_systemd_knows_is_refused(
    systemd: FakeSystemd, store: UnitStore, unit: str, known: Known, why: str
) -> None:
    systemd.own[unit] = known
    outcome = load(unit, systemd, store)
    assert outcome.here == Here()
    assert "this machine has a unit of that name already" in outcome.error
    assert why in outcome.error
    assert store.units() == {}, "else destroying it would stop the machine's"
    assert systemd.log == []


def test_names_that_are_free_or_ours_are_taken(systemd: FakeSystemd, store: UnitStore, tmp_path: Path) -> None:
    assert load("member.service", systemd, store).error == ""
    # The slice that a unit of ours names, before its own text came.
    systemd.own["batch.slice"] = Known("loaded", "active", members=("member.service",))
    assert load("batch.slice", systemd, store).error == ""
    # A daemon that died before systemd heard that the file went.
    systemd.own["again.service"] = Known("loaded", "inactive", str(tmp_path / "systemd/again.service"))
    assert load("again.service", systemd, store).error == ""
    assert sorted(store.units()) == ["again.service", "batch.slice", "member.service"]
