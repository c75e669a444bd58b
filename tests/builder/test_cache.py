"""The store's contents: counted, and pruned down to what locks name, never under a running build."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from builder.debian.lockfile import Lock
from builder.debian.tools import Tools, our_lock
from builder.pipeline import cache
from builder.pipeline.cache import Holding
from terminal import Failure
from tests.builder.smallworld import World

pytestmark = pytest.mark.slow


@pytest.fixture
def world(tmp_path: Path, closure: Tools) -> World:
    """One whose packages are all in the store: base and tool by the small definition's lock, node by the other."""
    world = World(tmp_path, closure)
    assert world.container("--quiet") == 0
    assert world.image("--quiet", output=tmp_path / "image-out") == 0
    return world


def small_lock(world: World) -> Lock:
    return Lock.load(world.small.with_suffix(".lock"))


def counts(holdings: list[Holding]) -> dict[str, int]:
    return {holding.kind: holding.artifacts for holding in holdings}


def names(world: World, kind: str) -> set[str]:
    return {path.name for path in (world.store / kind).iterdir()}


def test_holdings_are_counted_by_kind(world: World) -> None:
    found = cache.holdings(world.open_store())
    assert counts(found) == {"downloads": 3, "packages": 3, "tools": 1, "steps": 4}
    downloads = sum(package.size for package in world.locked.values())
    assert next(holding.bytes for holding in found if holding.kind == "downloads") == downloads


def test_pruning_keeps_what_the_locks_name(world: World) -> None:
    gone = cache.prune(world.open_store(), [small_lock(world)], our_lock())
    assert counts(gone) == {"downloads": 1, "packages": 1, "tools": 0, "steps": 4}
    assert gone[0].bytes == world.locked["node"].size
    assert names(world, "downloads") == {f"{world.locked[name].sha256}.deb" for name in ("base", "tool")}
    assert world.container("--quiet", "--force", "--mirror", "file:///nowhere") == 0


def test_pruning_again_finds_nothing(world: World) -> None:
    cache.prune(world.open_store(), [small_lock(world)], our_lock())
    assert set(counts(cache.prune(world.open_store(), [small_lock(world)], our_lock())).values()) == {0}


def test_another_closure_goes(world: World) -> None:
    (world.store / "tools/old").mkdir()
    cache.prune(world.open_store(), [], our_lock())
    assert "old" not in names(world, "tools")
    cache.prune(world.open_store(), [], replace(our_lock(), epoch=1))
    assert names(world, "tools") == set()


def test_damaged_artifacts_go_even_if_they_are_named(world: World) -> None:
    """The hint of a build that met one leads here."""
    (unpacked,) = [
        path for path in (world.store / "packages").iterdir() if path.name.startswith(world.locked["tool"].sha256[:40])
    ]
    (unpacked / "data.tar").write_bytes(b"short")
    (world.store / "downloads" / f"{world.locked['base'].sha256}.deb").write_bytes(b"short")
    gone = cache.prune(world.open_store(), [small_lock(world), Lock.load(world.node.with_suffix(".lock"))], our_lock())
    assert counts(gone) == {"downloads": 1, "packages": 1, "tools": 0, "steps": 4}
    assert world.container("--quiet", "--force") == 0


def test_a_running_build_is_not_robbed(world: World) -> None:
    store = world.open_store()
    before = cache.holdings(store)
    running = (cache.in_use(store), cache.in_use(world.open_store()))  # builds do not mind each other
    with running[0], running[1], pytest.raises(Failure, match="a build is running") as failure:
        cache.prune(world.open_store(), [], our_lock())
    assert "prune when it has ended" in str(failure.value.hint)
    assert cache.holdings(store) == before
    assert list((world.store / "tmp").iterdir()) == []
