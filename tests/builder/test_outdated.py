"""A release is refused while security updates wait for what is locked: through the command, against an archive made up
here.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from builder.cli import run
from builder.debian.apt import Programs
from builder.debian.tools import Tools
from terminal import command
from tests.builder.conftest import Archive, Signer
from tests.builder.smallworld import BASE, MINE, World

pytestmark = pytest.mark.slow

Out = pytest.CaptureFixture[str]


class Releasing:
    """A definition, locked from an archive in which ``tool`` needs ``lib``, and releases of it."""

    def __init__(self, folder: Path, store: Path, archive: Archive, signer: Signer) -> None:
        self.path, self.archive, self._signer = folder / "mine.yaml", archive, signer
        self.lock_path, self.output = folder / "mine.lock", folder / "out"
        (folder / "overlay/etc").mkdir(parents=True)
        (folder / "overlay/etc/issue").write_text("mine\n")
        self.path.write_text(MINE + "overlay: overlay\n")
        self._options = ["--store", str(store), "--mirror", f"file://{archive.root.parent}", "--quiet"]
        for suite in ("one", "one-security"):
            archive.stanzas.setdefault(suite, [])
        archive.add("one", "tool", Depends="lib")
        archive.add("one", "lib", members=BASE)
        self.lock()

    def lock(self) -> None:
        """Take what the archive has."""
        self.publish()
        assert command("osbuild", run, ["lock", str(self.path), *self._options]) == 0

    def publish(self, **times: float) -> None:
        """Have the archive's indexes list what was added."""
        self.archive.write(self._signer, **times)

    def image(self, *words: str) -> int:
        """``osbuild image``; returns the exit code."""
        given = ["image", "--definition", str(self.path), "--output", str(self.output), *words, *self._options]
        return command("osbuild", run, given)

    def updates(self) -> object:
        """What the manifest says of security updates."""
        return json.loads((self.output / "manifest.json").read_text())["updates"]


@pytest.fixture
def mine(
    tmp_path: Path,
    closure: Tools,
    archive: Archive,
    signer: Signer,
    programs: Programs,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Out,
) -> Releasing:
    world = World(tmp_path / "world", closure)
    monkeypatch.setattr(Tools, "apt", lambda _: programs)
    made = Releasing(tmp_path, world.store, archive, signer)
    capsys.readouterr()
    return made


def test_a_release_of_the_newest_records_its_query(mine: Releasing, capsys: Out) -> None:
    assert mine.image("--release") == 0
    assert mine.updates() == {"asked": True, "waiting": []}
    # What is no security update does not stop it.
    mine.archive.add("one", "lib", "2.0-1", members=BASE)
    mine.publish()
    assert mine.image("--release") == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"{mine.output} is up to date"


def test_a_release_is_refused_while_a_security_update_waits(mine: Releasing, capsys: Out) -> None:
    assert mine.image("--release") == 0
    mine.archive.add("one-security", "lib", "1.0-1+deb1", members=BASE)
    mine.publish()
    capsys.readouterr()
    # Also if it was built before: today it is no release any more.
    assert mine.image("--release") == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert f"{mine.lock_path}: 1 security update waits, which this release would not have:" in said.err
    assert "1.0-1 -> 1.0-1+deb1" in said.err
    assert f"run 'osbuild lock {mine.path}', then build again; --allow-outdated" in said.err
    # Not for whoever tries something out.
    assert mine.image() == 0
    assert mine.image("--release") == 1
    mine.lock()
    assert mine.image("--release") == 0
    assert mine.updates() == {"asked": True, "waiting": []}


def test_the_override_is_in_the_manifest(mine: Releasing) -> None:
    mine.archive.add("one-security", "lib", "1.0-1+deb1", members=BASE)
    mine.publish()
    assert mine.image() == 0
    assert mine.updates() is None
    assert mine.image("--release", "--allow-outdated") == 0
    assert mine.updates() == {
        "asked": True,
        "waiting": [{"name": "lib", "locked": "1.0-1", "newest": "1.0-1+deb1"}],
    }


def test_an_update_that_came_to_all_suites_since_is_one_of_security(mine: Releasing, capsys: Out) -> None:
    """A point release takes security updates over, into the suite that is read first."""
    for suite in ("one-security", "one"):
        mine.archive.add(suite, "lib", "1.0-1+deb1", members=BASE)
    mine.publish()
    assert mine.image("--release") == 1
    assert "1.0-1 -> 1.0-1+deb1" in capsys.readouterr().err


def test_a_package_that_takes_the_place_of_another_is_reported(mine: Releasing, capsys: Out) -> None:
    mine.archive.add("one-security", "tool", "1.0-1+deb1", Depends="lib-2")
    mine.archive.add("one-security", "lib-2")
    mine.publish()
    assert mine.image("--release") == 1
    said = capsys.readouterr().err
    assert "2 security updates wait" in said
    assert [line.split()[:2] for line in said.splitlines()[1:3]] == [["added", "lib-2"], ["updated", "tool"]]


def offline(mine: Releasing) -> str:
    return "--offline"


def gone(mine: Releasing) -> str:
    shutil.rmtree(mine.archive.root / "dists")
    return "--release"


def frozen(mine: Releasing) -> str:
    """Whoever stands between us and the archive shows an old one, in which no update waits."""
    mine.publish(age=7 * 86_400, valid=86_400)
    return "--release"


@pytest.mark.parametrize("trouble", [offline, gone, frozen])
def test_a_release_that_cannot_ask_says_so(mine: Releasing, capsys: Out, trouble: object) -> None:
    assert callable(trouble)
    assert mine.image() == 0  # all that it needs is in the store
    word = trouble(mine)
    assert mine.image("--release", word) == 1
    said = capsys.readouterr().err
    assert "the archive cannot be queried" in said
    assert "caused by: " in said
    assert "--allow-outdated" in said
    assert mine.image("--release", "--allow-outdated", word) == 0
    assert mine.updates() == {"asked": False, "waiting": None}


def test_verify_and_plan_query_no_archive(mine: Releasing, capsys: Out) -> None:
    assert mine.image("--release") == 0
    mine.archive.add("one-security", "lib", "1.0-1+deb1", members=BASE)
    mine.publish()
    options = mine._options
    assert command("osbuild", run, ["verify", str(mine.output), "--definition", str(mine.path), *options]) == 0
    words = ["--definition", str(mine.path), "--output", str(mine.output), "--release", *options[:2]]
    assert command("osbuild", run, ["plan", *words]) == 0
    assert "is up to date" in capsys.readouterr().out.splitlines()[-1]


def test_the_override_without_a_release_is_a_mistake(mine: Releasing, capsys: Out) -> None:
    assert mine.image("--allow-outdated") == 2
    assert "--allow-outdated is for a release" in capsys.readouterr().err
