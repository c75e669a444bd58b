"""A node's folder: one whole set at any moment, each file its owner's from the first moment on."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

import trust
from enrolment import files
from enrolment.place import ENROLMENT, Place
from terminal import Failure
from tests.enrolment.dying import at, enrolment
from trust import profile

ROOT = Path(__file__).parents[2]


@pytest.fixture
def sets(tmp_path: Path) -> dict[str, dict[str, str]]:
    """Two sets of real certificates, by name."""
    trust.create(tmp_path / "lab")
    return {name: trust.issue_node(tmp_path / "lab", "node-1", ["10.0.0.1"]).files for name in ("old", "new")}


def test_both_sides_call_the_files_the_same() -> None:
    assert profile.NODE_FOLDER == files.FOLDER
    assert tuple(each.name for each in profile.NODE) == files.LEAVES
    assert tuple(map(profile.crl_file, profile.AUTHORITIES)) == files.LISTS
    keys = {profile.key_file(leaf) for leaf in files.LEAVES}
    assert files.GIVEN | keys == set(profile.NODE_FILES)


@pytest.mark.parametrize("umask", [0o000, 0o277])
def test_keys_are_closed_whatever_the_umask(tmp_path: Path, sets: dict[str, dict[str, str]], umask: int) -> None:
    place = at(tmp_path)
    before = os.umask(umask)
    try:
        place.put(sets["old"], enrolment("old"))
        machine = place.machine_key()
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (*place.link.iterdir(), machine)}
    closed = dict.fromkeys(("etcd-peer.key", "etcd-server.key", "fleet-server.key", "machine.key"), 0o600)
    for name, mode in modes.items():
        assert mode == {**closed, "etcd-client.key": 0o640}.get(name, 0o644), name
    assert stat.S_IMODE(place.link.stat().st_mode) == 0o755
    assert modes.keys() == {*sets["old"], ENROLMENT, "machine.key"}


def test_a_key_of_another_set_is_not_used(tmp_path: Path, sets: dict[str, dict[str, str]]) -> None:
    place = at(tmp_path)
    place.put(sets["old"], enrolment("old"))
    mixed = {**sets["new"], "etcd-client.key": sets["old"]["etcd-client.key"]}
    with pytest.raises(Failure, match="etcd-client: the issuer's certificate is not for our key"):
        place.put(mixed, enrolment("new"))
    assert place.enrolment() == enrolment("old")


def test_certificates_of_user_data_stay(tmp_path: Path) -> None:
    place = at(tmp_path)
    place.check_free()
    place.link.mkdir(parents=True)
    with pytest.raises(Failure, match="certificates that its user-data brought"):
        place.check_free()


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"v": 2}', "\0"])
def test_a_broken_record_is_named(tmp_path: Path, sets: dict[str, dict[str, str]], text: str) -> None:
    place = at(tmp_path)
    place.put(sets["old"], enrolment("old"))
    (place.link / ENROLMENT).write_text(text)
    with pytest.raises(Failure, match=r"enrolment.json: cannot be read"):
        place.enrolment()


def test_lists_are_replaced_if_they_changed(tmp_path: Path, sets: dict[str, dict[str, str]]) -> None:
    place = at(tmp_path)
    place.put(sets["old"], enrolment("old"))
    lists = {name: sets["old"][name] for name in files.LISTS}
    before = {path.name: path.stat().st_ino for path in place.link.iterdir()}
    assert not place.put_lists(lists)
    assert before == {path.name: path.stat().st_ino for path in place.link.iterdir()}  # an idle node writes nothing
    assert place.put_lists({**lists, "fleet.crl": "another"})
    assert (place.link / "fleet.crl").read_text() == "another"
    assert place.link.is_symlink()


def test_death_at_any_moment_leaves_one_whole_set(tmp_path: Path, sets: dict[str, dict[str, str]]) -> None:
    for name, texts in sets.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(texts))
    words = [sys.executable, "-m", "tests.enrolment.dying", str(tmp_path), str(tmp_path / "many")]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    deaths = int(done.stdout)
    assert deaths > 25
    seen = set()
    for number in range(deaths + 1):
        place: Place = at(tmp_path / f"many/{number}")
        known = place.enrolment()
        assert known is not None
        seen.add(known.name)
        assert {name: (place.link / name).read_text() for name in sets["old"]} == sets[known.name]
        place.put(sets["new"], enrolment("new"))  # and the next one finds nothing in its way
        assert sorted(path.name for path in place.store.iterdir()) == ["machine.key", place.link.resolve().name]
        assert [path.name for path in place.link.parent.iterdir()] == ["trust"]
    assert seen == {"old", "new"}
