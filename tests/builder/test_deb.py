"""Packages are read without dpkg, and nothing in one can reach outside its own root."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from builder.core.store import Store
from builder.core.tree import Kind, PathConflict, Tree
from builder.debian import deb
from tests.builder import debmaker
from tests.builder.debmaker import member


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def unpacked(tmp_path: Path, store: Store, *members: tuple[tarfile.TarInfo, bytes]) -> deb.Package:
    path = tmp_path / "example.deb"
    return deb.unpack(path, debmaker.deb(path, members), store)


def test_a_package_comes_out_as_it_went_in(tmp_path: Path, store: Store) -> None:
    package = unpacked(
        tmp_path,
        store,
        member("./", type=tarfile.DIRTYPE, mode=0o755),
        member("./usr/bin/", type=tarfile.DIRTYPE, mode=0o755),
        member("./usr/bin/hello", b"hi", mode=0o4755, uid=3, gid=4),
        member("./usr/bin/again", type=tarfile.LNKTYPE, linkname="./usr/bin/hello"),
        member("./usr/bin/other", type=tarfile.SYMTYPE, linkname="hello"),
    )
    tree = Tree(package.entries)
    assert package.name == "example"
    assert tree["usr/bin/hello"].mode == 0o4755
    assert (tree["usr/bin/hello"].uid, tree["usr/bin/hello"].gid) == (3, 4)
    assert tree["usr/bin/hello"].owner == "example"
    assert tree.read("usr/bin/again") == b"hi"
    assert tree.read("usr/bin/other") == b"hi"
    assert tree["usr/bin/other"].kind is Kind.SYMLINK


def test_paths_are_merged_into_usr(tmp_path: Path, store: Store) -> None:
    package = unpacked(tmp_path, store, member("./bin/ls", b"ls"), member("./lib/x/y", b"y"))
    assert [entry.path for entry in package.entries] == ["usr/bin/ls", "usr/lib/x/y"]


def test_capabilities_survive(tmp_path: Path, store: Store) -> None:
    value = b"\x01\x00\x00\x02\x00\x20\x00\x00" + bytes(12)
    info, data = member("./usr/bin/ping", b"ping")
    info.pax_headers = {"SCHILY.xattr.security.capability": value.decode("utf-8", "surrogateescape")}
    package = unpacked(tmp_path, store, (info, data))
    assert package.entries[0].xattrs == {"security.capability": value}


def test_unpacking_again_reads_the_store(tmp_path: Path, store: Store) -> None:
    path = tmp_path / "example.deb"
    sha256 = debmaker.deb(path, [member("./etc/x", b"x")])
    deb.unpack(path, sha256, store)
    path.unlink()
    assert deb.unpack(path, sha256, store).entries[0].content.read() == b"x"


@pytest.mark.parametrize("kept", [20, 70, 200, -10, -1])
def test_a_truncated_package_is_refused_and_leaves_nothing(tmp_path: Path, store: Store, kept: int) -> None:
    path = tmp_path / "example.deb"
    sha256 = debmaker.deb(path, [member("./etc/x", bytes(range(256)) * 40)])
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(deb.BadPackage) as caught:
        deb.unpack(path, sha256, store)
    assert str(path) in str(caught.value)
    assert not deb.is_unpacked(sha256, store)
    assert list((store.root / "tmp").iterdir()) == []


@pytest.mark.parametrize(
    "hostile",
    [
        member("../etc/passwd", b"x"),
        member("./usr/../../etc/passwd", b"x"),
        member("/etc/passwd", b"x"),
        member("./etc/a\nb", b"x"),
        member("./etc/link", type=tarfile.SYMTYPE, linkname="../../outside"),
        member("./etc/link", type=tarfile.SYMTYPE, linkname=""),
        member("./etc/hard", type=tarfile.LNKTYPE, linkname="../../etc/shadow"),
        member("./etc/hard", type=tarfile.LNKTYPE, linkname="./etc/nowhere"),
        member("./dev/sda", type=tarfile.BLKTYPE),
        member("./run/fifo", type=tarfile.FIFOTYPE),
    ],
    ids=lambda value: value[0].name.replace("\n", "\\n") if isinstance(value, tuple) else None,
)
def test_a_hostile_package_is_refused(tmp_path: Path, store: Store, hostile: tuple[tarfile.TarInfo, bytes]) -> None:
    with pytest.raises(deb.BadPackage):
        unpacked(tmp_path, store, hostile)
    assert list((store.root / "packages").iterdir()) == []


def test_nothing_is_written_through_an_absolute_link(tmp_path: Path, store: Store) -> None:
    """The classic escape: a link to somewhere of the host, then a file below it."""
    outside = tmp_path / "outside"
    outside.mkdir()
    package = unpacked(
        tmp_path,
        store,
        member("./usr/trap", type=tarfile.SYMTYPE, linkname=str(outside)),
        member("./usr/trap/file", b"x"),
    )
    with pytest.raises(PathConflict, match="usr/trap"):
        Tree(package.entries)
    assert list(outside.iterdir()) == []


def test_what_is_no_package_is_refused(tmp_path: Path, store: Store) -> None:
    path = tmp_path / "page.deb"
    path.write_text("<html>404</html>")
    with pytest.raises(deb.BadPackage, match="not a Debian package"):
        deb.unpack(path, "0" * 64, store)


def test_a_control_part_of_links_is_refused(tmp_path: Path, store: Store) -> None:
    """A link that leads to itself must not make the reader run in circles."""
    loop = debmaker.tar([member("./control", type=tarfile.LNKTYPE, linkname="./control")])
    path = tmp_path / "example.deb"
    path.write_bytes(debmaker.ar([("debian-binary", b"2.0\n"), ("control.tar", loop), ("data.tar", debmaker.tar([]))]))
    with pytest.raises(deb.BadPackage):
        deb.unpack(path, "0" * 64, store)


@pytest.mark.parametrize("size", ["-60", "+1", "1_0", "", "0x10", "-0"])
def test_a_size_that_is_no_number_is_refused(tmp_path: Path, store: Store, size: str) -> None:
    """A size of -60 leads back to the header that said it, for ever."""
    path = tmp_path / "example.deb"
    debmaker.deb(path, [member("./etc/x", b"x")])
    raw = path.read_bytes()
    path.write_bytes(raw[: 8 + 48] + f"{size:<10}".encode() + raw[8 + 58 :])
    with pytest.raises(deb.BadPackage, match="no number"):
        deb.unpack(path, "0" * 64, store)
