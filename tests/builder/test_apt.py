"""apt with private state: its input, its answers, and that it trusts no one but the keyring's owner."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.debian.apt import (
    AptFailure,
    Chosen,
    PrivateApt,
    Programs,
    Suite,
    compare_versions,
    configuration,
    host_programs,
    parse_simulation,
    preferences,
    sources,
)
from builder.debian.mirror import Mirror
from builder.debian.tools import Tools

if TYPE_CHECKING:
    from tests.builder.conftest import Archive, Signer

ONE = Suite("one")


def test_the_simulation_is_read() -> None:
    text = """NOTE: This is only a simulation!
Inst gcc-14-base (14.2.0-19 Debian:13.7/stable [amd64])
Inst libc6 (2.41-12+deb13u4 Debian:13.7/stable, Debian-Security:13/stable-security [amd64]) []
Inst tool:amd64 [1:1.0-1] (1:2.0~rc1-1 Debian:13.7/stable [all]) [waits ]
Conf libc6 (2.41-12+deb13u4 Debian:13.7/stable [amd64])
"""
    assert list(parse_simulation(text)) == [
        Chosen("gcc-14-base", "14.2.0-19", "amd64"),
        Chosen("libc6", "2.41-12+deb13u4", "amd64"),
        Chosen("tool", "1:2.0~rc1-1", "all"),
    ]


def test_versions_are_ordered_as_the_policy_says() -> None:
    ordered = [
        "0~~",
        "0~",
        "0",
        "1.0~rc1-1",
        "1.0-1~bpo1",
        "1.0-1",
        "1.0-1+b1",
        "1.0a-1",
        "1.0+x-1",
        "1.2-1",
        "1.10-1",
        "1:0.1",
    ]
    for (i, left), (j, right) in itertools.product(enumerate(ordered), repeat=2):
        assert (compare_versions(left, right) > 0) == (i > j), (left, right)
        assert (compare_versions(left, right) < 0) == (i < j), (left, right)


_VERSIONS = st.from_regex(r"([0-9]:)?[0-9][0-9a-z.+~]{0,6}(-[0-9a-z.+~]{1,4})?", fullmatch=True)


@given(_VERSIONS, _VERSIONS, _VERSIONS)
def test_the_order_of_versions_is_an_order(one: str, two: str, three: str) -> None:
    def sign(number: int) -> int:
        return (number > 0) - (number < 0)

    assert compare_versions(one, one) == 0
    assert sign(compare_versions(one, two)) == -sign(compare_versions(two, one))
    if compare_versions(one, two) <= 0 and compare_versions(two, three) <= 0:
        assert compare_versions(one, three) <= 0


def test_every_path_of_the_configuration_is_private(tmp_path: Path) -> None:
    programs = Programs(("apt-get",), Path("/closure/methods"), Path("/closure/keyring.pgp"))
    text = configuration(tmp_path, programs, "amd64", {})
    paths = re.findall(r'^Dir::(?!Ignore)\S+ "(.*)";$', text, re.MULTILINE)
    assert len(paths) > 15
    for path in paths:
        assert path.startswith((str(tmp_path), "/closure/")) or path == "/bin/false"


def test_every_source_names_its_keyring_and_none_is_trusted_without() -> None:
    suites = [Suite("one"), Suite("one-security", "debian-security", ("main", "contrib"))]
    mirror = Mirror({"debian": "http://m/debian", "debian-security": "http://m/sec"})
    text = sources(suites, mirror, Path("/k.pgp"), "amd64")
    assert text.count("Signed-By: /k.pgp\n") == 2
    assert "URIs: http://m/sec\nSuites: one-security\nComponents: main contrib\n" in text
    assert "trusted" not in text.lower()


def test_a_pinned_suite_gives_only_what_is_requested_from_it() -> None:
    text = preferences([ONE, Suite("next", pinned=True)], {"etcd": "next"}, ["perl", "dpkg"])
    blocks = text.split("\n\n")
    assert "Package: *\nPin: release n=next\nPin-Priority: -1" in blocks
    assert "Package: dpkg perl\nPin: release n=one\nPin-Priority: -1" in blocks
    assert "Package: etcd\nPin: release n=next\nPin-Priority: 995" in text


def _apt(archive: Archive, programs: Programs, tmp_path: Path, *, allow_expired: bool = False) -> PrivateApt:
    mirror = Mirror({"debian": archive.url}, "the test")
    return PrivateApt(tmp_path / "state", programs, mirror, [ONE], "amd64", allow_expired=allow_expired)


def test_a_signed_archive_is_read(archive: Archive, signer: Signer, programs: Programs, tmp_path: Path) -> None:
    archive.add("one", "tool", Depends="lib")
    archive.add("one", "lib")
    archive.write(signer)
    apt = _apt(archive, programs, tmp_path)
    apt.update()
    (index,) = apt.indexes()
    assert (index.path, index.suite) == ("dists/one/main/binary-amd64/Packages", ONE)
    assert [name for name, _ in index.names()] == ["tool", "lib"]
    assert {package.name for package in apt.resolve(["tool"], "")} == {"tool", "lib"}


def test_an_unsigned_archive_is_refused(archive: Archive, programs: Programs, tmp_path: Path) -> None:
    archive.add("one", "tool")
    archive.write(None)
    with pytest.raises(AptFailure, match="not signed") as caught:
        _apt(archive, programs, tmp_path).update()
    assert "do not use it" in str(caught.value.hint)


def test_an_archive_signed_by_a_stranger_is_refused(
    archive: Archive, stranger: Signer, programs: Programs, tmp_path: Path
) -> None:
    archive.add("one", "tool")
    archive.write(stranger)
    with pytest.raises(AptFailure, match=r"NO_PUBKEY|not signed") as caught:
        _apt(archive, programs, tmp_path).update()
    assert "not signed by the Debian archive" in str(caught.value.hint)


def test_debians_own_keyring_refuses_our_test_key(
    archive: Archive, signer: Signer, closure: Tools, tmp_path: Path
) -> None:
    archive.add("one", "tool")
    archive.write(signer)
    with pytest.raises(AptFailure):
        _apt(archive, closure.apt(), tmp_path).update()


def test_a_release_that_was_changed_after_signing_is_refused(
    archive: Archive, signer: Signer, programs: Programs, tmp_path: Path
) -> None:
    archive.add("one", "tool")
    archive.write(signer)
    release = archive.root / "dists/one/InRelease"
    release.write_text(release.read_text().replace("Origin: Test", "Origin: Evil"))
    with pytest.raises(AptFailure):
        _apt(archive, programs, tmp_path).update()


def test_an_index_that_does_not_match_its_release_is_refused(
    archive: Archive, signer: Signer, programs: Programs, tmp_path: Path
) -> None:
    archive.add("one", "tool")
    archive.write(signer)
    packages = archive.root / "dists/one/main/binary-amd64/Packages"
    packages.write_text(packages.read_text().replace("tool", "evil"))
    with pytest.raises(AptFailure):
        _apt(archive, programs, tmp_path).update()


def test_an_expired_archive_needs_an_explicit_word(
    archive: Archive, signer: Signer, programs: Programs, tmp_path: Path
) -> None:
    archive.add("one", "tool")
    archive.write(signer, age=7200, valid=3600)
    with pytest.raises(AptFailure, match="expired") as caught:
        _apt(archive, programs, tmp_path).update()
    assert "--allow-expired" in str(caught.value.hint)
    _apt(archive, programs, tmp_path, allow_expired=True).update()


def test_a_mirror_that_is_gone_is_reported_with_the_next_step(
    archive: Archive, programs: Programs, tmp_path: Path
) -> None:
    with pytest.raises(AptFailure, match="could not fetch and verify") as caught:
        _apt(archive, programs, tmp_path).update()
    assert caught.value.where == "the test"
    assert "--mirror" in str(caught.value.hint)


def test_a_package_that_needs_what_is_not_there_is_named(
    archive: Archive, signer: Signer, programs: Programs, tmp_path: Path
) -> None:
    archive.add("one", "tool", Depends="missing-library (>= 2)")
    archive.write(signer)
    apt = _apt(archive, programs, tmp_path)
    apt.update()
    with pytest.raises(AptFailure, match="missing-library"):
        apt.resolve(["tool"], "")


def test_a_host_without_debians_keyring_cannot_lend_its_apt(tmp_path: Path) -> None:
    with pytest.raises(AptFailure, match="keyring"):
        host_programs(tmp_path)


def test_a_program_that_is_not_there_is_reported(archive: Archive, tmp_path: Path) -> None:
    programs = Programs((str(tmp_path / "no-apt"),), tmp_path, tmp_path / "keyring")
    with pytest.raises(AptFailure, match="cannot be started"):
        _apt(archive, programs, tmp_path).update()
