"""Where the archives are: the host's apt sources in all their forms, and what the user says."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.debian.mirror import (
    Mirror,
    MirrorFailure,
    Source,
    find,
    parse_deb822,
    parse_one_line,
    read_options,
    stanzas,
)

DEB822 = """# comment
Types: deb deb-src
URIs: http://one.example/debian/
Suites: stable stable-updates
# another
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 mDMEXampleKey

Enabled: no
Types: deb
URIs: http://off.example/debian
Suites: stable

Types: deb-src
URIs: http://src.example/debian
Suites: stable

Types: deb
URIs: http://one.example/debian-security
Suites: stable-security
"""


def host(tmp_path: Path, **files: str) -> Path:
    """An ``/etc/apt`` with ``files`` (``sources_list`` is ``sources.list``, ``d_x_list`` is ``sources.list.d/x.list``)."""
    apt = tmp_path / "apt"
    (apt / "sources.list.d").mkdir(parents=True)
    (apt / "apt.conf.d").mkdir()
    places = {"sources_list": "sources.list", "debian": "sources.list.d/debian.sources", "conf": "apt.conf.d/99mine"}
    for name, text in files.items():
        (apt / places.get(name, f"sources.list.d/{name}.list")).write_text(text)
    return apt


def test_deb822_sources_of_a_modern_host(tmp_path: Path) -> None:
    mirror = find(environment={}, apt=host(tmp_path, debian=DEB822))
    assert mirror.url("debian", "pool/x.deb") == "http://one.example/debian/pool/x.deb"
    assert mirror.url("debian-security", "pool/x.deb") == "http://one.example/debian-security/pool/x.deb"


def test_only_enabled_binary_stanzas_count() -> None:
    assert list(parse_deb822(DEB822)) == [
        Source("http://one.example/debian/", ("stable", "stable-updates")),
        Source("http://one.example/debian-security", ("stable-security",)),
    ]


def test_one_line_sources_with_options_and_comments(tmp_path: Path) -> None:
    text = """
# deb http://commented.example/debian stable main
deb [ arch=amd64,arm64 signed-by=/usr/share/keyrings/x.gpg ] http://two.example/debian stable main contrib # yes
deb-src http://two.example/debian stable main
deb [trusted=yes] http://security.two.example/ stable-security main
deb cdrom:[Debian GNU/Linux 12.0.0]/ bookworm main
"""
    assert [source.suites for source in parse_one_line(text)][:2] == [("stable",), ("stable-security",)]
    mirror = find(environment={}, apt=host(tmp_path, sources_list=text))
    assert mirror.roots == {"debian": "http://two.example/debian", "debian-security": "http://security.two.example"}


def test_security_is_looked_for_beside_debian_when_a_host_does_not_list_it(tmp_path: Path) -> None:
    mirror = find(environment={}, apt=host(tmp_path, sources_list="deb https://m.example/mirror/debian stable main\n"))
    assert mirror.root("debian-security") == "https://m.example/mirror/debian-security"


def test_foreign_archives_and_backports_are_passed_over(tmp_path: Path) -> None:
    apt = host(
        tmp_path,
        a="deb https://apt.example/tool stable main\ndeb mirror+file:/etc/list/debian stable main\n",
        b="deb http://three.example/debian stable-backports main\n",
    )
    assert find(environment={}, apt=apt).root("debian") == "http://three.example/debian"


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("http://m.example", "http://m.example/debian-security/f"),
        ("https://m.example/a/", "https://m.example/a/debian-security/f"),
        ("file:///srv/mirror", "file:///srv/mirror/debian-security/f"),
        (
            "http://s.example/archive/{archive}/20260101T000000Z/",
            "http://s.example/archive/debian-security/20260101T000000Z/f",
        ),
    ],
)
def test_a_mirror_that_the_user_names(address: str, expected: str, tmp_path: Path) -> None:
    assert find(address, environment={}).url("debian-security", "f") == expected
    assert find(environment={"OSBUILD_MIRROR": address}).url("debian-security", "f") == expected
    assert find(address, environment={"OSBUILD_MIRROR": "http://other.example"}).url("debian-security", "f") == expected


@pytest.mark.parametrize(
    "address", ["m.example", "ftp://m.example", "http://", "file://", "http://user:secret@m.example"]
)
def test_an_address_that_is_none_is_refused_with_its_origin(address: str) -> None:
    with pytest.raises(MirrorFailure) as caught:
        find(environment={"OSBUILD_MIRROR": address})
    assert caught.value.where == "OSBUILD_MIRROR"
    assert "secret" not in str(caught.value)
    with pytest.raises(MirrorFailure) as caught:
        find(address)
    assert caught.value.where == "--mirror"


def test_a_host_without_debian_sources_gets_the_next_step(tmp_path: Path) -> None:
    with pytest.raises(MirrorFailure, match="no Debian archive") as caught:
        find(environment={}, apt=tmp_path / "none")
    assert caught.value.where == str(tmp_path / "none")
    assert "--mirror" in str(caught.value.hint)
    assert "OSBUILD_MIRROR" in str(caught.value.hint)


def test_an_archive_that_a_mirror_lacks() -> None:
    with pytest.raises(MirrorFailure, match="'debian-ports'"):
        Mirror({"debian": "http://m.example/debian"}).url("debian-ports", "x")


def test_the_hosts_proxy_and_date_checks_come_with_its_sources(tmp_path: Path) -> None:
    conf = """
// Acquire::http::Proxy "http://commented.example";
Acquire::http::Proxy "http://proxy.example:3142/";
acquire::check-valid-until false;
APT::Get::AllowUnauthenticated "true";
"""
    apt = host(tmp_path, debian=DEB822, conf=conf)
    expected = {"Acquire::http::Proxy": "http://proxy.example:3142/", "Acquire::Check-Valid-Until": "false"}
    assert read_options(apt) == expected
    assert find(environment={}, apt=apt).apt_options == expected
    assert find("http://m.example", environment={}, apt=apt).apt_options == {}


@given(st.text(alphabet="aA:- \t\n#[]./=debURIs", max_size=80))
def test_no_text_breaks_the_parsers(text: str) -> None:
    list(parse_one_line(text))
    list(parse_deb822(text))
    assert all(stanza for stanza in stanzas(text))


def test_a_snapshot_stands_behind_the_mirror() -> None:
    """Named by an option or the environment, and kept apart: it is no mirror of its own."""
    found = find("http://m.example", "http://s.example/20261123", environment={})
    assert found.snapshot is not None
    assert (found.root("debian"), found.snapshot.root("debian")) == (
        "http://m.example/debian",
        "http://s.example/20261123/debian",
    )
    named = find("http://m.example", environment={"OSBUILD_SNAPSHOT": "http://v.example"}).snapshot
    assert named is not None
    assert named.origin == "OSBUILD_SNAPSHOT"
    assert find("http://m.example", environment={}).snapshot is None
    with pytest.raises(MirrorFailure, match="not the address"):
        find("http://m.example", "elsewhere", environment={})
