"""Facts of images: those of ours are what its definition says, and paths are followed as a node's kernel would."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from builder.core import architecture, data
from builder.debian.lockfile import Lock
from builder.definition import definition
from cloudconfig.check import image
from cloudconfig.check.image import Image
from terminal import Failure


def test_ours_is_not_stale() -> None:
    """Made of the image's definition and lock as they are now.

    Otherwise: osbuild image, cloudconfig facts build/qemu > cloudconfig/check/image.json.
    """
    what = definition.load(data.image() / "node.yaml", "amd64")
    lock = Lock.load(architecture.lock_path(data.image() / "node.yaml", "amd64"))
    ours = image.ours()
    assert (
        ours.made_from["definition"] == hashlib.sha256(what.model_dump_json(exclude={"overlay"}).encode()).hexdigest()
    )
    assert ours.made_from["lock"] == lock.id


def test_ours_has_what_the_repository_brings() -> None:
    ours = image.ours()
    assert ours.own == {path.name for path in (data.units() / "system").iterdir()}
    what = definition.load(data.image() / "node.yaml", "amd64")
    assert {account.name for account in what.accounts} <= ours.users.keys()
    assert set(what.groups) <= ours.groups
    assert set(what.presets.mask) <= ours.masked
    assert set(what.aliases) <= ours.units
    overlay = data.image() / "overlay/etc"
    assert {f"/etc/{path.relative_to(overlay)}" for path in overlay.rglob("*") if path.is_file()} <= ours.files


def test_the_compact_file_says_the_same(tmp_path: Path) -> None:
    (tmp_path / "facts.json").write_text(image.ours().dump())
    assert image.load(tmp_path / "facts.json") == image.ours()
    assert image.OURS.read_text() == image.ours().dump()


def row(path: str, kind: str = "file", mode: str = "0644", **more: str) -> str:
    return json.dumps(
        {"path": path, "kind": kind, "mode": mode, "uid": 0, "gid": 0, "mtime": 0, "package": "p", **more}
    )


@pytest.fixture
def build(tmp_path: Path) -> Path:
    """The two files of a build that describe an image."""
    rows = [
        row("/bin", "symlink", target="usr/bin"),
        row("/etc", "dir", "0755"),
        row("/etc/alternatives", "dir", "0755"),
        row("/etc/alternatives/vi", "symlink", target="/usr/bin/busybox"),
        row("/etc/passwd"),
        row("/home", "symlink", target="var/home"),
        row("/usr/bin", "dir", "0755"),
        row("/usr/bin/busybox", mode="0755"),
        row("/usr/bin/vi", "symlink", target="../../etc/alternatives/vi"),
        row("/usr/bin/loop", "symlink", target="loop"),
        row("/usr/bin/text"),
        row("/usr/lib/modules/6.1/kernel/fs/xfs/xfs.ko.xz"),
        row("/usr/lib/systemd/system/a@.service"),
        row("/usr/lib/systemd/system/off.service", "symlink", target="/dev/null"),
        row("/usr/share/flotilla/var", "dir", "0755"),
        row("/usr/share/flotilla/var/home", "dir", "0755"),
        row("/usr/share/flotilla/var/run", "symlink", target="/run"),
        row("/usr/share/zoneinfo/Europe/Berlin"),
    ]
    (tmp_path / "files.jsonl").write_text("\n".join(rows) + "\n")
    manifest = {
        "accounts": {
            "users": [{"name": "ann", "home": "/home/ann", "shell": "/bin/vi"}],
            "groups": [{"name": "wheel"}],
        },
        "packages": [{"name": "vim"}],
        "inputs": {"definition": "d", "lock": "l"},
    }
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    return tmp_path


def test_a_build(build: Path) -> None:
    found = image.load(build)
    assert found.users == {"ann": ("/home/ann", "/bin/vi")}
    assert found.groups == {"wheel"}
    assert found.packages == {"vim"}
    assert found.programs == {"/usr/bin/busybox", "/usr/bin/vi"}
    assert found.has_program("/bin/vi")
    assert not found.has_program("/bin/text")
    assert found.finds_program("vi")
    assert (found.has_unit("a@1.service"), found.has_unit("a.service")) == (True, False)
    assert found.masked == {"off.service"}
    assert {"xfs", "tmpfs"} <= found.filesystems
    assert found.zones == {"Europe/Berlin"}
    assert found.links == {"/bin": "/usr/bin", "/home": "/var/home", "/var/run": "/run"}


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("/etc/new", ""),
        ("/etc/new/deep", ""),
        ("/etc/passwd", ""),
        ("/home/ann/.ssh/authorized_keys", ""),
        ("/var/run/x", ""),
        ("/etc/alternatives/vi", ""),  # the link is replaced, not followed
        ("/etc/alternatives", "is a folder of the image"),
        ("/home", "the node's root is read-only there"),
        ("/var/home", "is a folder of the image"),
        ("/etc/passwd/x", "goes through /etc/passwd, which is no folder"),
        ("/etc/passwd/x/y", "goes through /etc/passwd, which is no folder"),
        ("/bin/x", "the node's root is read-only there"),
        ("/usr/local/x", "the node's root is read-only there"),
    ],
)
def test_what_can_be_written(build: Path, path: str, problem: str) -> None:
    assert image.load(build).write_problem(path) == problem


def test_a_node_is_looked_at_itself(tmp_path: Path) -> None:
    for folder in (
        "etc",
        "usr/bin",
        "usr/sbin",
        "usr/lib/systemd/system",
        "usr/share/flotilla",
        "var/home/core",
        "var/lib/docker/a/b/c",
        "run",
    ):
        (tmp_path / folder).mkdir(parents=True)
    for name, target in (("bin", "usr/bin"), ("home", "var/home"), ("var/run", "/run")):
        (tmp_path / name).symlink_to(target)
    (tmp_path / "etc/passwd").write_text("core:x:1:1::/home/core:/bin/bash\nbroken\n")
    (tmp_path / "etc/group").write_text("core:x:1:\n")
    (tmp_path / "usr/share/flotilla/dpkg-status").write_text("Package: bash\nStatus: x\n")
    (tmp_path / "usr/bin/bash").write_text("")
    (tmp_path / "usr/bin/bash").chmod(0o755)
    (tmp_path / "usr/lib/systemd/system/a.service").write_text("")
    found = image.of_root(tmp_path)
    assert found.users == {"core": ("/home/core", "/bin/bash")}
    assert found.groups == {"core"}
    assert found.packages == {"bash"}
    assert found.programs == {"/usr/bin/bash"}
    assert found.units == {"a.service"}
    assert found.links == {"/bin": "/usr/bin", "/home": "/var/home", "/var/run": "/run"}
    assert found.write_problem("/home/core") == "is a folder of the image"
    assert (found.write_problem("/home/core/x"), found.write_problem("/var/lib/docker/a/b/c/d")) == ("", "")
    with pytest.raises(Failure, match="cannot be read"):
        image.of_root(tmp_path / "none")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"v": 2}', '{"v": 1, "users": 3}', "\x00"])
def test_what_is_no_file_of_facts(tmp_path: Path, text: str) -> None:
    (tmp_path / "facts").write_text(text)
    with pytest.raises(Failure, match="does not describe an image"):
        image.load(tmp_path / "facts")


def test_no_build(tmp_path: Path) -> None:
    with pytest.raises(Failure, match="cannot be read"):
        image.load(tmp_path)


def test_links_in_a_circle_end() -> None:
    none = frozenset[str]()
    links = {"/a": "/b", "/b": "/a"}
    empty = Image({}, none, none, none, none, none, none, none, links, none, none, none, {})
    assert empty.real("/a/x").endswith("/x")
