"""Against mmdebstrap: the node's packages installed with all their scripts, and every difference from our tree
explained.

Set-up: the very packages of node.lock, and those of comparison.lock that scripts call, from the store. Expected:
nothing differs but what image/differences.yaml accepts, and nothing is accepted that does not differ.
"""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from builder.check import debian_tree, mmdebstrap, tree_difference
from builder.check.tree_difference import Facts
from builder.core import data
from builder.core.store import Store
from builder.debian import mirror
from builder.debian.deb import unpack
from builder.debian.lockfile import Lock, LockedPackage
from builder.debian.packages import obtain
from builder.debian.tools import Tools
from builder.definition import definition
from builder.pipeline import assemble
from builder.pipeline.workshop import Workshop
from terminal import Failure
from tests.builder.debmaker import deb, member, tar

pytestmark = pytest.mark.slow

ACCOUNTS = (member("./etc/passwd", b"root:x:0:0::/root:/bin/sh\n"), member("./etc/group", b"root:x:0:\nshadow:x:42:\n"))


def read(*members: tuple[tarfile.TarInfo, bytes]) -> dict[str, Facts]:
    """The tree in a tar of these members."""
    return mmdebstrap.read_tar(io.BytesIO(tar([*ACCOUNTS, *members])))


def test_every_difference_is_explained_and_every_explanation_needed(closure: Tools) -> None:
    store = Store()
    what = definition.load(data.image() / "node.yaml")
    lock = Lock.load(data.image() / "node.lock")
    whole = mmdebstrap.together(lock, Lock.load(data.image() / "comparison.lock"))
    theirs = mmdebstrap.tree(whole, store, mirror.find)
    packages = {package.name: package for package in obtain(whole, store, mirror.find)}
    node = [packages.pop(package.name) for package in lock.packages]
    base = assemble.base(Workshop(what, lock, store, closure), node)
    tree = assemble.finish(Workshop(what, lock, store, closure), base.copy(), node)
    sides = debian_tree.sides(what, tree, theirs, node, packages.values())
    assert set(sides.left_out) == set(debian_tree.RULES), "a rule that leaves nothing out is not needed"
    judged = tree_difference.judge(
        tree_difference.differences(sides.ours, sides.theirs), tree_difference.load(data.image() / "differences.yaml")
    )
    lines = "\n".join(map(str, judged.unexplained[:100]))
    assert judged.unexplained == (), (
        f"{len(judged.unexplained)} differences from what maintainer scripts make; correct our finishing step, "
        f"or accept with a reason:\n{lines}"
    )
    assert judged.stale == (), "entries of image/differences.yaml that nothing needs any more"


def test_the_comparison_has_what_the_node_assumes() -> None:
    """Names that only virtual packages have are for whoever provides them; all others are in the lock."""
    assumed = set(definition.load(data.image() / "node.yaml").assume)
    whole = mmdebstrap.together(Lock.load(data.image() / "node.lock"), Lock.load(data.image() / "comparison.lock"))
    virtual = {"debconf-2.0", "linux-initramfs-tool", "lsb-base"}
    assert assumed - {package.name for package in whole.packages} <= virtual, "run 'osbuild lock image/comparison.yaml'"


def test_the_tar_of_mmdebstrap() -> None:
    tree = read(
        member("./", type=tarfile.DIRTYPE),
        member("./usr/", type=tarfile.DIRTYPE, mode=0o755),
        member("./usr/chage", b"x", mode=0o2755, gid=42),
        member("./usr/linked", type=tarfile.LNKTYPE, linkname="./usr/chage", mode=0o2755, gid=42),
        member("./usr/sh", type=tarfile.SYMTYPE, linkname="dash"),
        member("./dev/null", type=tarfile.CHRTYPE, devmajor=1, devminor=3, mode=0o666),
        member("./usr/strange", b"", uid=7, gid=8),
        member(
            "./usr/ping",
            b"",
            pax_headers={
                "SCHILY.xattr.security.capability": "\1\0",
                "SCHILY.xattr.system.posix_acl_access": "\2",
            },
        ),
    )
    assert "" not in tree
    assert tree["usr"] == Facts("dir", 0o755, "root:root")
    assert (tree["usr/chage"].mode, tree["usr/chage"].owner) == (0o2755, "root:shadow")
    assert tree["usr/linked"] == tree["usr/chage"]
    assert tree["usr/sh"].target == "dash"
    assert (tree["dev/null"].kind, tree["dev/null"].target) == ("char", "1:3")
    assert tree["usr/strange"].owner == "7:8"
    assert tree["usr/ping"].capability == "0100"


def test_a_tar_that_is_none_or_strange() -> None:
    with pytest.raises(Failure, match="damaged"):
        mmdebstrap.read_tar(io.BytesIO(tar(ACCOUNTS)[:700]))
    with pytest.raises(Failure, match="no /etc/passwd"):
        mmdebstrap.read_tar(io.BytesIO(tar([member("./usr/x", b"")])))
    with pytest.raises(Failure, match="a member of type b'V'"):
        read(member("./volume", type=b"V"))
    with pytest.raises(Failure, match="leads nowhere"):
        read(member("./usr/linked", type=tarfile.LNKTYPE, linkname="./usr/missing"))


def locked(name: str, version: str, sha256: str = "0" * 64) -> LockedPackage:
    """A package of a lock."""
    return LockedPackage(name, version, "amd64", "debian", "trixie", f"pool/{name}.deb", sha256, 1, name, version)


def test_the_nodes_versions_win() -> None:
    node = Lock("amd64", 1, "", (), (locked("libc6", "2.41-1"), locked("udev", "257")))
    more = Lock("amd64", 2, "", (), (locked("dpkg", "1:1.22"), locked("libc6", "2.41-2")))
    whole = mmdebstrap.together(node, more)
    assert [(each.name, each.version) for each in whole.packages] == [
        ("dpkg", "1:1.22"),
        ("libc6", "2.41-1"),
        ("udev", "257"),
    ]
    assert whole.epoch == 1


def test_an_archive_of_the_locked_files(tmp_path: Path) -> None:
    sha256 = deb(tmp_path / "stored", [member("./usr/x", b"")], "dpkg")
    package = locked("dpkg", "1:1.22", sha256)
    unpacked = unpack(tmp_path / "stored", sha256, Store(tmp_path / "store"))
    mmdebstrap.write_archive(tmp_path / "archive", [package], {"dpkg": tmp_path / "stored"}, [unpacked])
    copied = tmp_path / "archive/dpkg_1%3a1.22_amd64.deb"
    assert copied.read_bytes() == (tmp_path / "stored").read_bytes()
    assert copied.stat().st_mode & 0o777 == 0o644
    assert (tmp_path / "archive/Packages").read_text() == (
        "Package: dpkg\nVersion: 1.0\nArchitecture: amd64\n"
        f"Filename: ./dpkg_1%3a1.22_amd64.deb\nSize: 1\nSHA256: {sha256}\n"
    )
    words = mmdebstrap.command(tmp_path / "archive", [package], tmp_path / "out.tar", "--quiet")
    assert "--include=dpkg" in words
    assert words[-1] == f"deb [trusted=yes] copy:{tmp_path}/archive ./"


def test_mmdebstrap_is_missing_or_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Failure, match="ended with code 7:\nout\nno such package") as caught:
        mmdebstrap.run(["sh", "-c", "echo out; echo no such package >&2; exit 7"])
    assert "osbuild lock image/comparison.yaml" in str(caught.value.hint)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Failure, match="mmdebstrap is not installed"):
        mmdebstrap.run(["mmdebstrap"])
