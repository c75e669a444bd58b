"""Writing under a root: no path leads out of it, and nothing half-done stays."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudconfig.node.rooted import Root, RootedError, Staging

OWN = (os.geteuid(), os.getegid())


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """What an attacker would like to have overwritten."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "secret").write_text("secret")
    return folder


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    (folder / "etc").mkdir(parents=True)
    return folder


@pytest.fixture
def root(tree: Path) -> Iterator[Root]:
    opened = Root(str(tree))
    before = len(list(Path("/proc/self/fd").iterdir()))
    yield opened
    assert len(list(Path("/proc/self/fd").iterdir())) == before, "a descriptor leaked"
    opened.close()


def write(root: Root, path: str, content: bytes = b"x", mode: int = 0o644) -> bool:
    with Staging(root) as staging:
        changed = staging.file(path, content, mode, *OWN)
        staging.commit()
    return changed


def names(tree: Path) -> list[str]:
    return sorted(str(path.relative_to(tree)) for path in tree.rglob("*"))


def test_writes_what_differs_and_only_that(root: Root, tree: Path) -> None:
    assert write(root, "/etc/a/b/x", b"one", 0o600)
    file = tree / "etc/a/b/x"
    assert (file.read_bytes(), file.stat().st_mode & 0o7777) == (b"one", 0o600)
    inode = file.stat().st_ino
    assert not write(root, "/etc/a/b/x", b"one", 0o600)
    assert file.stat().st_ino == inode
    assert write(root, "/etc/a/b/x", b"one", 0o4755)
    assert file.stat().st_mode & 0o7777 == 0o4755
    assert names(tree) == ["etc", "etc/a", "etc/a/b", "etc/a/b/x"]


def test_nothing_stays_without_commit(root: Root, tree: Path) -> None:
    (tree / "etc/old").write_text("old")
    with Staging(root) as staging:
        staging.file("/etc/old", b"new", 0o644, *OWN)
        staging.file("/etc/deep/er/x", b"new", 0o644, *OWN)
        staging.link("/etc/link", "/etc/old")
        staging.removal("/etc/old")
        assert set(staging.paths) == {"/etc/old", "/etc/deep/er/x", "/etc/link"}
    assert names(tree) == ["etc", "etc/old"]
    assert (tree / "etc/old").read_text() == "old"


@pytest.mark.parametrize("step", ["fsync", "fchmod"])
@pytest.mark.parametrize("good", [0, 1, 2])
def test_a_failure_while_staging_leaves_nothing(
    root: Root, tree: Path, monkeypatch: pytest.MonkeyPatch, step: str, good: int
) -> None:
    """The disk is full after ``good`` calls."""
    (tree / "etc/old").write_text("old")
    left = [good]
    real = getattr(os, step)

    def full(*arguments: object) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(28, "No space left on device")
        real(*arguments)

    def stage() -> None:
        with Staging(root) as staging:
            for path in ("/etc/old", "/etc/new/x", "/etc/new/y", "/etc/z"):
                staging.file(path, b"new", 0o644, *OWN)
            staging.commit()

    monkeypatch.setattr(os, step, full)
    with pytest.raises(RootedError, match="No space left"):
        stage()
    assert names(tree) == ["etc", "etc/old"]
    assert (tree / "etc/old").read_text() == "old"


def test_a_name_too_long_for_the_disk(root: Root, tree: Path) -> None:
    with pytest.raises(RootedError, match="File name too long"):
        write(root, "/etc/new/" + "n" * 300)
    assert names(tree) == ["etc"]


def test_what_a_power_cut_left_is_used_up(root: Root, tree: Path) -> None:
    """The temporary name is the same at each run."""
    staging = Staging(root)
    staging.file("/etc/x", b"half", 0o644, *OWN)  # and here the power goes
    assert len(names(tree)) == 2
    write(root, "/etc/x", b"whole")
    assert names(tree) == ["etc", "etc/x"]


def test_a_link_at_the_end_is_replaced(root: Root, tree: Path, outside: Path) -> None:
    (tree / "etc/x").symlink_to(outside / "secret")
    assert root.read("/etc/x") is None
    write(root, "/etc/x", b"mine")
    assert (tree / "etc/x").read_text() == "mine"
    assert (outside / "secret").read_text() == "secret"


def test_an_absolute_link_starts_at_the_root(root: Root, tree: Path, outside: Path) -> None:
    (tree / "var/home").mkdir(parents=True)
    (tree / "home").symlink_to("/var/home")
    (tree / "etc/out").symlink_to(outside)
    write(root, "/home/x")
    write(root, "/etc/out/secret", b"mine")
    assert (tree / "var/home/x").exists()
    assert (tree / str(outside)[1:] / "secret").read_text() == "mine"
    assert (outside / "secret").read_text() == "secret"


def test_a_link_out_of_the_root_is_refused(root: Root, tree: Path, outside: Path) -> None:
    (tree / "etc/out").symlink_to("../../outside")
    with pytest.raises(RootedError, match=r"/etc/out/secret: a symbolic link on the way leads out of the root"):
        write(root, "/etc/out/secret", b"mine")
    assert (outside / "secret").read_text() == "secret"


def test_a_link_up_and_down_inside_is_followed(root: Root, tree: Path) -> None:
    (tree / "var").mkdir()
    (tree / "etc/state").symlink_to("../var/./")
    write(root, "/etc/state/x")
    assert (tree / "var/x").exists()


def test_a_link_of_a_user_is_refused(root: Root, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who owns a folder on the way could send us anywhere, as root (sshd's folders are a user's)."""
    (tree / "var").mkdir()
    (tree / "etc/home").symlink_to("../var")
    monkeypatch.setattr(root, "_trusted", {OWN[0] + 1})
    with pytest.raises(RootedError, match="is not root's"):
        write(root, "/etc/home/x")


def test_links_in_circles(root: Root, tree: Path) -> None:
    (tree / "a").symlink_to("b")
    (tree / "b").symlink_to("a")
    with pytest.raises(RootedError, match="too many symbolic links"):
        write(root, "/a/x")


@pytest.mark.parametrize("path", ["etc/x", "/etc/../x", "/etc//x", "/etc/./x", "/", "/etc/"])
def test_unclean_paths(root: Root, path: str) -> None:
    with pytest.raises(RootedError, match="not a clean absolute path"):
        write(root, path)


def test_a_folder_or_a_file_in_the_way(root: Root, tree: Path) -> None:
    with pytest.raises(RootedError, match="/etc: is a folder"):
        write(root, "/etc")
    (tree / "etc/file").write_text("")
    with pytest.raises(RootedError, match="/etc/file/x: Not a directory"):
        write(root, "/etc/file/x")


def test_reading(root: Root, tree: Path) -> None:
    (tree / "etc/x").write_text("hello")
    os.mkfifo(tree / "etc/fifo")
    assert root.read("/etc/x") == b"hello"
    assert root.read("/etc/x", 2) == b"hel"
    assert root.read("/etc/none") is None
    assert root.read("/none/none") is None
    assert root.read("/etc") is None
    assert root.read("/etc/fifo") is None
    assert root.read("/etc/x", uid=OWN[0]) == b"hello"
    assert root.read("/etc/x", uid=OWN[0] + 1) is None
    os.link(tree / "etc/x", tree / "etc/y")
    assert root.read("/etc/x", uid=OWN[0]) is None


def test_no_such_root(tmp_path: Path) -> None:
    with pytest.raises(RootedError, match="cannot be opened"):
        Root(str(tmp_path / "none"))
