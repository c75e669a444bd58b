"""Packages of a lock: unpacked once, in the lock's order, from the mirror only when they must be."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.core.store import Store
from builder.debian.deb import BadPackage
from builder.debian.lockfile import Lock, LockedPackage
from builder.debian.mirror import Mirror, from_root
from builder.debian.packages import obtain
from tests.builder.debmaker import deb, member

NAMES = ["one", "two", "three"]


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    pool = tmp_path / "mirror/debian/pool"
    pool.mkdir(parents=True)
    return pool


@pytest.fixture
def lock(pool: Path) -> Lock:
    packages = []
    for name in NAMES:
        sha256 = deb(pool / f"{name}.deb", [member(f"./usr/share/{name}", name.encode() * 99)], name)
        size = (pool / f"{name}.deb").stat().st_size
        packages.append(
            LockedPackage(name, "1.0", "amd64", "debian", "t", f"pool/{name}.deb", sha256, size, name, "1.0")
        )
    return Lock("amd64", 1, "0" * 64, (), tuple(packages))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def nowhere() -> Mirror:
    raise AssertionError("the mirror was used")


def test_they_come_in_the_locks_order_with_what_is_in_them(lock: Lock, store: Store, pool: Path) -> None:
    details: list[str] = []
    found = obtain(lock, store, lambda: from_root(f"file://{pool.parents[1]}", "test"), details.append)
    assert [package.name for package in found] == NAMES
    assert [entry.content.read() for package in found for entry in package.entries] == [n.encode() * 99 for n in NAMES]
    assert any("unpacked 3 of 3" in line for line in details)


def test_the_second_time_needs_neither_mirror_nor_downloads(lock: Lock, store: Store, pool: Path) -> None:
    obtain(lock, store, lambda: from_root(f"file://{pool.parents[1]}", "test"))
    for path in (store.root / "downloads").iterdir():
        path.unlink()
    assert [package.name for package in obtain(lock, store, nowhere)] == NAMES


def test_one_damaged_file_spoils_no_other(lock: Lock, store: Store, pool: Path) -> None:
    """Its name and hash are reported, it is removed, and the next time only it is fetched."""
    mirror = from_root(f"file://{pool.parents[1]}", "test")
    bad = lock.packages[1]
    path = store.path("downloads", f"{bad.sha256}.deb")
    path.write_bytes(b"x" * bad.size)
    with pytest.raises(BadPackage, match=f"the stored file of two is damaged.*{bad.sha256}") as failure:
        obtain(lock, store, lambda: mirror)
    assert "build again" in str(failure.value.hint)
    assert not path.exists()
    assert len(obtain(lock, store, lambda: mirror)) == 3
