"""From a request to a lock, by the closure's apt on a small signed archive."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from builder.core import data
from builder.debian.apt import AptFailure, Programs, Suite
from builder.debian.lockfile import Lock
from builder.debian.mirror import Mirror
from builder.definition import definition
from builder.lock.resolve import Request, ResolveFailure, Want, check, describe, lock_command, resolve

if TYPE_CHECKING:
    from tests.builder.conftest import Archive, Signer

STABLE, NEXT = Suite("stable"), Suite("next", pinned=True)


def ask(*packages: str | Want, assume: tuple[str, ...] = ()) -> Request:
    wants = tuple(Want(package) if isinstance(package, str) else package for package in packages)
    return Request("amd64", (STABLE, NEXT), wants, assume)


class Resolver:
    """The archive of the tests and what to resolve against it."""

    def __init__(self, archive: Archive, signer: Signer, programs: Programs, state: Path) -> None:
        self.archive, self._signer, self._programs, self._state = archive, signer, programs, state
        archive.add("stable", "tool", Depends="lib (>= 1.0), setup | other", Recommends="manual", Pre_Depends="shell")
        archive.add("stable", "lib", Source="libsource (1.0)")
        archive.add("stable", "shell", Essential="yes")
        archive.add("stable", "setup", Depends="huge-interpreter", Provides="setup-api (= 2)")
        archive.add("stable", "huge-interpreter")
        archive.add("stable", "manual")
        archive.add("stable", "base", Essential="yes")
        archive.add("stable", "store", "3.5.16-4", Depends="setup")
        archive.add("stable", "caller", Depends="setup-api (>= 2), lib")
        archive.add("next", "store", "3.5.30-2", Depends="lib (>= 0.9)")
        archive.add("next", "lib", "9.0-1")
        self.write()

    def write(self) -> None:
        self.archive.write(self._signer)

    def __call__(self, request: Request) -> Lock:
        return resolve(request, programs=self._programs, mirror=self.mirror, state=self._state)

    def command(self, request: Request, path: Path, *, check_only: bool = False) -> str:
        found = lock_command(
            request, path, programs=self._programs, mirror=self.mirror, state=self._state, check_only=check_only
        )
        return describe(found)

    @property
    def mirror(self) -> Mirror:
        return Mirror({"debian": self.archive.url}, "the test")


@pytest.fixture
def resolver(archive: Archive, signer: Signer, programs: Programs, tmp_path: Path) -> Resolver:
    return Resolver(archive, signer, programs, tmp_path / "state")


def names(lock: Lock) -> list[str]:
    return [package.name for package in lock.packages]


def test_what_is_requested_comes_with_its_dependencies_and_nothing_else(resolver: Resolver) -> None:
    lock = resolver(ask("tool"))
    # No recommendation, and no essential package that nothing needs.
    assert names(lock) == ["huge-interpreter", "lib", "setup", "shell", "tool"]


def test_what_is_assumed_is_not_pulled_in_nor_what_only_it_needs(resolver: Resolver) -> None:
    assert names(resolver(ask("tool", assume=("setup",)))) == ["lib", "shell", "tool"]
    assert names(resolver(ask("tool", assume=("setup", "shell", "lib")))) == ["tool"]


def test_what_is_assumed_provides_what_the_real_one_would(resolver: Resolver) -> None:
    assert names(resolver(ask("caller", assume=("setup",)))) == ["caller", "lib"]


def test_a_virtual_name_can_be_assumed_and_an_unknown_one_cannot(resolver: Resolver) -> None:
    resolver.archive.add("stable", "loose", Depends="setup-api")
    resolver.write()
    assert names(resolver(ask("loose", assume=("setup-api",)))) == ["loose"]
    with pytest.raises(ResolveFailure, match="'setpu' is to be assumed, but no suite knows it"):
        resolver(ask("loose", assume=("setpu",)))


def test_a_package_from_another_suite_takes_its_dependencies_from_the_main_one(resolver: Resolver) -> None:
    lock = resolver(ask(Want("store", "next")))
    assert [(package.name, package.version, package.suite) for package in lock.packages] == [
        ("lib", "1.0-1", "stable"),
        ("store", "3.5.30-2", "next"),
    ]
    store = resolver(ask("store")).package("store")
    assert store is not None
    assert store.version == "3.5.16-4"


def test_the_newest_version_of_the_main_suites_wins(resolver: Resolver) -> None:
    resolver.archive.add("stable-security", "lib", "1.0-1+deb1")
    resolver.write()
    request = replace(ask("lib"), suites=(STABLE, Suite("stable-security"), NEXT))
    package = resolver(request).package("lib")
    assert package is not None
    assert (package.version, package.suite) == ("1.0-1+deb1", "stable-security")


def test_the_lock_says_where_each_package_is_and_what_it_hashes_to(resolver: Resolver) -> None:
    lock = resolver(ask("lib"))
    (package,) = lock.packages
    content = (resolver.archive.root / package.path).read_bytes()
    assert (package.sha256, package.size) == (hashlib.sha256(content).hexdigest(), len(content))
    assert (package.source, package.source_version) == ("libsource", "1.0")
    assert package.archive == "debian"
    assert lock.epoch == max(stamp.date for stamp in lock.indexes)
    for stamp in lock.indexes:
        assert stamp.sha256 == hashlib.sha256((resolver.archive.root / stamp.path).read_bytes()).hexdigest()
    assert Lock.parse(lock.dump()) == replace(lock, indexes=tuple(sorted(lock.indexes, key=lambda each: each.path)))


def test_an_unknown_package_is_named(resolver: Resolver) -> None:
    with pytest.raises(AptFailure, match="no-such-thing") as caught:
        resolver(ask("no-such-thing"))
    assert "misspelt" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (ask("tool", assume=("tool",)), "both requested and assumed"),
        (ask(Want("tool", "sid")), "requested from the suite 'sid'"),
    ],
)
def test_a_request_that_contradicts_itself_is_refused_before_any_download(
    request_: Request, words: str, tmp_path: Path
) -> None:
    nowhere = Programs(("/nonexistent",), tmp_path, tmp_path)
    with pytest.raises(ResolveFailure, match=words):
        resolve(request_, programs=nowhere, mirror=Mirror({}), state=tmp_path)


def test_the_command_prints_what_changes_and_writes_it(resolver: Resolver, tmp_path: Path) -> None:
    path = tmp_path / "node.lock"
    assert "added  lib     1.0-1  1 kB  stable" in resolver.command(ask("lib", "manual"), path)
    resolver.archive.add("stable", "lib", "1.1-1")
    resolver.write()
    before = path.read_text()
    text = "updated  lib     1.0-1 -> 1.1-1  1 kB  stable\nremoved  manual  1.0-1           1 kB  stable"
    assert resolver.command(ask("lib"), path, check_only=True) == text
    assert path.read_text() == before
    assert resolver.command(ask("lib"), path) == text
    assert resolver.command(ask("lib"), path) == ""
    assert sorted(each.name for each in tmp_path.glob("node.lock*")) == ["node.lock"]


def test_a_request_has_one_fingerprint_whatever_the_order_of_its_names() -> None:
    assert ask("a1", "b1", assume=("x1", "y1")).fingerprint == ask("b1", "a1", assume=("y1", "x1")).fingerprint
    assert ask("a1").fingerprint != ask(Want("a1", "next")).fingerprint
    assert ask("a1").fingerprint != ask("a1", assume=("b1",)).fingerprint


@pytest.mark.parametrize("name", ["node", "tools"])
def test_the_committed_locks_answer_the_committed_definitions(name: str) -> None:
    path = data.image() / f"{name}.lock"
    check(Lock.load(path), Request.of(definition.load(path.with_suffix(".yaml"))), where=str(path))


def test_a_lock_for_another_request_is_refused() -> None:
    lock = Lock("amd64", 0, ask("a1").fingerprint, (), ())
    check(lock, ask("a1"), where="here")
    with pytest.raises(ResolveFailure, match="another list of packages") as caught:
        check(lock, ask("a1", "b1"), where="here")
    assert "osbuild lock" in str(caught.value.hint)


def test_the_tools_compile_for_the_very_python_that_the_node_has() -> None:
    found = [Lock.load(data.image() / f"{name}.lock").package("python3.13") for name in ("node", "tools")]
    assert found[0] is not None
    assert found[0] == found[1]
