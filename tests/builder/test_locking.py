"""``osbuild lock`` and ``osbuild scripts`` through the real entry point, against an archive made up here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from builder.cli import run
from builder.debian.apt import Programs
from builder.debian.lockfile import Lock
from builder.debian.tools import Tools
from terminal import command
from tests.builder.conftest import Archive, Signer
from tests.builder.smallworld import MINE, World

pytestmark = pytest.mark.slow

Out = pytest.CaptureFixture[str]


class Locking:
    """A definition without a lock in a folder of its own, the archive it is locked from, and the commands for both."""

    def __init__(self, folder: Path, store: Path, archive: Archive, signer: Signer) -> None:
        self.path, self.archive, self._signer = folder / "mine.yaml", archive, signer
        self.lock_path, self.reviews = folder / "mine.lock", folder / "scripts.json"
        self.path.write_text(MINE)
        self._options = ["--store", str(store), "--mirror", f"file://{archive.root.parent}", "--quiet"]

    def lock(self, *words: str) -> int:
        """``osbuild lock`` of the archive as it is now."""
        self.archive.stanzas.setdefault("one", [])
        self.archive.stanzas.setdefault("one-security", [])
        self.archive.write(self._signer)
        return command("osbuild", run, ["lock", str(self.path), *words, *self._options])

    def scripts(self, *words: str) -> int:
        """``osbuild scripts`` for the definition."""
        return command("osbuild", run, ["scripts", "--definition", str(self.path), *words, *self._options])

    def versions(self) -> dict[str, str]:
        """Package to version, as locked."""
        return {package.name: package.version for package in Lock.load(self.lock_path).packages}


@pytest.fixture
def mine(
    tmp_path: Path,
    closure: Tools,
    archive: Archive,
    signer: Signer,
    programs: Programs,
    monkeypatch: pytest.MonkeyPatch,
) -> Locking:
    world = World(tmp_path / "world", closure)
    monkeypatch.setattr(Tools, "apt", lambda _: programs)
    return Locking(tmp_path, world.store, archive, signer)


# --- maintainer scripts ----------------------------------------------------------------------------------------------


def test_a_new_script_stops_the_lock_is_shown_and_accepting_it_opens_the_way(mine: Locking, capsys: Out) -> None:
    mine.archive.add("one", "tool", scripts={"postinst": "#!/bin/sh\nadduser tool\n"})
    assert mine.lock() == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert "1 maintainer scripts are not reviewed, and the lock was left as it is" in said.err
    assert "tool: postinst is new\n      #!/bin/sh\n      adduser tool\n" in said.err
    assert f"'osbuild scripts --definition {mine.path} --accept tool --reason TEXT'" in said.err
    assert not mine.lock_path.exists()

    assert mine.scripts() == 1
    assert capsys.readouterr().out.splitlines()[1].split() == ["tool", "postinst", "new"]
    assert mine.scripts("--show", "tool") == 0
    assert capsys.readouterr().out == "--- tool postinst\n#!/bin/sh\nadduser tool\n"

    assert mine.scripts("--accept", "tool", "--covered", "accounts", "--reason", "one user") == 0
    assert capsys.readouterr().out == "accepted tool postinst\n"
    assert mine.lock() == 0
    assert mine.versions() == {"tool": "1.0-1"}
    capsys.readouterr()
    assert mine.scripts("--json") == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row == {
        "package": "tool",
        "script": "postinst",
        "state": "reviewed",
        "covered": ["accounts"],
        "reviewed": "one user",
    }


def test_a_changed_script_stops_the_lock_with_its_diff(mine: Locking, capsys: Out) -> None:
    mine.archive.add("one", "tool", scripts={"postinst": "#!/bin/sh\nadduser tool\n"})
    assert mine.lock() == 1
    assert mine.scripts("--accept", "tool", "--reason", "one user") == 0
    assert mine.lock() == 0
    before = mine.lock_path.read_text()
    mine.archive.add("one", "tool", "1.1-1", scripts={"postinst": "#!/bin/sh\nadduser tool\nchmod u+s /usr/bin/tool\n"})
    capsys.readouterr()
    assert mine.lock() == 1
    said = capsys.readouterr().err
    assert "tool: postinst is changed" in said
    assert "       adduser tool\n      +chmod u+s /usr/bin/tool\n" in said
    assert mine.lock_path.read_text() == before
    assert mine.scripts("--accept", "tool", "--covered", "statoverride") == 0
    assert len(json.loads(mine.reviews.read_text())["scripts"]) == 1, "the entry of the old version is gone"
    assert mine.lock() == 0
    assert mine.versions() == {"tool": "1.1-1"}


def test_an_update_with_the_same_scripts_needs_no_second_look_and_a_dropped_script_only_leaves_a_stale_entry(
    mine: Locking, capsys: Out
) -> None:
    mine.archive.add("one", "tool", scripts={"postinst": "true\n"})
    assert mine.lock() == 1
    assert mine.scripts("--accept", "tool", "--reason", "nothing") == 0
    mine.archive.add("one", "tool", "1.1-1", scripts={"postinst": "true\n"})
    assert mine.lock() == 0
    mine.archive.add("one", "tool", "1.2-1")
    assert mine.lock() == 0
    capsys.readouterr()
    assert mine.scripts() == 0
    assert capsys.readouterr().out.splitlines()[1].split() == ["tool", "postinst", "stale"]
    assert mine.scripts("--accept", "tool") == 0, "what is only dropped needs no reason"
    assert capsys.readouterr().out == "dropped tool postinst\n"
    assert json.loads(mine.reviews.read_text())["scripts"] == []


def test_accepting_needs_a_reason_a_real_step_and_a_package_that_is_there(mine: Locking, capsys: Out) -> None:
    mine.archive.add("one", "tool", scripts={"postinst": "true\n"})
    assert mine.lock() == 1
    capsys.readouterr()
    assert mine.scripts("--accept", "tool") == 2
    assert "say what you found" in capsys.readouterr().err
    assert mine.scripts("--accept", "tool", "--covered", "magic") == 2
    assert "'magic' is no finishing step" in capsys.readouterr().err
    assert mine.scripts("--accept", "tooool", "--reason", "x") == 1
    assert "tooool: no such package has a maintainer script" in capsys.readouterr().err
    assert mine.scripts("--show", "tooool") == 1
    assert not mine.reviews.exists()


def test_what_was_refused_counts_only_for_the_definition_that_it_answers(mine: Locking, capsys: Out) -> None:
    mine.archive.add("one", "tool")
    mine.archive.add("one", "other", scripts={"config": "true\n"})
    assert mine.lock() == 0
    mine.path.write_text(MINE.replace("[tool]", "[tool, other]"))
    assert mine.lock() == 1
    assert mine.scripts("--quiet") == 1
    mine.path.write_text(MINE)
    capsys.readouterr()
    assert mine.scripts() == 0
    assert "other" not in capsys.readouterr().out


def test_a_review_that_is_not_ours_to_write_is_reported(
    mine: Locking, capsys: Out, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine.archive.add("one", "tool", scripts={"config": "true\n"})
    assert mine.lock() == 1
    monkeypatch.setattr("os.access", lambda path, _: "store" in Path(path).parts)
    capsys.readouterr()
    assert mine.scripts("--accept", "tool", "--reason", "a question") == 1
    assert "the review's folder is not yours to write" in capsys.readouterr().err


def test_tools_are_never_installed_so_their_scripts_need_no_review(mine: Locking) -> None:
    mine.path.write_text(MINE.replace("container: {repository: test/mine}\n", ""))
    mine.archive.add("one", "tool", scripts={"postinst": "true\n"})
    assert mine.lock() == 0


def test_a_check_reads_no_scripts(mine: Locking) -> None:
    mine.archive.add("one", "tool", scripts={"postinst": "true\n"})
    assert mine.lock("--check") == 1
    assert not mine.lock_path.exists()


# --- a part of the lock ----------------------------------------------------------------------------------------------


def test_only_the_named_package_moves(mine: Locking, capsys: Out) -> None:
    mine.archive.add("one", "tool", Depends="lib, data")
    mine.archive.add("one", "lib")
    mine.archive.add("one", "data")
    assert mine.lock() == 0
    for name, needs in (("tool", "lib, data"), ("lib", None), ("data", None)):
        mine.archive.add("one", name, "1.1-1", Depends=needs)
    capsys.readouterr()
    assert mine.lock("--upgrade", "lib") == 0
    assert [line.split()[:5] for line in capsys.readouterr().out.splitlines()] == [
        ["updated", "lib", "1.0-1", "->", "1.1-1"]
    ]
    assert mine.versions() == {"tool": "1.0-1", "lib": "1.1-1", "data": "1.0-1"}
    assert mine.lock("--upgrade", "lib") == 0
    assert "nothing changed" in capsys.readouterr().out
    assert mine.lock() == 0
    assert set(mine.versions().values()) == {"1.1-1"}


def test_what_the_new_version_needs_comes_along_and_what_it_no_longer_needs_goes(mine: Locking) -> None:
    mine.archive.add("one", "tool", Depends="lib, old, data")
    for name in ("lib", "old", "data"):
        mine.archive.add("one", name)
    assert mine.lock() == 0
    mine.archive.add("one", "tool", "2.0-1", Depends="lib (>= 2), fresh, data")
    for name in ("lib", "fresh", "data"):
        mine.archive.add("one", name, "2.0-1")
    assert mine.lock("--upgrade", "tool") == 0
    assert mine.versions() == {"tool": "2.0-1", "lib": "2.0-1", "fresh": "2.0-1", "data": "1.0-1"}


def test_what_the_archive_has_dropped_stays_as_it_is_locked(mine: Locking) -> None:
    mine.archive.add("one", "tool", Depends="lib, data (>= 1)")
    mine.archive.add("one", "lib", Depends="part (= 1.0-1)")
    mine.archive.add("one", "part")
    mine.archive.add("one", "data")
    assert mine.lock() == 0
    mine.archive.stanzas.clear()
    mine.archive.add("one", "tool", "1.1-1", Depends="lib, data (>= 1)")
    mine.archive.add("one", "lib", "1.1-1", Depends="part (= 1.1-1)")
    mine.archive.add("one", "part", "1.1-1")
    mine.archive.add("one", "data", "1.1-1")
    assert mine.lock("--upgrade", "data") == 0
    assert mine.versions() == {"tool": "1.0-1", "lib": "1.0-1", "part": "1.0-1", "data": "1.1-1"}
    assert mine.lock("--upgrade", "part") == 0, "its only user has to go along"
    assert mine.versions() == {"tool": "1.0-1", "lib": "1.1-1", "part": "1.1-1", "data": "1.1-1"}


def test_several_are_named_one_by_one_and_a_new_wish_comes_along(mine: Locking) -> None:
    mine.archive.add("one", "tool", Depends="lib, data")
    mine.archive.add("one", "lib")
    mine.archive.add("one", "data")
    assert mine.lock() == 0
    for name in ("tool", "lib", "data", "more"):
        mine.archive.add("one", name, "1.1-1", Depends="lib, data" if name == "tool" else None)
    mine.path.write_text(MINE.replace("[tool]", "[tool, more]"))
    assert mine.lock("--upgrade", "lib", "--upgrade", "data") == 0
    assert mine.versions() == {"tool": "1.0-1", "lib": "1.1-1", "data": "1.1-1", "more": "1.1-1"}


def test_a_package_that_is_not_locked_or_a_lock_that_is_not_there_is_reported(mine: Locking, capsys: Out) -> None:
    mine.archive.add("one", "tool")
    assert mine.lock("--upgrade", "tool") == 1
    assert "there is no lock" in capsys.readouterr().err
    assert mine.lock() == 0
    assert mine.lock("--upgrade", "tooool") == 1
    assert "tooool: not in the lock" in capsys.readouterr().err


def test_an_upgrade_is_held_back_by_scripts_like_any_other(mine: Locking, capsys: Out) -> None:
    mine.archive.add("one", "tool")
    assert mine.lock() == 0
    mine.archive.add("one", "tool", "1.1-1", scripts={"postinst": "true\n"})
    assert mine.lock("--upgrade", "tool") == 1
    assert "tool: postinst is new" in capsys.readouterr().err
    assert mine.versions() == {"tool": "1.0-1"}


# --- what waits ------------------------------------------------------------------------------------------------------


def test_a_check_says_which_changes_are_security_updates(mine: Locking, capsys: Out) -> None:
    mine.archive.add("one", "tool", Depends="lib")
    mine.archive.add("one", "lib")
    assert mine.lock() == 0
    capsys.readouterr()
    assert mine.lock("--check", "--json") == 0
    assert json.loads(capsys.readouterr().out) == []
    mine.archive.add("one", "tool", "1.1-1", Depends="lib")
    size = len(mine.archive.add("one-security", "lib", "1.0-1+deb1"))
    before = mine.lock_path.read_text()
    assert mine.lock("--check") == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["updated", "lib", "1.0-1", "->", "1.0-1+deb1", "1", "kB", "one-security"]
    assert lines[-1] == f"{mine.lock_path}: 2 changes wait, 1 of them from a security suite"
    assert mine.lock("--check", "--json") == 1
    parsed = {each.pop("name"): each for each in json.loads(capsys.readouterr().out)}
    assert parsed["lib"] == {
        "change": "updated",
        "old": "1.0-1",
        "new": "1.0-1+deb1",
        "bytes": size,
        "suite": "one-security",
        "security": True,
    }
    assert parsed["tool"]["security"] is False
    assert mine.lock_path.read_text() == before
